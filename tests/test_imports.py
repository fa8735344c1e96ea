"""What importing the package does, and what it leaves alone."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_registers_no_environments() -> None:
    # A user of Shimmy's own environments must not get others by importing a policy.
    listing = run("import gymnasium, sb3_sparse; print([i for i in gymnasium.registry if i.startswith('dm_control/')])")
    assert listing.strip() == "[]"


def test_importing_the_package_needs_no_extra() -> None:
    extras = {"dm_control", "shimmy", "rl_zoo3", "matplotlib", "rliable", "rich", "ray", "onnx", "numba", "ale_py"}
    loaded = run("import sys, sb3_sparse; print(*{name.split('.')[0] for name in sys.modules})").split()
    # SB3 itself imports these two where they are installed.
    assert not extras.intersection(loaded) - {"matplotlib", "rich"}


def test_hyperparameters_of_an_id_that_was_not_registered() -> None:
    pytest.importorskip("dm_control")
    code = (
        "from sb3_sparse import hyperparameters; print(hyperparameters('sac', 'dm_control/humanoid-run-v0')['target_entropy'])"
    )
    assert run(code).strip() == "-10.5"
