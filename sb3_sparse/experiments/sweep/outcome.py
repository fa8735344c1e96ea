"""Outcome of a run of a grid."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.results_folder import BusyError, ResultsFolder
from sb3_sparse.experiments.writing import write_text

FINISHED, FAILED, BUSY = "finished", "failed", "busy"
# Trains a run: takes it, the folder of results, a device and the command line to put on record. At the top of a module, so
# that other processes find it.
Train = Callable[[GridRun, Path, str, Sequence[str]], None]


@dataclass(frozen=True)
class Outcome:
    """
    What became of a run.

    :param run: Run
    :param state: "finished", "failed" or "busy": another grid is training it
    :param message: Why it failed
    """

    run: GridRun
    state: str
    message: str = ""


def attempt(train: Train, run: GridRun, results: Path, device: str, command: Sequence[str]) -> Outcome:
    """
    Train a run; an error ends this run only, and is written to its folder.

    :param train: Trains it
    :param run: Run
    :param results: Folder of results
    :param device: Device
    :param command: Command line to put on record
    """
    paths = ResultsFolder(results).run(run)
    try:
        train(run, results, device, command)
    except BusyError:
        return Outcome(run, BUSY)
    except Exception as error:
        message = _describe(error)
        try:
            write_text(paths.error, traceback.format_exc())
        except OSError as also:  # a full disk, most likely for the same reason
            message += f" (nor could {paths.error} be written: {also.strerror})"
        return Outcome(run, FAILED, message)
    return Outcome(run, FINISHED)


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
