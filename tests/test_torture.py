"""The torture suite in small numbers: random configurations, disks, and runs that share a folder."""

from pathlib import Path

import pytest
from torture.disks import can_have_disks, full_disks, limited_files, read_only_disks
from torture.fuzz import invalid_trials, valid_trials
from torture.pairs import shared_folders
from torture.trial import Trial, report


@pytest.mark.filterwarnings("ignore")
def test_valid_configurations_train() -> None:
    # A seed that has most algorithms among its first eight, and goals.
    assert [trial for trial in valid_trials(8, seed=136) if trial.fault is not None] == []


def test_invalid_configurations_get_clear_errors() -> None:
    assert [trial for trial in invalid_trials(40) if trial.fault is not None] == []


def test_faults_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert report("invalid", [Trial("trial 0: a"), Trial("trial 1: b", "no error")])
    assert capsys.readouterr().out == "invalid: 2 trials, 1 faults\nFAULT: trial 1: b: no error\n"
    assert not report("valid", [Trial("trial 0: a")])


@pytest.mark.slow
def test_disks_that_are_full_or_read_only(tmp_path: Path) -> None:
    if not can_have_disks(tmp_path):
        pytest.skip("mounting disks takes root, on Linux")
    assert not report("full disks", full_disks(2, tmp_path / "full"))
    assert not report("read-only disks", read_only_disks(1, tmp_path / "read-only"))


@pytest.mark.slow
def test_files_that_cannot_grow(tmp_path: Path) -> None:
    assert not report("files that cannot grow", limited_files(1, tmp_path))


@pytest.mark.slow
def test_runs_that_share_a_folder(tmp_path: Path) -> None:
    assert not report("pairs", shared_folders(1, tmp_path))
