"""Figures of the course of training: returns, plasticity, norms and gradient covariance."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sb3_sparse.experiments.figures.figure_panels import (
    Panels,
    draw_curves,
    draw_reference,
    name_panel,
    of,
    pairs_of,
    panel_name,
    styles,
)
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.zoo.run_folders import RunFolder


def learning_curves(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Return against environment steps, a panel for each algorithm and task (figures 6, 13, 17)."""
    return curve_panels(results, [("return_mean", "return")], path)


def course(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Return, and of the critic what was measured of its plasticity, a row each (grids of one's own)."""
    labels = {"dormant": "dormant ratio", "srank": "Srank", "interference": "gradient interference"}
    labels |= {"gradient_norm": "gradient norm"}
    measured = [(f"critic_{metric}", f"critic: {label}") for metric, label in labels.items()]
    there = [pair for pair in measured if any(results.series(run, pair[0]) for run in results.grid.runs)]
    return curve_panels(results, [("return_mean", "return"), *there], path)


def curve_panels(results: GridResults, columns: Sequence[tuple[str, str]], path: Path) -> list[Path]:
    """A row for each column of the table, a panel for each algorithm and task."""
    pairs = pairs_of(results)
    is_grid = len(pairs) > 1 and len(columns) > 1
    panels = Panels(len(pairs) * len(columns), **({"columns": len(pairs)} if is_grid else {}))
    arms = results.arms()
    for axis, ((column, label), pair) in zip(panels.axes, itertools.product(columns, pairs), strict=True):
        draw_curves(axis, results, arms, of(*pair), column, styles(arms))
        if column == "return_mean":
            draw_reference(axis, *pair)
        if "gradient_norm" in column:
            axis.set_yscale("log")
        name_panel(axis, panel_name(*pair), label, from_zero="gradient_norm" not in column)
    return panels.save(path, results.grid.title)


def plasticity(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Dormant ratio and gradient norm of critic and actor, a row each (figure 5)."""
    columns = [
        (f"{network}_{metric}", f"{network}: {label}")
        for metric, label in (("dormant", "dormant ratio"), ("gradient_norm", "gradient norm"))
        for network in ("critic", "actor")
    ]
    return curve_panels(results, columns, path)


def parameter_norms(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Parameter norm of actor and critic (figure 7)."""
    return curve_panels(results, [(f"{network}_parameter_norm", f"{network}: norm") for network in ("actor", "critic")], path)


def plasticity_of_pixels(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Learning curves, and the fraction of active units of the critic (figure 11)."""
    return curve_panels(results, [("return_mean", "return"), ("critic_active", "critic: active units")], path)


def covariance(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """
    Gradient covariance before and after training, a row for each network, critic and actor (figure 9).

    Matrices are those of one run, as samples of different runs have nothing to do with each other: averaged entry by entry,
    interference would cancel out. Above stands the mean absolute cosine of two samples, averaged over all runs.
    """
    rows = []
    for network, of_one in itertools.product(("critic", "actor"), results.arms().values()):
        found = [matrices for run in of_one if (matrices := _matrices(runs, run, network))]
        rows += [(f"{network}, {of_one[0].label}", found)] if found else []
    if not rows:
        raise ValueError(f"No run of {results.grid.name} left gradient covariance matrices: set plasticity: covariance_freq.")
    panels = Panels(2 * len(rows), columns=2)
    cells = [(name, found, steps) for name, found in rows for steps in (min(found[0]), max(found[0]))]
    for axis, (name, found, steps) in zip(panels.axes, cells, strict=True):
        image = axis.imshow(found[0][steps], cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(f"{name}, {steps:,} environment steps\n{_interference(found, steps)}", fontsize="small")
        axis.set_xticks([])
        axis.set_yticks([])
    panels.figure.colorbar(image, ax=panels.axes, shrink=0.6)
    return panels.save(path, results.grid.title)


def _interference(found: Sequence[Mapping[int, np.ndarray]], steps: int) -> str:
    """Mean absolute cosine of two samples, over all runs, and its standard deviation."""
    values = [float(np.abs(m[steps][~np.eye(len(m[steps]), dtype=bool)]).mean()) for m in found if steps in m]
    return f"mean |cosine| {np.mean(values):.3f} ± {np.std(values):.3f} ({len(values)} runs)"


def _matrices(runs: Path, run: GridRun, network: str) -> dict[int, np.ndarray]:
    for file in sorted((runs / run.id).glob("*/*/plasticity.csv")):
        return RunFolder(file.parent).matrices(network)
    return {}
