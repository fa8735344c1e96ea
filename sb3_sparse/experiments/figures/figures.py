"""Learning curves from tables of results."""

import itertools
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.sweep.grid_run import short_algorithm, short_task
from sb3_sparse.experiments.sweep.grid_table import OUTCOMES, Lines, read_table

# Okabe and Ito's colour-blind safe palette; dense and sparse have the same colour in every figure.
DENSE_COLOUR, MLP_COLOUR, RANDOM_COLOUR = "#D55E00", "#7F7F7F", "#BBBBBB"
INIT_COLOURS = {"SparseInit": "#E69F00", "frozen SparseInit": "#000000"}
DENSE_COLOURS = (DENSE_COLOUR, "#CC79A7", "#F0E442")
SPARSE_COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#8C564B")

_MLP = "SB3 MlpPolicy"
_NAMES = {"simba": "SimBa", "drqv2": "DrQ-v2"}

Pair = tuple[str, str]  # algorithm and task
Network = tuple[str, float]  # legend and sparsity
Curves = Mapping[int, list[float]]  # environment steps -> mean return of each seed
_REQUIRED = {"task", "sparsity", "env_steps", "return_mean"}


def plot_table(table: Path, path: Path) -> Path:
    """
    Draw return against environment steps from a table of results, one panel per algorithm and task: mean over seeds, and the
    range from worst to best seed. Whatever else tells runs apart makes lines of their own.

    :param table: CSV file of a grid, or one that this package has
    :param path: Image file to write
    :return: That file
    :raises ValueError: if it is no such table, or empty.
    """
    # Figures are drawn without touching pyplot's global state or needing a display.
    figure_module = import_extra("matplotlib.figure", "plots")
    panels = _group(_read(table))
    columns = min(3, len(panels))
    figure_rows = math.ceil(len(panels) / columns)
    figure = figure_module.Figure(figsize=(4.6 * columns, 3.4 * figure_rows), layout="constrained")
    axes = list(figure.subplots(figure_rows, columns, squeeze=False).flat)
    for axis, (pair, networks) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, pair, networks)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _read(table: Path) -> Lines:
    """The lines of a table that are whole; one that is being written may end in the middle of a line."""
    try:
        lines = read_table(table)
    except OSError as error:
        raise ValueError(f"{table} cannot be read: {error.strerror}.") from error
    there = set(lines[0] if lines else ())
    missing = [*(_REQUIRED - there), *(["label"] if not there & {"label", "network"} else [])]
    if missing:
        raise ValueError(f"{table} is no table of results: it lacks {', '.join(sorted(missing))}, or has no lines.")
    whole = [line for line in lines if _is_whole(line)]
    if not whole:
        raise ValueError(f"{table} holds no line with numbers for {', '.join(sorted(_REQUIRED - {'task'}))}.")
    if len(whole) < len(lines):
        number = next(i for i, line in enumerate(lines, 2) if not _is_whole(line))
        warnings.warn(f"{table}: {len(lines) - len(whole)} lines without their numbers are left out, the first is {number}.")
    return whole


def _is_whole(line: Mapping[str, str]) -> bool:
    try:
        _point(line)
    except (TypeError, ValueError):
        return False
    return None not in line.values()  # what csv gives columns that a line ends before


def _point(line: Mapping[str, str]) -> tuple[float, int, float]:
    """Sparsity, environment steps, mean return."""
    return float(line["sparsity"]), int(line["env_steps"]), float(line["return_mean"])


def _group(lines: Iterable[Mapping[str, str]]) -> dict[Pair, dict[Network, Curves]]:
    panels: dict[Pair, dict[str, list[Mapping[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        settings = json.dumps(_settings(line), sort_keys=True)
        panels[line.get("algo", ""), line["task"]][settings].append(line)
    return {pair: _named(list(runs.values())) for pair, runs in panels.items()}


def _settings(line: Mapping[str, str]) -> dict[str, Any]:
    """All that tells a line's run from others but the seed."""
    given = {column: _plain(text) for column, text in line.items() if column not in OUTCOMES | {"settings"}}
    return {**given, **json.loads(line.get("settings") or "{}")}


def _plain(text: str) -> float | str:
    """Numbers are one, however they are written."""
    try:
        return float(text)
    except ValueError:
        return text


def _named(groups: Sequence[Sequence[Mapping[str, str]]]) -> dict[Network, Curves]:
    first = [lines[0] for lines in groups]
    names = distinct_names([(line.get("label") or _name(line), _settings(line)) for line in first])
    found: dict[Network, Curves] = {}
    for name, lines in zip(names, groups, strict=True):
        curves: dict[int, list[float]] = defaultdict(list)
        for line in lines:
            sparsity, env_steps, mean = _point(line)
            curves[env_steps].append(mean)
        found[name, sparsity] = curves
    return found


def distinct_names(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """
    What legends call groups of runs: their names, and where several share one, the settings that they differ in as well.

    :param named: Name and settings of each group
    """
    counts = Counter(name for name, _ in named)
    found = []
    for name, settings in named:
        twins = [others for other, others in named if other == name]
        differing = [key for key, value in settings.items() if any(twin.get(key) != value for twin in twins)]
        words = [f"{key} = {settings[key]}" for key in differing if settings[key] not in ("", None)]
        found.append(", ".join([name, *words]) if counts[name] > 1 else name)
    return found


def _name(line: Mapping[str, str]) -> str:
    """Of a network that has no label."""
    if line["network"] == "mlp":
        return _MLP
    width = f" x{float(line['width_scale']):g}" if line["network"] == "drqv2" else ""
    name, sparsity = _NAMES.get(line["network"], line["network"]) + width, float(line["sparsity"])
    return f"sparse {name}, S = {sparsity:g}" if sparsity else f"dense {name}"


def _draw_panel(axis: Any, pair: Pair, networks: Mapping[Network, Curves]) -> None:
    for (name, _), curves, colour in zip(networks, networks.values(), _colours(networks), strict=True):
        steps = sorted(curves)
        axis.plot(steps, [np.mean(curves[step]) for step in steps], color=colour, label=name)
        axis.fill_between(
            steps, [min(curves[step]) for step in steps], [max(curves[step]) for step in steps], color=colour, alpha=0.2, lw=0
        )
    algorithm, task = pair
    axis.set_title(", ".join(filter(None, (short_algorithm(algorithm), short_task(task)))))
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return")
    begin_at_zero(axis)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    seeds = {len(values) for curves in networks.values() for values in curves.values()}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    words = "one seed" if seeds == {1} else f"mean and range, {count} seeds"
    axis.legend(frameon=False, fontsize="small", title=words, title_fontsize="small", alignment="left")


def begin_at_zero(axis: Any) -> None:
    """
    Have the vertical axis begin at zero, unless something lies below.

    :param axis: Panel, drawn
    """
    if axis.dataLim.ymin >= 0:
        axis.set_ylim(bottom=0)


def _colours(networks: Iterable[Network]) -> list[str]:
    dense, sparse = itertools.cycle(DENSE_COLOURS), itertools.cycle(SPARSE_COLOURS)
    own = {_MLP: MLP_COLOUR, **INIT_COLOURS}
    return [own.get(name.rpartition(", ")[2]) or next(sparse if sparsity else dense) for name, sparsity in networks]
