"""Figures of scaling: returns against the size of networks, dense and sparse at equal learnable parameters."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.figures.aggregation import Estimate, aggregate
from sb3_sparse.experiments.figures.grid_panels import Draw, Where, finals, of, pairs_of, panel_name, size_of
from sb3_sparse.experiments.figures.normalized_scores import UNITS
from sb3_sparse.experiments.figures.panels import DENSE_COLOURS, SPARSE_COLOURS, Panels, Style, name_panel
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun

# What is scaled: whether a size lies on that line, which begins at the anchor.
_LINES: dict[str, Callable[[tuple[float, float], tuple[float, float]], bool]] = {
    "width": lambda size, anchor: size[1] == anchor[1],
    "depth": lambda size, anchor: size[0] == anchor[0],
    "both": lambda size, anchor: size == anchor or (size[0] != anchor[0] and size[1] != anchor[1]),
}
_SCALES = {"width": (0, "width scale"), "depth": (1, "depth scale")}
_STATISTICS = {"mean": "mean", "iqm": "interquartile mean"}


def model_size(logarithmic: bool) -> Draw:
    """
    Score against parameters before pruning, a panel for each algorithm (figures 1 and 14).

    :param logarithmic: Whether the horizontal axis is
    """

    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        panels = _aggregated_panels(results, len(results.grid.algorithms))
        for axis, algorithm in zip(panels.axes, results.grid.algorithms, strict=True):
            for (number, scale), is_sparse in itertools.product(enumerate(_LINES), (False, True)):
                own = _line(results, of(algorithm), scale, is_sparse)
                label = f"{'sparse, equal parameters' if is_sparse else 'dense'}: {scale}"
                values = {_millions(results, of_size): _estimate(panels, results, of_size) for of_size in _by_size(own)}
                if len(values) > 1:
                    panels.band(axis, _found(values), label, _style(is_sparse, number))
            axis.set_xscale("log" if logarithmic else "linear")
            _mark_sizes(axis, logarithmic)
            axis.set_xlabel("parameters before pruning, millions")
            name_panel(axis, panel_name(algorithm, "all tasks"), _score_label(results))
        return panels.save(path, results.grid.title)

    return draw


def scaling_summary(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Score over all tasks against width and against depth, a row for each algorithm (figure 2)."""
    pairs = list(itertools.product(results.grid.algorithms, _SCALES))
    panels = _aggregated_panels(results, len(pairs))
    for axis, (algorithm, scale) in zip(panels.axes, pairs, strict=True):
        for is_sparse, label in ((False, "dense"), (True, "sparse, equal parameters")):
            by_size = _by_scale(_line(results, of(algorithm), scale, is_sparse), scale)
            values = {size: _estimate(panels, results, of_size) for size, of_size in by_size.items()}
            panels.band(axis, _found(values), label, _style(is_sparse))
        _mark_scale(axis, scale)
        name_panel(axis, panel_name(algorithm, "all tasks"), _score_label(results))
    return panels.save(path, results.grid.title)


def scaling_by_task(scale: str) -> Draw:
    """
    Final return against one scale, a panel for each algorithm and task (figures 15 and 16).

    :param scale: "width" or "depth"
    """

    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        pairs = pairs_of(results)
        panels = Panels(len(pairs), columns=3)
        for axis, pair in zip(panels.axes, pairs, strict=True):
            for is_sparse, label in ((False, "dense"), (True, "sparse, equal parameters")):
                by_size = _by_scale(_line(results, of(*pair), scale, is_sparse), scale)
                values = {size: finals(results, of_size) for size, of_size in by_size.items()}
                panels.line(axis, values, label, _style(is_sparse))
            _mark_scale(axis, scale)
            name_panel(axis, panel_name(*pair), results.final_label)
        return panels.save(path, results.grid.title)

    return draw


def _aggregated_panels(results: GridResults, count: int) -> Panels:
    words = f"{_STATISTICS[results.grid.statistic]} over tasks and seeds, 95 % bootstrap interval"
    return Panels(count, columns=2, size=(4.4, 3.3), statistic=words)


def _score_label(results: GridResults) -> str:
    unit = UNITS[results.grid.score]
    return unit if unit == "return" else f"score ({unit})"


def _line(results: GridResults, where: Where, scale: str, is_sparse: bool) -> list[GridRun]:
    """Runs along one scale; the sparse line begins at the dense anchor."""
    anchor = results.grid.anchor
    chosen = [run for run in results.grid.runs if where(run) and _LINES[scale](size_of(run), anchor)]
    return [run for run in chosen if (run.sparsity > 0) == is_sparse or (size_of(run) == anchor and run.sparsity == 0)]


def _by_size(runs: Iterable[GridRun]) -> list[list[GridRun]]:
    # By size: sparsities that were solved for differ a little from task to task.
    return [list(of_size) for _, of_size in itertools.groupby(sorted(runs, key=size_of), key=size_of)]


def _by_scale(runs: Iterable[GridRun], scale: str) -> dict[float, list[GridRun]]:
    return {size_of(of_size[0])[_SCALES[scale][0]]: of_size for of_size in _by_size(runs)}


def _millions(results: GridResults, runs: Iterable[GridRun]) -> float:
    counts = [count for run in runs if (count := results.number(run, "parameters")) is not None]
    return float(np.mean(counts)) / 1e6 if counts else 0.0


def _estimate(panels: Panels, results: GridResults, runs: Iterable[GridRun]) -> Estimate | None:
    found = aggregate(results.scores(runs))
    if found is None:
        return None
    panels.seeds.add(found.seeds)
    estimate: Estimate = getattr(found, results.grid.statistic)
    return estimate


def _found(values: dict[float, Estimate | None]) -> dict[float, Estimate]:
    return {place: value for place, value in sorted(values.items()) if value is not None}


def _style(is_sparse: bool, number: int = 0) -> Style:
    colours, line, markers = (SPARSE_COLOURS, "-", "*Xd") if is_sparse else (DENSE_COLOURS, "--", "os^")
    return {"color": colours[number], "linestyle": line, "marker": markers[number]}


def _mark_scale(axis: Any, scale: str) -> None:
    sizes = sorted({float(size) for line in axis.lines for size in line.get_xdata()})
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axis.set_xlabel(_SCALES[scale][1])


def _mark_sizes(axis: Any, logarithmic: bool) -> None:
    """Ticks at the sizes of the dense networks along the width, the largest first, where there is room for their numbers."""
    sizes = sorted(axis.lines[0].get_xdata()) if axis.lines else []
    apart: list[float] = []
    for size in reversed(sizes):
        gap = np.log(apart[-1] / size) / np.log(sizes[-1] / sizes[0]) if apart and logarithmic else 1.0
        gap = (apart[-1] - size) / sizes[-1] if apart and not logarithmic else gap
        apart += [size] if gap > 0.13 else []
    axis.set_xticks(apart, [f"{size:.3g}" for size in apart])
    axis.minorticks_off()
