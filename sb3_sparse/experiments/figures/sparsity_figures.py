"""Figures of sparsity: returns, Srank and simplicity bias against how sparse networks are."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.figures.grid_panels import Where, curve, finals, of, pairs_of, panel_name, size_of
from sb3_sparse.experiments.figures.panels import SPARSE_COLOURS, SPREAD, Panels, Style, name_panel, short_number, step_axis
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun

# Sizes are neither dense nor sparse, so that they have colours of their own; the largest network, sparse, is that of others.
_SIZE_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LARGE_SPARSE: Style = {"color": SPARSE_COLOURS[0], "linestyle": "-", "marker": "D"}


def _size_styles(results: GridResults) -> dict[tuple[float, float], Style]:
    looks = zip(sorted({size_of(run) for run in results.grid.runs}), _SIZE_COLOURS, "osD^", strict=False)
    return {size: {"color": colour, "marker": marker, "linestyle": "-"} for size, colour, marker in looks}


def _size_names(results: GridResults) -> dict[tuple[float, float], str]:
    """Tasks differ a little in their numbers of parameters."""
    names = {}
    for size in sorted({size_of(run) for run in results.grid.runs}):
        own = [run for run in results.grid.runs if size_of(run) == size]
        counts = [count for run in own if (count := results.number(run, "parameters")) is not None]
        names[size] = f"w = {size[0]:g}" + (f", about {short_number(float(np.mean(counts)))} parameters" if counts else "")
    return names


def _draw_sparsities(
    panels: Panels, axis: Any, results: GridResults, where: Where, names: Mapping[Any, str], column: str = "return_mean"
) -> None:
    """A line for each network size."""
    own = list(filter(where, results.grid.runs))
    for size, style in _size_styles(results).items():
        by_sparsity = {s: [run for run in own if (size_of(run), run.sparsity) == (size, s)] for s in _sparsities(own)}
        values = {sparsity: finals(results, runs, column) for sparsity, runs in by_sparsity.items()}
        panels.line(axis, values, names[size], style)
    axis.set_xlabel("sparsity")


def _sparsities(runs: Iterable[GridRun]) -> list[float]:
    return sorted({run.sparsity for run in runs})


def sparsity_and_size(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against sparsity, a line for each network size, a panel for each algorithm and task (figure 3)."""
    pairs, names = pairs_of(results), _size_names(results)
    panels = Panels(len(pairs))
    for axis, pair in zip(panels.axes, pairs, strict=True):
        _draw_sparsities(panels, axis, results, of(*pair), names)
        name_panel(axis, panel_name(*pair), results.final_label)
    return panels.save(path, results.grid.title)


def rank(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final Srank of the critic against sparsity, and Srank over training of three networks (figure 4)."""
    panels = Panels(2, size=(4.6, 3.3))
    final, course = panels.axes
    _draw_sparsities(panels, final, results, lambda run: True, _size_names(results), "critic_srank")
    name_panel(final, ["after training"], "critic: Srank")
    sizes = _size_styles(results)
    dense = [(size, 0.0, {**sizes[size], "linestyle": "--"}) for size in (min(sizes), max(sizes))]
    for size, sparsity, style in [*dense, (max(sizes), max(run.sparsity for run in results.grid.runs), _LARGE_SPARSE)]:
        own = [run for run in results.grid.runs if (size_of(run), run.sparsity) == (size, sparsity)]
        panels.line(course, curve(results, own, "critic_srank"), own[0].label, style)
    step_axis(course)
    name_panel(course, ["during training"], "critic: Srank")
    names = " and ".join(", ".join(panel_name(*pair)) for pair in pairs_of(results))
    return panels.save(path, f"{results.grid.title}: {names}")


def simplicity(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Simplicity bias at initialisation and gain over the dense network, averaged over scenarios, by sparsity (figure 8)."""
    panels = Panels(2, size=(4.6, 3.3), statistic=f"{SPREAD} over tasks and seeds (left) or tasks (right)")
    bias, gain = panels.axes
    by_sparsity: dict[float, list[GridRun]] = {}
    for run in sorted(results.grid.runs, key=lambda run: run.sparsity):
        by_sparsity.setdefault(run.sparsity, []).append(run)
    scores = {
        sparsity: [score for run in of_one if (score := results.number(run, "simplicity_bias")) is not None]
        for sparsity, of_one in by_sparsity.items()
    }
    gains = {sparsity: _gains(results, by_sparsity.get(0.0, []), of_one) for sparsity, of_one in by_sparsity.items()}
    for axis, values, when, label in (
        (bias, scores, "at initialisation", "simplicity-bias score"),
        (gain, gains, "after training", "gain over dense, %"),
    ):
        panels.line(axis, values, f"w = {size_of(results.grid.runs[0])[0]:g}", {"color": SPARSE_COLOURS[0], "marker": "o"})
        axis.set_xlabel("sparsity")
        name_panel(axis, [when], label, from_zero=False)
    panels.seeds = {len({run.seed for run in results.grid.runs if run.id in results.lines})}
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
