"""Runs what is missing of a grid."""

import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.outcome import BUSY, FAILED, Outcome, Train
from sb3_sparse.experiments.sweep.places import Place
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder
from sb3_sparse.experiments.sweep.sweep_progress import SweepProgress, describe

_BUSY_SECONDS = 10.0


class SweepError(ValueError):
    """Some runs of a grid failed; all others are done."""


def sweep(grid: Grid, results: Path, place: Place, train: Train, command: Sequence[str] | None = None) -> ResultsFolder:
    """
    Run what is missing of a grid, then write the table of all runs in the folder. A run that fails ends by itself; the
    others go on.

    :param grid: Grid
    :param results: Folder of results
    :param place: Where runs go
    :param train: Trains one
    :param command: Command line to put on record, this process's if None
    :return: The folder
    :raises SweepError: if runs failed, at the end.
    :raises ValueError: if the folder cannot be used, before anything is trained.
    """
    folder = ResultsFolder(results)
    missing = [run for run in grid.runs if not folder.run(run).is_finished]
    typed = list(command if command is not None else sys.orig_argv)
    if missing:
        place.check()
    folder.make(version("sb3-sparse"))
    folder.note_grid(grid.name, {"stem": grid.stem, "budget": grid.budget, "command": typed, "source": grid.source})
    print(f"{grid.title}: {describe(grid.runs)}; {len(grid.runs) - len(missing)} are done.", flush=True)
    failed: list[Outcome] = []
    try:
        failed = _train_all(missing, folder, place, train, typed, done=len(grid.runs) - len(missing))
    finally:
        folder.collect()
    print(f"Results table: {folder.table}", flush=True)
    if failed:
        raise SweepError(_describe(failed, len(grid.runs), folder))
    return folder


def _train_all(
    runs: list[GridRun], folder: ResultsFolder, place: Place, train: Train, command: Sequence[str], done: int
) -> list[Outcome]:
    failed: list[Outcome] = []
    if not runs:
        return failed
    with SweepProgress({run.id: (run, folder.run(run)) for run in runs}, done) as progress:
        while runs:
            busy = []
            for outcome in place.train_all(train, runs, folder.path, command, progress.tick):
                progress.ended(outcome)
                failed += [outcome] if outcome.state == FAILED else []
                busy += [outcome.run] if outcome.state == BUSY else []
            runs = busy
            if runs:
                time.sleep(_BUSY_SECONDS)
    return failed


def _describe(failed: Sequence[Outcome], total: int, folder: ResultsFolder) -> str:
    lines = [f"{len(failed)} of {total} runs failed; what is finished is kept, and the same command tries the others again."]
    for outcome in failed:
        error = folder.run(outcome.run).error
        lines.append(f"  {outcome.run.id}: {outcome.message}{f' ({error})' if error.exists() else ''}")
    return "\n".join(lines)
