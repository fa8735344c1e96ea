"""Figures of sparsity: returns, Srank and simplicity bias against how sparse networks are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.figures.figure_panels import (
    Panels,
    Where,
    draw_curves,
    draw_line,
    is_finite,
    name_panel,
    of,
    pairs_of,
    panel_name,
    size_of,
)
from sb3_sparse.experiments.figures.figures import SPARSE_COLOURS
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun

# The paper's colours of network sizes in figures 3 and 4.
_SMALL, _LARGE = "#0072B2", "#E69F00"


def _draw_sparsities(axis: Any, results: GridResults, where: Where, column: str = "return_mean") -> None:
    """A line for each network size."""
    sizes = sorted({size_of(run) for run in results.grid.runs})
    for size, colour, marker in zip(sizes, (_SMALL, _LARGE, *SPARSE_COLOURS[1:]), "osD^v", strict=False):
        runs = [run for run in results.grid.runs if where(run) and size_of(run) == size]
        sparsities = sorted({run.sparsity for run in runs})
        values = [
            [final for run in runs if run.sparsity == sparsity and is_finite(final := results.final(run, column))]
            for sparsity in sparsities
        ]
        parameters = [count for run in runs if (count := results.number(run, "parameters")) is not None]
        name = f"w = {size[0]:g} ({parameters[0] / 1e6:.3g}M)" if parameters else f"w = {size[0]:g}"
        draw_line(axis, sparsities, values, name, {"color": colour, "marker": marker, "linestyle": "-"})  # type: ignore[arg-type]
    axis.set_xlabel("sparsity")


def sparsity_and_size(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against sparsity, a line for each network size, a panel for each algorithm and task (figure 3)."""
    pairs = pairs_of(results)
    panels = Panels(len(pairs))
    for axis, pair in zip(panels.axes, pairs, strict=True):
        _draw_sparsities(axis, results, of(*pair))
        name_panel(axis, panel_name(*pair), results.final_label)
    return panels.save(path, results.grid.title)


def rank(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final Srank of the critic against sparsity, and Srank over training of three networks (figure 4)."""
    panels = Panels(2)
    final, course = panels.axes
    _draw_sparsities(final, results, lambda run: True, "critic_srank")
    name_panel(final, ["after training"], "Srank of the critic")
    arms = results.arms(_three_networks(results))
    draw_curves(course, results, arms, lambda run: True, "critic_srank")
    name_panel(course, ["during training"], "Srank of the critic")
    return panels.save(path, results.grid.title)


def _three_networks(results: GridResults) -> Where:
    """The small dense, the large dense and the large, sparsest network."""
    sizes = [size_of(run) for run in results.grid.runs]
    sparsest = max(run.sparsity for run in results.grid.runs)
    wanted = {(min(sizes), 0.0), (max(sizes), 0.0), (max(sizes), sparsest)}
    return lambda run: (size_of(run), run.sparsity) in wanted


def simplicity(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Simplicity bias at initialisation and gain over the dense network, averaged over scenarios, by sparsity (figure 8)."""
    panels = Panels(2)
    bias, gain = panels.axes
    sparsities = sorted({run.sparsity for run in results.grid.runs})
    by_sparsity = {sparsity: [run for run in results.grid.runs if run.sparsity == sparsity] for sparsity in sparsities}
    scores = [
        [score for run in of_one if (score := results.number(run, "simplicity_bias")) is not None]
        for of_one in by_sparsity.values()
    ]
    draw_line(bias, sparsities, scores, "simplicity-bias score", {"color": _SMALL, "marker": "o"})
    gains = [_gains(results, by_sparsity[0.0], by_sparsity[sparsity]) for sparsity in sparsities if 0.0 in by_sparsity]
    draw_line(gain, sparsities[: len(gains)], gains, "gain over dense", {"color": _LARGE, "marker": "s"})
    for axis, label in ((bias, "simplicity-bias score"), (gain, "gain over dense, %")):
        axis.set_xlabel("sparsity")
        name_panel(axis, ["at initialisation" if axis is bias else "after training"], label, from_zero=False)
    return panels.save(path, results.grid.title)


def _gains(results: GridResults, dense: Sequence[GridRun], sparse: Sequence[GridRun]) -> list[float]:
    """Per cent by which the mean over seeds is better than that of the dense network, for every algorithm and task."""
    found = []
    for algorithm in results.grid.algorithms:
        base = results.scores(run for run in dense if run.algorithm == algorithm)
        for task, scores in results.scores(run for run in sparse if run.algorithm == algorithm).items():
            if task in base and np.mean(list(base[task].values())) != 0:
                reference = float(np.mean(list(base[task].values())))
                found.append(100 * (float(np.mean(list(scores.values()))) - reference) / abs(reference))
    return found
