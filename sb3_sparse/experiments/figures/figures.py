"""Learning curves from tables of results."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.sweep.grid_run import short_task
from sb3_sparse.experiments.sweep.grid_table import read_table

# Okabe and Ito's colour-blind safe palette; dense and sparse have the same colour in every figure.
DENSE_COLOUR, MLP_COLOUR, RANDOM_COLOUR = "#D55E00", "#7F7F7F", "#BBBBBB"
DENSE_COLOURS = (DENSE_COLOUR, "#E69F00", "#F0E442")
SPARSE_COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#CC79A7")

_MLP = "SB3 MlpPolicy"
_NAMES = {"simba": "SimBa", "drqv2": "DrQ-v2"}

Network = tuple[str, float]  # legend and sparsity
Curves = Mapping[int, list[float]]  # environment steps -> mean return of each seed


def plot_table(table: Path, path: Path) -> Path:
    """
    Draw return against environment steps from a table of results, one panel per task: mean over seeds, and the range from
    worst to best seed.

    :param table: CSV file of a grid, or one that this package has
    :param path: Image file to write
    :return: That file
    :raises ValueError: if it is no such table, or empty.
    """
    try:
        lines = read_table(table)
    except OSError as error:
        raise ValueError(f"{table} cannot be read: {error.strerror}.") from error
    missing = {"task", "sparsity", "env_steps", "return_mean"} - set(lines[0] if lines else ())
    if missing:
        raise ValueError(f"{table} is no table of results: it lacks {', '.join(sorted(missing))}, or has no lines.")
    # Figures are drawn without touching pyplot's global state or needing a display.
    figure_module = import_extra("matplotlib.figure", "plots")
    panels = _group(lines)
    columns = min(3, len(panels))
    figure_rows = math.ceil(len(panels) / columns)
    figure = figure_module.Figure(figsize=(4.6 * columns, 3.4 * figure_rows), layout="constrained")
    axes = list(figure.subplots(figure_rows, columns, squeeze=False).flat)
    for axis, (task, networks) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, task, networks)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _group(lines: Iterable[Mapping[str, str]]) -> dict[str, dict[Network, Curves]]:
    panels: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in lines:
        network = (line["label"] if "label" in line else _name(line), float(line["sparsity"]))
        panels[line["task"]][network][int(line["env_steps"])].append(float(line["return_mean"]))
    return panels


def _name(line: Mapping[str, str]) -> str:
    """Of a network that has no label."""
    if line["network"] == "mlp":
        return _MLP
    width = f" x{float(line['width_scale']):g}" if line["network"] == "drqv2" else ""
    name, sparsity = _NAMES[line["network"]] + width, float(line["sparsity"])
    return f"sparse {name}, S = {sparsity:g}" if sparsity else f"dense {name}"


def _draw_panel(axis: Any, task: str, networks: Mapping[Network, Curves]) -> None:
    for (name, _), curves, colour in zip(networks, networks.values(), _colours(networks), strict=True):
        steps = sorted(curves)
        axis.plot(steps, [np.mean(curves[step]) for step in steps], color=colour, label=name)
        axis.fill_between(
            steps, [min(curves[step]) for step in steps], [max(curves[step]) for step in steps], color=colour, alpha=0.2, lw=0
        )
    axis.set_title(short_task(task))
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return")
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize="small")


def _colours(networks: Iterable[Network]) -> list[str]:
    dense, sparse = itertools.cycle(DENSE_COLOURS), itertools.cycle(SPARSE_COLOURS)
    return [MLP_COLOUR if name == _MLP else next(sparse if sparsity else dense) for name, sparsity in networks]
