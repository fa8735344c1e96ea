"""Figures of the course of training: returns, plasticity, norms and gradient covariance."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.diagnostics.metrics import COLUMNS, label_of, metric_of
from sb3_sparse.experiments.figures.grid_panels import (
    Draw,
    arm_label,
    arm_styles,
    draw_curves,
    draw_reference,
    of,
    pairs_of,
    panel_name,
)
from sb3_sparse.experiments.figures.panels import Panels, name_panel
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.results_folder import folder_of
from sb3_sparse.zoo.run_folders import RunFolder

_COURSE = ("dormant", "srank", "interference", "gradient_norm")


def course(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Return, and of the critic what was measured of its plasticity, a row each (grids of one's own)."""
    measured = [f"critic_{column}" for column in _COURSE]
    there = [column for column in measured if any(results.series(run, column) for run in results.grid.runs)]
    return curve_panels("return_mean", *there)(results, runs, path)


def curve_panels(*columns: str) -> Draw:
    """
    A row for each column of the table, a panel for each algorithm and task (figures 5, 6, 7 and 11).

    :param columns: Columns
    """

    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        pairs = pairs_of(results)
        is_grid = len(pairs) > 1 and len(columns) > 1
        panels = Panels(len(pairs) * len(columns), columns=len(pairs) if is_grid else 4)
        arms = results.arms()
        for axis, (column, pair) in zip(panels.axes, itertools.product(columns, pairs), strict=True):
            draw_curves(panels, axis, results, arms, of(*pair), column, arm_styles(arms))
            _name(axis, column, pair)
        return panels.save(path, results.grid.title)

    return draw


def _name(axis: Any, column: str, pair: tuple[str, str]) -> None:
    if column == "return_mean":
        draw_reference(axis, *pair)
        name_panel(axis, panel_name(*pair), "return")
        return
    network, _, short = column.partition("_")
    metric = metric_of(COLUMNS[short])
    axis.set_yscale("log" if metric.is_log else "linear")
    name_panel(axis, panel_name(*pair), f"{network}: {label_of(COLUMNS[short])}", from_zero=not metric.is_log)


def covariance(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """
    Gradient covariance before and after training, a row for each network, critic and actor (figure 9).

    Matrices are those of one run, as samples of different runs have nothing to do with each other: averaged entry by entry,
    interference would cancel out. Above stands the mean absolute cosine of two samples, averaged over all runs.
    """
    rows = []
    for network, of_one in itertools.product(("critic", "actor"), results.arms().values()):
        found = [matrices for run in of_one if (matrices := _matrices(runs, run, network))]
        rows += [(f"{network}, {arm_label(of_one)}", found)] if found else []
    if not rows:
        raise ValueError(f"No run of {results.grid.name} left gradient covariance matrices: set plasticity: covariance_freq.")
    panels = Panels(2 * len(rows), columns=4, size=(3.3, 3.4))
    cells = [(row, when, moment) for row in rows for when, moment in (("before", min), ("after", max))]
    for axis, ((name, found), when, moment) in zip(panels.axes, cells, strict=True):
        draw_covariance(axis, found[0][moment(found[0])], f"{name}\n{when} training\n{_interference(found, moment(found[0]))}")
    cosine_bar(panels)
    names = " and ".join(", ".join(panel_name(*pair)) for pair in pairs_of(results))
    return panels.save(path, f"{results.grid.title}: {names}")


def draw_covariance(axis: Any, matrix: np.ndarray, title: str) -> None:
    """
    Draw one gradient covariance matrix.

    :param axis: Panel
    :param matrix: (samples, samples) cosines
    :param title: Title
    """
    axis.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize="small")
    axis.set_xticks([])
    axis.set_yticks([])


def cosine_bar(panels: Panels) -> None:
    """
    Say what the colours of covariance matrices are.

    :param panels: Figure of nothing else
    """
    image = panels.axes[0].images[0]
    panels.figure.colorbar(image, ax=panels.axes, shrink=0.6).set_label("cosine of two samples' gradients")


def _interference(found: Sequence[Mapping[int, np.ndarray]], steps: int) -> str:
    """Mean absolute cosine of two samples, over all runs, and its standard deviation."""
    values = [float(np.abs(m[steps][~np.eye(len(m[steps]), dtype=bool)]).mean()) for m in found if steps in m]
    return f"mean |cosine| {np.mean(values):.3f} ± {np.std(values):.3f} ({len(values)} runs)"


def _matrices(runs: Path, run: GridRun, network: str) -> dict[int, np.ndarray]:
    for file in sorted(folder_of(runs, run).glob("*/*/plasticity.csv")):
        return RunFolder(file.parent).matrices(network)
    return {}
