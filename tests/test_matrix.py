"""The script that runs the tests against the oldest and the newest versions, with interpreters that install nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib")  # the script needs Python 3.11, too

ROOT = Path(__file__).parent.parent
# An interpreter whose environments are folders with itself in them: pip says what is installed, pytest what came out.
FAKE = r"""#!/bin/sh
case "$*" in
  -c*) echo 3.12.99 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *" pip install "*) echo "pip $*" >>{log}; grep -q "^torch==" "$(dirname "$0")/../../constraints.txt" || exit {status} ;;
  *" list "*) echo '[{{"name": "torch", "version": "2.8.0"}}, {{"name": "stable_baselines3", "version": "2.9.0"}}]' ;;
  *" pytest "*) echo "pytest $* threads=$OMP_NUM_THREADS" >>{log}
    for option; do case "$option" in --junitxml=*) echo '{junit}' >"${{option#*=}}" ;; esac; done
    exit {outcome} ;;
  *) exit 99 ;;
esac
"""
PASSED = '<testsuites><testsuite tests="7" failures="0" errors="0" skipped="2"/></testsuites>'
FAILED = '<testsuites><testsuite tests="7" failures="2" errors="1" skipped="1"/></testsuites>'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script reads, so that it writes elsewhere."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/matrix", "scripts/matrix.toml", "scripts/constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "scripts" / "matrix").chmod(0o755)
    return tmp_path


def write_interpreter(folder: Path, junit: str = PASSED, status: int = 0, outcome: int = 0) -> Path:
    path = folder / "fake-python"
    path.write_text(FAKE.format(log=folder / "log", junit=junit, status=status, outcome=outcome))
    path.chmod(0o755)
    return path


def matrix(checkout: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, checkout / "scripts" / "matrix", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=checkout, env={**os.environ, "OMP_NUM_THREADS": "8"})


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def table(output: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in output.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def dry_constraints(checkout: Path, row: str) -> list[str]:
    done = matrix(checkout, "--dry-run", "--rows", row)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "==" in line and not line.startswith("==")]


def test_dry_run_touches_nothing(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    done = matrix(
        checkout, "--dry-run", "--python", write_interpreter(checkout), "--torch-index", "https://a.b/cpu", "--", "-k", "sac"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(checkout.rglob("*")) == sorted([*before, checkout / "fake-python"])
    headings = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert headings == [f"== {row}, Python 3.12.99" for row in read_toml("scripts/matrix.toml")["rows"]]
    assert done.stdout.count("--extra-index-url https://a.b/cpu") >= 2 * len(headings)
    assert done.stdout.count(" -k sac tests/compatibility ") == len(headings)


def test_the_oldest_row_is_pinned_to_the_bounds_of_pyproject(checkout: Path) -> None:
    bounds = [bound.split(",")[0].replace(">=", "==") for bound in read_toml("pyproject.toml")["project"]["dependencies"]]
    assert len(bounds) > 4
    assert set(bounds) <= set(dry_constraints(checkout, "oldest"))


def test_bounds_that_are_raised_are_what_is_tested(checkout: Path) -> None:
    path = checkout / "pyproject.toml"
    path.write_text(
        path.read_text().replace('"numba>=0.61"', '"numba >= 0.70.1,<2"').replace('"gymnasium>=1.0,<2"', '"gymnasium>=1.10"')
    )
    constraints = dry_constraints(checkout, "oldest")
    assert "numba==0.70.1" in constraints and "gymnasium==1.10" in constraints


def test_of_several_bounds_the_highest_counts(checkout: Path) -> None:
    # The zoo's bound of SB3 is above the package's, and 2.10 is above 2.9.
    path = checkout / "pyproject.toml"
    path.write_text(path.read_text().replace("stable-baselines3>=2.9.2", "stable-baselines3>=2.10"))
    assert "stable-baselines3==2.10" in dry_constraints(checkout, "oldest-zoo")
    assert "stable-baselines3==2.9" in dry_constraints(checkout, "oldest")


def test_a_requirement_without_a_lower_bound_is_refused(checkout: Path) -> None:
    path = checkout / "pyproject.toml"
    path.write_text(path.read_text().replace('"numba>=0.61"', '"numba<2"'))
    done = matrix(checkout, "--dry-run", "--rows", "oldest")
    assert done.returncode != 0 and "'numba<2' in pyproject.toml has no lower bound" in done.stderr


def test_what_the_other_rows_are_pinned_to(checkout: Path) -> None:
    pins = [line for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines() if "==" in line]
    assert dry_constraints(checkout, "pinned") == pins
    assert dry_constraints(checkout, "newest") == []


def test_the_default_tests_exist() -> None:
    matrix = read_toml("scripts/matrix.toml")
    assert [path for path in matrix["tests"] if not (ROOT / path).exists()] == []


def test_a_row_that_passes(checkout: Path) -> None:
    done = matrix(checkout, "--rows", "oldest", "--python", write_interpreter(checkout), "--tests", "tests/a.py", "--", "-q")
    assert done.returncode == 0, done.stderr
    cells = table(done.stdout)["oldest"]
    assert cells[:3] == ["3.12.99", "2.8.0", "2.9.0"] and cells[-4:-1] == ["5", "0", "2"]
    log = (checkout / "log").read_text()
    assert f"-e {checkout}[" in log and "--no-deps dm_control" in log and "zoo" not in log
    assert log.splitlines()[-1].endswith("junit.xml -q tests/a.py threads=1")
    folder = checkout / ".matrix" / "oldest-3.12.99"
    assert (folder / "freeze.txt").read_text() == "stable-baselines3==2.9.0\ntorch==2.8.0\n"
    assert not (folder / "venv").exists()


def test_environments_are_kept_if_wanted(checkout: Path) -> None:
    matrix(checkout, "--rows", "oldest", "--keep", "--python", write_interpreter(checkout))
    assert (checkout / ".matrix" / "oldest-3.12.99" / "venv" / "bin" / "python").exists()


def test_a_row_that_cannot_be_installed_does_not_stop_the_others(checkout: Path) -> None:
    # The fake pip fails where torch is not pinned.
    done = matrix(checkout, "--rows", "newest", "pinned", "--python", write_interpreter(checkout, status=3))
    assert done.returncode == 1
    rows = table(done.stdout)
    assert rows["newest"][1:-1] == ["-"] * 9
    assert rows["pinned"][-4:-1] == ["5", "0", "2"]
    assert "newest, Python 3.12.99: " in done.stdout and "ended with status 3" in done.stdout
    assert "pinned, Python 3.12.99: /" not in done.stdout


def test_a_row_whose_tests_fail_does_not_stop_the_others(checkout: Path) -> None:
    done = matrix(checkout, "--rows", "oldest", "pinned", "--python", write_interpreter(checkout, junit=FAILED, outcome=1))
    assert done.returncode == 1
    assert [table(done.stdout)[row][-4:-1] for row in ("oldest", "pinned")] == [["3", "3", "1"]] * 2


def test_an_interpreter_that_does_not_exist_is_found_before_anything_is_installed(checkout: Path) -> None:
    done = matrix(checkout, "--python", write_interpreter(checkout), "python2.99")
    assert done.returncode != 0 and "'python2.99' does not run" in done.stderr
    assert not (checkout / ".matrix").exists() and not (checkout / "log").exists()


def test_a_row_that_does_not_exist(checkout: Path) -> None:
    done = matrix(checkout, "--rows", "old")
    assert done.returncode == 2 and "oldest" in done.stderr and not (checkout / ".matrix").exists()
