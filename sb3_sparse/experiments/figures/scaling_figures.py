"""Figures of scaling: returns against the size of networks, dense and sparse at equal learnable parameters."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.figures.aggregation import aggregate
from sb3_sparse.experiments.figures.figure_panels import (
    Draw,
    Panels,
    Where,
    draw_line,
    name_panel,
    of,
    pairs_of,
    panel_name,
    size_of,
)
from sb3_sparse.experiments.figures.figures import DENSE_COLOUR, SPARSE_COLOURS
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun

_DENSE: dict[str, Any] = {"color": DENSE_COLOUR, "linestyle": "--", "marker": "o"}
_SPARSE: dict[str, Any] = {"color": SPARSE_COLOURS[0], "linestyle": "-", "marker": "*"}


def model_size(logarithmic: bool) -> Draw:
    """
    Score against parameters before pruning, a panel for each algorithm (figures 1 and 14).

    :param logarithmic: Whether the horizontal axis is
    """

    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        panels = Panels(len(results.grid.algorithms))
        for axis, algorithm in zip(panels.axes, results.grid.algorithms, strict=True):
            for is_sparse, label, style in ((False, "dense", _DENSE), (True, "sparse, equal parameters", _SPARSE)):
                _draw_sizes(axis, results, algorithm, is_sparse, label, style)
            if logarithmic:
                _mark_sizes(axis)
            axis.set_xlabel("parameters before pruning, millions")
            name_panel(axis, panel_name(algorithm, "all tasks"), "score, interquartile mean")
        return panels.save(path, results.grid.title)

    return draw


def _draw_sizes(
    axis: Any, results: GridResults, algorithm: str, is_sparse: bool, label: str, style: Mapping[str, Any]
) -> None:
    points = []
    own = [run for run in results.grid.runs if run.algorithm == algorithm and (run.sparsity > 0) == is_sparse]
    # By size: sparsities that were solved for differ a little from task to task.
    for size in dict.fromkeys(map(size_of, own)):
        runs = [run for run in own if size_of(run) == size]
        found = aggregate(results.scores(runs))
        parameters = [count for run in runs if (count := results.number(run, "parameters")) is not None]
        if found is not None:
            points.append((float(np.mean(parameters)) / 1e6, found.iqm))
    points.sort(key=lambda point: point[0])
    if not points:
        return
    x, estimates = zip(*points, strict=True)
    axis.plot(x, [estimate.value for estimate in estimates], label=label, **style)
    low, high = [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]
    axis.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)


def _mark_sizes(axis: Any) -> None:
    """A logarithmic axis with the numbers of parameters of the dense networks on it."""
    axis.set_xscale("log")
    sizes = sorted(axis.lines[0].get_xdata()) if axis.lines else []
    apart = [size for i, size in enumerate(sizes) if i == 0 or size > 1.4 * sizes[i - 1]]
    axis.set_xticks(apart, [f"{size:.3g}" for size in apart])
    axis.minorticks_off()


_SCALES = {"width": (0, "width scale"), "depth": (1, "depth scale")}


def _along(results: GridResults, scale: str, where: Where) -> tuple[list[GridRun], list[GridRun]]:
    """
    Dense and sparse runs along one scale: the other one is the anchor's, and the sparse line begins at the anchor itself.
    """
    index, anchor = _SCALES[scale][0], results.grid.anchor
    chosen = [run for run in results.grid.runs if where(run) and size_of(run)[1 - index] == anchor[1 - index]]
    dense = [run for run in chosen if run.sparsity == 0]
    return dense, [run for run in chosen if run.sparsity > 0 or size_of(run) == anchor]


def _draw_along(axis: Any, results: GridResults, scale: str, where: Where, aggregated: bool) -> None:
    index, label = _SCALES[scale]
    pair = _along(results, scale, where)
    for runs, name, style in zip(pair, ("dense", "sparse, equal parameters"), (_DENSE, _SPARSE), strict=True):
        sizes = sorted({size_of(run)[index] for run in runs})
        by_size = [results.scores(run for run in runs if size_of(run)[index] == size) for size in sizes]
        if aggregated:
            found = [(size, one) for size, scores in zip(sizes, by_size, strict=True) if (one := aggregate(scores))]
            x = [size for size, _ in found]
            axis.plot(x, [one.iqm.value for _, one in found], label=name, **style)
            low, high = [one.iqm.low for _, one in found], [one.iqm.high for _, one in found]
            axis.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
        else:
            draw_line(axis, sizes, [[v for task in scores.values() for v in task.values()] for scores in by_size], name, style)
    axis.set_xlabel(label)


def scaling_summary(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Score over all tasks against width and against depth, a row for each algorithm (figure 2)."""
    pairs = list(itertools.product(results.grid.algorithms, _SCALES))
    panels = Panels(len(pairs), columns=2)
    for axis, (algorithm, scale) in zip(panels.axes, pairs, strict=True):
        _draw_along(axis, results, scale, of(algorithm), aggregated=True)
        name_panel(axis, panel_name(algorithm, f"{scale} scaling"), "score, interquartile mean")
    return panels.save(path, results.grid.title)


def scaling_by_task(scale: str) -> Draw:
    """
    Score against one scale, a panel for each algorithm and task (figures 15 and 16).

    :param scale: "width" or "depth"
    """

    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        pairs = pairs_of(results)
        panels = Panels(len(pairs), columns=3)
        for axis, pair in zip(panels.axes, pairs, strict=True):
            _draw_along(axis, results, scale, of(*pair), aggregated=False)
            name_panel(axis, panel_name(*pair), "score")
        return panels.save(path, results.grid.title)

    return draw
