"""What the figures of grids are put together from: panels, lines over seeds, styles of arms."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.figures.figures import (
    DENSE_COLOUR,
    INIT_COLOURS,
    RANDOM_COLOUR,
    SPARSE_COLOURS,
    begin_at_zero,
)
from sb3_sparse.experiments.figures.references import reference_curve
from sb3_sparse.experiments.sweep.grid_results import Arm, GridResults
from sb3_sparse.experiments.sweep.grid_run import INITIALISATIONS, GridRun, short_algorithm, short_task

FORMATS = ("png", "pdf")
_LINES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v")
_MOST_COLUMNS = 4
_LEGEND_INCHES = 2.2

Where = Callable[[GridRun], bool]
Style = Mapping[str, Any]

Draw = Callable[[GridResults, Path, Path], list[Path]]


class Panels:
    """
    A figure of panels in rows, drawn without touching pyplot's global state or needing a display.

    :param count: Number of panels
    :param columns: Panels per row, at most
    """

    def __init__(self, count: int, columns: int = _MOST_COLUMNS):
        columns = max(1, min(columns, count))
        rows = math.ceil(count / columns)
        module = import_extra("matplotlib.figure", "plots")
        self.figure = module.Figure(figsize=(3.6 * columns, 2.9 * rows + 0.6), layout="constrained")
        axes = list(self.figure.subplots(rows, columns, squeeze=False).flat)
        self.axes: list[Any] = axes[:count]
        for axis in axes[count:]:
            axis.set_visible(False)

    def save(self, path: Path, title: str) -> list[Path]:
        """
        Finish all panels, and write the figure.

        :param path: File without suffix
        :param title: Title
        :return: Files written
        """
        for axis in self.axes:
            axis.spines[["top", "right"]].set_visible(False)
        self._legend()
        self.figure.suptitle(title, fontsize="medium")
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path.with_name(f"{path.name}.{suffix}") for suffix in FORMATS]
        for file in files:
            # Without a date, the same table gives the same file.
            self.figure.savefig(file, dpi=120, metadata={"CreationDate": None} if file.suffix == ".pdf" else None)
        return files

    def _legend(self) -> None:
        entries: dict[str, Any] = {}
        for axis in self.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        if entries:
            columns = max(1, min(len(entries), int(self.figure.get_figwidth() / _LEGEND_INCHES)))
            self.figure.legend(
                entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
            )


def styles(arms: Mapping[Arm, Sequence[GridRun]]) -> dict[Arm, Style]:
    """
    Colour, line and marker of every arm: dense networks have one colour in all figures, each sparsity has its own, SparseInit
    and its frozen pattern, too; arms that share a colour differ in line and marker.

    :param arms: Arms
    """
    sparsities = sorted({runs[0].sparsity for runs in arms.values()} - {0.0})
    used: dict[str, Any] = {}
    chosen: dict[Arm, Style] = {}
    for arm, runs in arms.items():
        sparsity = runs[0].sparsity
        colour = SPARSE_COLOURS[sparsities.index(sparsity) % len(SPARSE_COLOURS)] if sparsity else DENSE_COLOUR
        if not sparsity:
            colour = INIT_COLOURS.get(INITIALISATIONS.get(str(runs[0].policy.get("init")), ""), colour)
        line, marker = next(used.setdefault(colour, itertools.cycle(zip(_LINES, _MARKERS, strict=False))))
        chosen[arm] = {"color": colour, "linestyle": line, "marker": marker}
    return chosen


def draw_curves(
    axis: Any,
    results: GridResults,
    arms: Mapping[Arm, Sequence[GridRun]],
    where: Where,
    column: str = "return_mean",
    looks: Mapping[Arm, Style] | None = None,
) -> None:
    """
    Draw a column against environment steps: mean over seeds, and their standard deviation.

    :param axis: Panel
    :param results: Results
    :param arms: Arms to draw
    :param where: Which of their runs
    :param column: Column of the table
    :param looks: Styles of arms, those of all the arms here if None
    """
    looks = looks or styles(arms)
    for arm, runs in arms.items():
        series = [found for run in runs if where(run) and (found := results.series(run, column))]
        steps = sorted(set.intersection(*(set(one) for one in series))) if series else []
        values = [[one[step] for one in series] for step in steps]
        draw_line(axis, steps, values, runs[0].label, {**looks[arm], "marker": "" if len(steps) > 1 else "o"})
    axis.set_xlabel("environment steps")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)


def draw_line(axis: Any, x: Sequence[float], values: Sequence[Sequence[float]], label: str, style: Style) -> None:
    """
    Draw the mean over seeds, and their standard deviation (as in the paper's figures 15 and 16) where there are several.

    :param axis: Panel
    :param x: Positions
    :param values: At each position, a value for each seed; positions without any are left out
    :param label: Legend
    :param style: Colour, line, marker
    """
    pairs = [(place, np.asarray(seeds, dtype=float)) for place, seeds in zip(x, values, strict=True) if len(seeds)]
    if not pairs:
        return
    places = [place for place, _ in pairs]
    means = np.array([seeds.mean() for _, seeds in pairs])
    deviations = np.array([seeds.std(ddof=1) if len(seeds) > 1 else 0.0 for _, seeds in pairs])
    axis.plot(places, means, label=label, markersize=4, **style)
    axis.fill_between(places, means - deviations, means + deviations, color=style["color"], alpha=0.18, lw=0)


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
    low, high = (np.array(published.means) + sign * np.array(published.stds) for sign in (-1, 1))
    label = f"{published.label} ({published.seeds} seeds, sd)"
    axis.plot(published.env_steps, published.means, color="#666666", lw=1, ls=(0, (1, 1)), label=label, zorder=0)
    axis.fill_between(published.env_steps, low, high, color=RANDOM_COLOUR, alpha=0.3, lw=0, zorder=0)
    axis.set_xlim(0, right)


def name_panel(axis: Any, words: Iterable[str], ylabel: str, from_zero: bool = True) -> None:
    """
    Title a panel.

    :param axis: Panel
    :param words: Algorithm, task, and so on
    :param ylabel: Label of the vertical axis
    :param from_zero: Whether it begins at zero
    """
    axis.set_title(", ".join(words), fontsize="small")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25)
    if from_zero:
        begin_at_zero(axis)
    if not axis.has_data():
        axis.text(0.5, 0.5, "no finished run", ha="center", va="center", transform=axis.transAxes, color="#888888")


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


def is_finite(value: float | None) -> bool:
    """
    Whether there is a value, and it is a number.

    :param value: Value
    """
    return value is not None and math.isfinite(value)
