"""Commands as users type them, with the package installed from its wheel."""

import os
import subprocess
import sys
from pathlib import Path


def run(site: Path, folder: Path, *arguments: str, fails: bool = False, **variables: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **variables}
    env.pop("MUJOCO_GL", None)  # other tests set it, users need not
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr
