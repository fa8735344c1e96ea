"""Figures from the results table."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra

# Okabe and Ito's colour-blind safe palette; dense and sparse have the same colour in every figure.
DENSE_COLOUR, MLP_COLOUR, RANDOM_COLOUR = "#D55E00", "#7F7F7F", "#BBBBBB"
DENSE_COLOURS = (DENSE_COLOUR, "#E69F00", "#F0E442")
SPARSE_COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#CC79A7")

Network = tuple[str, float]  # name and sparsity
Curves = Mapping[int, list[float]]  # environment steps -> mean return of each seed


def plot_learning_curves(
    lines: Iterable[Mapping[str, str]], path: Path, random_returns: Mapping[str, float] | None = None
) -> None:
    """
    Draw return against environment steps, one panel per task: mean over seeds, and the range from worst to best seed.

    :param lines: Lines of the results table
    :param path: Image file to write
    :param random_returns: Task -> return of random actions, drawn as a dashed line
    """
    # Figures are drawn without touching pyplot's global state or needing a display.
    figure_module = import_extra("matplotlib.figure", "plots")
    panels = _group(lines)
    columns = min(3, len(panels))
    figure_rows = math.ceil(len(panels) / columns)
    figure = figure_module.Figure(figsize=(4.6 * columns, 3.4 * figure_rows), layout="constrained")
    axes = figure.subplots(figure_rows, columns, squeeze=False).flat
    for axis, (task, networks) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, task, networks, (random_returns or {}).get(task))
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _group(lines: Iterable[Mapping[str, str]]) -> dict[str, dict[tuple[str, float], Curves]]:
    panels: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in lines:
        width = f" x{float(line['width_scale']):g}" if line["network"] == "drqv2" else ""
        network = (line["network"] + width, float(line["sparsity"]))
        panels[line["task"]][network][int(line["env_steps"])].append(float(line["return_mean"]))
    return panels


def _draw_panel(axis: Any, task: str, networks: Mapping[tuple[str, float], Curves], random_return: float | None) -> None:
    sparse = sorted(key for key in networks if key[0] != "mlp" and key[1] > 0)
    dense = sorted(key for key in networks if key[0] != "mlp" and key[1] == 0)
    for (network, sparsity), curves in sorted(networks.items()):
        steps = sorted(curves)
        label, colour = _style(network, sparsity, dense, sparse)
        axis.plot(steps, [np.mean(curves[step]) for step in steps], color=colour, label=label)
        axis.fill_between(
            steps, [min(curves[step]) for step in steps], [max(curves[step]) for step in steps], color=colour, alpha=0.2, lw=0
        )
    if random_return is not None:
        axis.axhline(random_return, color=RANDOM_COLOUR, linestyle="--", label="random actions")
    axis.set_title(task.removeprefix("dm_control/").removesuffix("-v0"))
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return")
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize="small")


def _style(network: str, sparsity: float, dense: list[Network], sparse: list[Network]) -> tuple[str, str]:
    if network == "mlp":
        return "SB3 MlpPolicy", MLP_COLOUR
    name = "SimBa" if network == "simba" else network.replace("drqv2", "DrQ-v2")
    if sparsity == 0:
        return f"dense {name}", DENSE_COLOURS[dense.index((network, sparsity)) % len(DENSE_COLOURS)]
    return f"sparse {name}, S = {sparsity:g}", SPARSE_COLOURS[sparse.index((network, sparsity)) % len(SPARSE_COLOURS)]
