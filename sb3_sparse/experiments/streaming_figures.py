"""The paper's figures 12, 13 and 17 from the results table of Stream AC."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.extras import import_extra
from sb3_sparse.experiments.figures import DENSE_COLOUR, SPARSE_COLOURS
from sb3_sparse.experiments.streaming import Arm, Grid

SPARSE_INIT_COLOUR = "#E69F00"
# Final returns are means over the last tenth of a run.
FINAL_FRACTION = 0.1

Lines = Iterable[Mapping[str, Any]]
# Seed -> (environment steps, return), in order.
Curves = Mapping[int, Sequence[tuple[int, float]]]


def draw_figure(number: int, lines: Lines, grid: Grid, path: Path) -> None:
    """
    Draw one of the paper's figures from what is there of its runs.

    :param number: 12 (final return against width), 13 or 17 (learning curves)
    :param lines: Lines of the results table
    :param grid: The runs that belong to it
    :param path: Image file to write
    """
    curves = select(lines, grid)
    tasks = [task for task in grid.tasks if any(key[0] == task for key in curves)]
    if not tasks:
        raise ValueError("The results table has no finished window of any run of this figure yet.")
    if number == 12:
        figure, axes = _panels(1, len(tasks))
        for axis, task in zip(axes, tasks, strict=True):
            _draw_scaling(axis, task, curves, grid)
    else:
        figure, axes = _panels(len(tasks), len(grid.widths), sharey="row")
        panels = [(task, width) for task in tasks for width in grid.widths]
        for axis, (task, width) in zip(axes, panels, strict=True):
            _draw_curves(axis, task, width, curves, grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def select(lines: Lines, grid: Grid) -> dict[tuple[str, int, Arm], Curves]:
    """
    Find the learning curves of a grid's runs.

    :param lines: Lines of the results table
    :param grid: Runs
    :return: Task, width and arm -> curve of each seed
    """
    wanted = {(run.task, run.width, run.init, run.sparsity, run.seed, run.total_steps) for run in grid.runs()}
    curves: dict[tuple[str, int, Arm], Any] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        task, width, init = line["task"], int(line["width"]), line["init"]
        sparsity, seed, total = float(line["sparsity"]), int(line["seed"]), int(line["total_steps"])
        if (task, width, init, sparsity, seed, total) in wanted:
            curves[task, width, Arm(init, sparsity)][seed].append((int(line["env_steps"]), float(line["return_mean"])))
    return {key: {seed: sorted(curve) for seed, curve in seeds.items()} for key, seeds in curves.items()}


def final_returns(curves: Curves, total_steps: int) -> list[float]:
    """
    Returns at the end of complete runs.

    :param curves: Seed -> curve
    :param total_steps: Length of a complete run
    :return: Mean return over the last tenth of each complete run
    """
    first = (1 - FINAL_FRACTION) * total_steps
    return [
        float(np.mean([value for step, value in curve if step > first]))
        for curve in curves.values()
        if curve and curve[-1][0] == total_steps
    ]


def _draw_scaling(axis: Any, task: str, curves: Mapping[tuple[str, int, Arm], Curves], grid: Grid) -> None:
    for arm in grid.arms:
        points = [(width, final_returns(curves.get((task, width, arm), {}), grid.total_steps)) for width in grid.widths]
        points = [(width, values) for width, values in points if values]
        if points:
            widths, means = [width for width, _ in points], [np.mean(values) for _, values in points]
            label, colour = _style(arm, grid)
            axis.plot(widths, means, color=colour, label=label, marker="o")
            axis.fill_between(widths, [min(v) for _, v in points], [max(v) for _, v in points], color=colour, alpha=0.2, lw=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(grid.widths, [str(width) for width in grid.widths])
    axis.set_xlabel("width of actor and critic")
    axis.set_ylabel(f"return, last {FINAL_FRACTION:.0%} of {grid.total_steps:,} steps")
    _finish(axis, task)


def _draw_curves(axis: Any, task: str, width: int, curves: Mapping[tuple[str, int, Arm], Curves], grid: Grid) -> None:
    for arm in grid.arms:
        seeds = curves.get((task, width, arm), {})
        by_step: dict[int, list[float]] = defaultdict(list)
        for curve in seeds.values():
            for step, value in curve:
                by_step[step].append(value)
        steps = sorted(by_step)
        label, colour = _style(arm, grid)
        if steps:
            axis.plot(steps, [np.mean(by_step[step]) for step in steps], color=colour, label=f"{label} ({_count(len(seeds))})")
            low, high = [min(by_step[step]) for step in steps], [max(by_step[step]) for step in steps]
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    axis.set_xlim(0, grid.total_steps)
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return of training episodes")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    _finish(axis, f"{task}, width {width}")


def _count(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize="small")


def _style(arm: Arm, grid: Grid) -> tuple[str, str]:
    if arm.sparsity == 0:
        return ("SparseInit", SPARSE_INIT_COLOUR) if arm.init == "sparse" else ("dense", DENSE_COLOUR)
    sparsities = sorted({other.sparsity for other in grid.arms if other.sparsity > 0})
    return f"static, S = {arm.sparsity:g}", SPARSE_COLOURS[sparsities.index(arm.sparsity) % len(SPARSE_COLOURS)]


def _panels(rows: int, columns: int, **options: Any) -> tuple[Any, list[Any]]:
    # Figures are drawn without touching pyplot's global state or needing a display.
    figure_module = import_extra("matplotlib.figure", "plots")
    per_row = min(columns, 4)
    lines = rows * math.ceil(columns / per_row)
    figure = figure_module.Figure(figsize=(4.6 * per_row, 3.4 * lines), layout="constrained")
    axes = list(figure.subplots(lines, per_row, squeeze=False, **options).flat)
    for axis in axes[rows * columns :]:
        axis.set_visible(False)
    return figure, axes[: rows * columns]
