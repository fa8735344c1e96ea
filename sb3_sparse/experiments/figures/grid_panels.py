"""Panels of grids: curves of their arms, published curves behind them, names."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_sparse.experiments.figures.panels import REFERENCE_COLOUR, Panels, Style, short_number, step_axis, styles
from sb3_sparse.experiments.figures.references import reference_curve
from sb3_sparse.experiments.sweep.grid_results import Arm, GridResults
from sb3_sparse.deployment.known_classes import short_algorithm
from sb3_sparse.experiments.sweep.grid_run import INITIALISATIONS, GridRun, short_task

Where = Callable[[GridRun], bool]
Draw = Callable[[GridResults, Path, Path], list[Path]]


def arm_styles(arms: Mapping[Arm, Sequence[GridRun]]) -> dict[Arm, Style]:
    """
    Colour, line and marker of every arm.

    :param arms: Arms
    """
    return styles({arm: runs[0].sparsity for arm, runs in arms.items()})


def arm_label(runs: Sequence[GridRun]) -> str:
    """
    What legends call an arm; where its sparsity was solved for task by task, the range that it lies in.

    :param runs: Its runs
    """
    words = runs[0].label.split(", ")
    shown = dict.fromkeys(f"{sparsity:.2f}" for sparsity in sorted({run.sparsity for run in runs}))
    if runs[0].is_solved and not runs[0].name:
        words = [
            " to ".join(list(shown)[:: max(1, len(shown) - 1)]).join(("S = ", "")) if w[:4] == "S = " else w for w in words
        ]
        words.append("equal parameters")
    return ", ".join(words)


def network_name(run: GridRun) -> str:
    """
    A network without its width: static sparsity, an initialisation, or dense.

    :param run: Run
    """
    name = INITIALISATIONS.get(str(run.policy.get("init")))
    return name or (f"static, S = {run.sparsity:g}" if run.sparsity else "dense")


def draw_curves(
    panels: Panels,
    axis: Any,
    results: GridResults,
    arms: Mapping[Arm, Sequence[GridRun]],
    where: Where,
    column: str = "return_mean",
    looks: Mapping[Arm, Style] | None = None,
) -> None:
    """
    Draw a column against environment steps.

    :param panels: Figure
    :param axis: Panel
    :param results: Results
    :param arms: Arms to draw
    :param where: Which of their runs
    :param column: Column of the table
    :param looks: Styles of arms, those of all the arms here if None
    """
    looks = looks or arm_styles(arms)
    for arm, runs in arms.items():
        panels.line(axis, curve(results, filter(where, runs), column), arm_label(runs), looks[arm])
    step_axis(axis)


def curve(results: GridResults, runs: Iterable[GridRun], column: str = "return_mean") -> dict[float, list[float]]:
    """
    Values of all seeds at each step; windows of training without the end of an episode have none.

    :param results: Results
    :param runs: Runs that differ in their seed
    :param column: Column of the table
    """
    series = [found for run in runs if (found := results.series(run, column))]
    return {step: [one[step] for one in series if step in one] for step in sorted(set().union(*series))}


def draw_reference(axis: Any, algorithm: str, task: str) -> None:
    """
    Draw a published learning curve behind ours, if there is one.

    :param axis: Panel
    :param algorithm: The zoo's name of the algorithm
    :param task: Environment id
    """
    published = reference_curve(algorithm, task)
    if published is None:
        return
    right = max((max(line.get_xdata()) for line in axis.lines), default=0)
    if not any(0 < step <= right for step in published.env_steps):  # it begins where ours have ended
        return
    means, stds = published.means, published.stds
    low, high = ([mean + sign * std for mean, std in zip(means, stds, strict=True)] for sign in (-1, 1))
    label = f"published: {published.label}, {published.seeds} seeds, to {short_number(max(published.env_steps))} steps"
    axis.plot(published.env_steps, means, color=REFERENCE_COLOUR, lw=1, ls=(0, (1, 1)), label=label, zorder=0)
    axis.fill_between(published.env_steps, low, high, color=REFERENCE_COLOUR, alpha=0.15, lw=0, zorder=0)
    axis.set_xlim(0, right)


def of(algorithm: str, task: str | None = None) -> Where:
    """
    Which runs belong to a panel of one algorithm and one task.

    :param algorithm: Algorithm
    :param task: Task, None for all
    """
    return lambda run: run.algorithm == algorithm and task in (None, run.task)


def panel_name(algorithm: str, task: str) -> tuple[str, str]:
    """
    Title of such a panel.

    :param algorithm: Algorithm
    :param task: Task
    """
    return short_algorithm(algorithm), short_task(task)


def pairs_of(results: GridResults) -> list[tuple[str, str]]:
    """
    Algorithms and tasks that there are runs of, in the grid's order.

    :param results: Results
    """
    there = {(run.algorithm, run.task) for run in results.grid.runs}
    return [pair for pair in itertools.product(results.grid.algorithms, results.grid.tasks) if pair in there]


def size_of(run: GridRun) -> tuple[float, float]:
    """
    Width and depth scale.

    :param run: Run
    """
    return float(run.policy.get("width_scale", 1)), float(run.policy.get("depth_scale", 1))


def finals(results: GridResults, runs: Iterable[GridRun], column: str = "return_mean") -> list[float]:
    """
    Final values of runs, without those that are no number.

    :param results: Results
    :param runs: Runs
    :param column: Column of the table
    """
    found = (results.final(run, column) for run in runs)
    return [value for value in found if value is not None and math.isfinite(value)]
