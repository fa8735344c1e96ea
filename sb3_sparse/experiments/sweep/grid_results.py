"""Results of a grid: curves and final values of its runs, and which are missing."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_sparse.experiments.figures.normalized_scores import normalize
from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_run import GridRun, key_of
from sb3_sparse.experiments.sweep.grid_table import Lines
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder

# Final values are means over the last tenth of a run, but for returns of runs that were evaluated at their end.
FINAL_FRACTION = 0.1

Arm = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GridResults:
    """
    Results of a grid.

    :param grid: Grid
    :param lines: Id of a run -> its lines of the table, in the order of steps; runs without any are missing
    """

    grid: Grid
    lines: Mapping[str, Lines]

    @classmethod
    def select(cls, grid: Grid, table: Iterable[dict[str, str]]) -> "GridResults":
        """
        Find a grid's runs in a table.

        :param grid: Grid
        :param table: Lines of all runs in a folder
        """
        wanted = {run.key: run.id for run in grid.runs}
        found: dict[str, Lines] = defaultdict(list)
        for line in table:
            if (key := key_of(line["run"])) in wanted:
                found[wanted[key]].append(line)
        return cls(grid, {run: sorted(lines, key=lambda line: int(line["env_steps"])) for run, lines in found.items()})

    @classmethod
    def of(cls, grid: Grid, folder: Path) -> "GridResults":
        """
        Read a grid's results.

        :param grid: Grid
        :param folder: Folder of results
        """
        return cls.select(grid, ResultsFolder(folder).collect())

    def series(self, run: GridRun, column: str) -> dict[int, float]:
        """
        A column over the course of a run.

        :param run: Run
        :param column: Column of the table
        :return: Environment steps -> value, where there is one
        """
        return {int(line["env_steps"]): float(line[column]) for line in self.lines.get(run.id, []) if line[column] != ""}

    def final(self, run: GridRun, column: str = "return_mean") -> float | None:
        """
        Mean of a column over the last tenth of a run; of returns that of the evaluation at its end, if there was one.

        :param run: Run
        :param column: Column of the table
        :return: The mean, NaN if a value is; None if there is nothing
        """
        if column == "return_mean" and (found := self.number(run, "final_return_mean")) is not None:
            return found
        series = self.series(run, column)
        if not series:
            return None
        total = int(self.lines[run.id][-1]["total_env_steps"])
        last = [value for step, value in series.items() if step > (1 - FINAL_FRACTION) * total] or [list(series.values())[-1]]
        return float(np.mean(last))

    def score(self, run: GridRun) -> float | None:
        """
        Final return on the scale on which the grid compares tasks.

        :param run: Run
        """
        final = self.final(run)
        return None if final is None else normalize(self.grid.score, run.task, final)

    def number(self, run: GridRun, column: str) -> float | None:
        """
        A column that is the same in all lines of a run.

        :param run: Run
        :param column: Column of the table
        """
        lines = self.lines.get(run.id)
        value = lines[0].get(column, "") if lines else ""
        return float(value) if value != "" else None

    @property
    def final_label(self) -> str:
        """What the final returns of its runs are, for axes."""
        counts = sorted({int(count) for run in self.grid.runs if (count := self.number(run, "final_episodes")) is not None})
        return f"return, {counts[0]} episodes at the end" if len(counts) == 1 else f"return, last {FINAL_FRACTION:.0%}"

    def arms(self, where: Callable[[GridRun], bool] = lambda run: True) -> dict[Arm, list[GridRun]]:
        """
        Runs that differ in algorithm, task and seed only.

        :param where: Which runs to consider
        :return: Arm -> runs, in the grid's order
        """
        found: dict[Arm, list[GridRun]] = defaultdict(list)
        for run in self.grid.runs:
            if where(run):
                found[run.arm].append(run)
        return dict(found)

    def scores(self, runs: Iterable[GridRun]) -> dict[str, dict[int, float]]:
        """
        Final scores.

        :param runs: Runs of one arm and algorithm
        :return: Task -> seed -> score, of finished runs; NaN is left out here and told of by :meth:`problems`
        """
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for run in runs:
            score = self.score(run)
            if score is not None and math.isfinite(score):
                found[run.task][run.seed] = score
        return dict(found)

    def problems(self) -> list[str]:
        """What a reader of the figures has to know: missing runs, values that are no numbers, unequal numbers of seeds."""
        missing = [run for run in self.grid.runs if run.id not in self.lines]
        broken = [run for run in self.grid.runs if (final := self.final(run)) is not None and not math.isfinite(final)]
        found = [f"{len(missing)} of {len(self.grid.runs)} runs are missing: {_names(missing)}."] if missing else []
        found += [f"{len(broken)} runs end in a return that is no number: {_names(broken)}."] if broken else []
        counts: dict[int, int] = defaultdict(int)
        for runs in self.arms().values():
            for pair in {(run.algorithm, run.task) for run in runs}:
                counts[sum((run.algorithm, run.task) == pair and run.id in self.lines for run in runs)] += 1
        if len(counts) > 1:
            listed = ", ".join(f"{count} with {seeds}" for seeds, count in sorted(counts.items()))
            found.append(f"Numbers of seeds are unequal; combinations of algorithm, task and network: {listed}.")
        versions = {line["version"] for lines in self.lines.values() for line in lines[:1]}
        if len(versions) > 1:
            found.append(f"Runs were made with different versions of sb3-sparse: {', '.join(sorted(versions))}.")
        return found


def _names(runs: list[GridRun], most: int = 4) -> str:
    names = ", ".join(run.id for run in runs[:most])
    return names if len(runs) <= most else f"{names} and {len(runs) - most} more"
