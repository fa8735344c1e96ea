"""Training computes the same bits in another process, and at another commit where scripts/fingerprints names one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HASHES = Path(__file__).parent / "fingerprints.py"


def hashes() -> dict[str, dict[str, str]]:
    command = [sys.executable, "-W", "ignore", str(HASHES)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_same_bits() -> None:
    reference = os.environ.get("FINGERPRINTS")
    expected = json.loads(Path(reference).read_text()) if reference else hashes()
    assert hashes() == expected
