"""Learning curves from tables of results."""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_sparse.experiments.figures.panels import Panels, name_panel, step_axis, styles
from sb3_sparse.deployment.known_classes import short_algorithm
from sb3_sparse.experiments.sweep.grid_run import short_task
from sb3_sparse.experiments.sweep.grid_table import OUTCOMES, Lines, read_table

_MLP = "SB3 MlpPolicy"
_NAMES = {"simba": "SimBa", "drqv2": "DrQ-v2"}

Pair = tuple[str, str]  # algorithm and task
Network = tuple[str, float]  # legend and sparsity
Curves = dict[float, list[float]]  # environment steps -> mean return of each seed
_REQUIRED = {"task", "sparsity", "env_steps", "return_mean"}


def plot_table(table: Path, path: Path) -> Path:
    """
    Draw return against environment steps from a table of results, one panel per algorithm and task. Whatever else tells runs
    apart makes lines of their own.

    :param table: CSV file of a grid, or one that this package has
    :param path: Image file to write
    :return: That file
    :raises ValueError: if it is no such table, or empty.
    """
    drawn = _group(_read(table))
    panels = Panels(len(drawn), columns=3, size=(4.6, 3.4))
    looks = styles(
        {network: None if network[0] == _MLP else network[1] for networks in drawn.values() for network in networks}
    )
    for axis, (pair, networks) in zip(panels.axes, drawn.items(), strict=True):
        for (name, sparsity), curves in networks.items():
            panels.line(axis, dict(sorted(curves.items())), name, looks[name, sparsity])
        step_axis(axis)
        name_panel(axis, filter(None, (short_algorithm(pair[0]), short_task(pair[1]))), "return")
    (file,) = panels.save(path.with_suffix(""), formats=[path.suffix[1:]])
    return file


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
        curves: Curves = defaultdict(list)
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
