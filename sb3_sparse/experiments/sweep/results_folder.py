"""The folder that grids leave their results in: one folder per run, whichever grids it belongs to, and one table."""

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.grid_table import Lines, read_table, write_table
from sb3_sparse.experiments.writing import write_text

LAYOUT = 1  # raised when folders written by this version can no longer be read by it
_STALE_SECONDS = 10.0


class BusyError(RuntimeError):
    """Another grid is training this run at the moment."""


@dataclass(frozen=True)
class RunPaths:
    """
    Files of one run.

    :param folder: Its folder
    """

    folder: Path

    @property
    def record(self) -> Path:
        """What the finished run was made with; there is none before."""
        return self.folder / "run.json"

    @property
    def lines(self) -> Path:
        """Its lines of the table."""
        return self.folder / "lines.csv"

    @property
    def error(self) -> Path:
        """Why it failed, if it did."""
        return self.folder / "error.txt"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """Where it goes on from."""
        return self.folder / "checkpoint"

    @property
    def progress(self) -> Path:
        """How far it is, in agent steps."""
        return self.folder / "progress"

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.exists()

    def read_progress(self) -> int:
        """Agent steps done, as far as known."""
        try:
            return int(self.progress.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """
        Hold the run while training it; the operating system lets go of it when the process ends, however it ends.

        :raises BusyError: if another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(f"{self.folder} is being trained by another process.") from error
        try:
            yield
        finally:
            lock.release()


class ResultsFolder:
    """
    A folder of results. Several grids can write to it at once.

    :param path: Folder, made if missing
    :raises ValueError: if it was written by a version whose folders this one cannot read, or is something else.
    """

    def __init__(self, path: Path):
        self.path = path
        mark = path / "results.json"
        if mark.exists():
            _check_layout(mark)
        elif path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} is neither empty nor a folder of results: give another, or remove what is in it.")

    def make(self, version: str) -> None:
        """
        Make the folder, and note what made it.

        :param version: Version of this package
        """
        mark = self.path / "results.json"
        if not mark.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(mark, json.dumps({"layout": LAYOUT, "version": version}) + "\n")

    @property
    def table(self) -> Path:
        """The results table."""
        return self.path / "table.csv"

    @property
    def grids(self) -> Path:
        """Grids that were run here, and how."""
        return self.path / "grids"

    @property
    def figures(self) -> Path:
        """Figures."""
        return self.path / "figures"

    def run(self, run: GridRun) -> RunPaths:
        """
        Files of a run.

        :param run: Run
        """
        return RunPaths(folder_of(self.path / "runs", run))

    def records(self) -> dict[str, dict[str, Any]]:
        """Name -> what each finished run was made with."""
        found = {path.parent.name: _read_json(path) for path in sorted(self.path.glob("runs/*/run.json"))}
        return {run: record for run, record in found.items() if record is not None}

    def collect(self) -> Lines:
        """Gather the lines of all finished runs, of any grid, and write the table."""
        lines = [line for run in self.records() for line in _whole_lines(RunPaths(self.path / "runs" / run).lines)]
        write_table(self.table, lines)
        return lines

    def note_grid(self, name: str, facts: Mapping[str, Any]) -> None:
        """
        Keep what a report needs of a grid.

        :param name: Its name
        :param facts: File, budget, command
        """
        write_text(self.grids / f"{name}.json", json.dumps(facts, indent=2) + "\n")

    def noted_grids(self) -> list[dict[str, Any]]:
        """What was kept of every grid, figure 2 before figure 10."""
        found = sorted(
            self.grids.glob("*.json"), key=lambda path: re.sub(r"\d+", lambda number: number[0].zfill(4), path.stem)
        )
        return [facts for path in found if (facts := _read_json(path)) is not None]

    def write_record(self, run: GridRun, record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
        """
        Note that a run is finished; the record comes last, so that a run with one is whole.

        :param run: Run
        :param record: What it was made with
        :param lines: Its lines of the table
        """
        paths = self.run(run)
        write_table(paths.lines, lines)
        write_text(paths.record, json.dumps(record, indent=2) + "\n")
        for leftover in (paths.error, paths.progress):
            leftover.unlink(missing_ok=True)


def folder_of(runs: Path, run: GridRun) -> Path:
    """
    Find a run's folder, which another grid may have made by another label.

    :param runs: Folder of runs
    :param run: Run
    """
    named = runs / run.id
    return named if named.exists() else min(runs.glob(f"*-{run.key}"), default=named)


def is_moving(paths: RunPaths) -> bool:
    """
    Tell whether a run made progress a moment ago.

    :param paths: Its files
    """
    try:
        return time.time() - os.stat(paths.progress).st_mtime < _STALE_SECONDS
    except FileNotFoundError:
        return False


def _read_json(path: Path) -> dict[str, Any] | None:
    """What was written there as a whole; a copy of the folder that is still under way may hold less."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        warnings.warn(f"{path} is left out, it cannot be read ({error}): copy it anew, or remove it and train again.")
        return None


def _whole_lines(path: Path) -> Lines:
    try:
        lines = read_table(path)
    except FileNotFoundError:
        lines = []
    if any(None in line.values() for line in lines) or not path.exists():
        warnings.warn(
            f"{path} is missing or cut off, and its run left out: copy it anew, or remove its folder and train again."
        )
        return []
    return lines


def _check_layout(mark: Path) -> None:
    try:
        written = json.loads(mark.read_text())
        layout, version = written["layout"], written["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{mark} cannot be read: it is not of a folder of results, or was cut off.") from error
    if layout != LAYOUT:
        raise ValueError(
            f"{mark.parent} was written by sb3-sparse {version}, in layout {layout}; this version reads layout {LAYOUT}. "
            "Use that version for it, or give another folder."
        )
