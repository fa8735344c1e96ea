"""The paper's figures, each from the results of its grid, in the paper's layout."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.aggregation import aggregate
from sb3_sparse.experiments.figure_panels import (
    Panels,
    Where,
    draw_curves,
    draw_line,
    draw_reference,
    name_panel,
    of,
    panel_name,
    styles,
)
from sb3_sparse.experiments.figures import DENSE_COLOUR, SPARSE_COLOURS
from sb3_sparse.experiments.grid_results import FINAL_FRACTION, GridResults
from sb3_sparse.experiments.grid_run import GridRun, short_task
from sb3_sparse.experiments.run_folders import RunFolder

Draw = Callable[[GridResults, Path, Path], list[Path]]
_FINAL = f"return, last {FINAL_FRACTION:.0%}"
_DENSE: dict[str, Any] = {"color": DENSE_COLOUR, "linestyle": "--", "marker": "o"}
_SPARSE: dict[str, Any] = {"color": SPARSE_COLOURS[0], "linestyle": "-", "marker": "*"}
_PUBLISHED_WIDTH = 128  # of Stream AC's networks in published results
# The paper's colours of network sizes in figures 3 and 4.
_SMALL, _LARGE = "#0072B2", "#E69F00"


def draw_figure(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """
    Draw a grid's figure from what is there of its runs.

    :param results: Results
    :param runs: Folder of all runs, for what is not in the table
    :param path: File without suffix
    :return: Files written
    :raises ValueError: if there is no finished run.
    """
    if not results.lines:
        raise ValueError(f"No run of {results.grid.name} is finished yet: there is nothing to draw.")
    number = results.grid.figure
    draw = learning_curves if number is None else FIGURES[number]
    return draw(results, runs, path)


def learning_curves(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Return against environment steps, a panel for each algorithm and task (grids of one's own; figures 6, 13, 17)."""
    return _curve_panels(results, [("return_mean", "return")], path)


def _curve_panels(results: GridResults, columns: Sequence[tuple[str, str]], path: Path) -> list[Path]:
    """A row for each column of the table, a panel for each algorithm and task."""
    pairs = _pairs(results)
    panels = Panels(len(pairs) * len(columns), columns=min(4, len(pairs)) if len(columns) == 1 else len(pairs))
    arms = results.arms()
    for axis, ((column, label), pair) in zip(panels.axes, itertools.product(columns, pairs), strict=True):
        draw_curves(axis, results, arms, of(*pair), column, styles(arms))
        if column == "return_mean":
            draw_reference(axis, *pair)
        if "gradient_norm" in column:
            axis.set_yscale("log")
        name_panel(axis, panel_name(*pair), label, from_zero="gradient_norm" not in column)
    return panels.save(path, results.grid.title)


def _pairs(results: GridResults) -> list[tuple[str, str]]:
    """Algorithms and tasks that there are runs of."""
    there = {(run.algorithm, run.task) for run in results.grid.runs}
    return [pair for pair in itertools.product(results.grid.algorithms, results.grid.tasks) if pair in there]


def _size(run: GridRun) -> tuple[float, float]:
    return float(run.policy.get("width_scale", 1)), float(run.policy.get("depth_scale", 1))


def _model_size(logarithmic: bool) -> Draw:
    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        """Score against parameters before pruning, a panel for each algorithm (figures 1 and 14)."""
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
    for size in dict.fromkeys(map(_size, own)):
        runs = [run for run in own if _size(run) == size]
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
    chosen = [run for run in results.grid.runs if where(run) and _size(run)[1 - index] == anchor[1 - index]]
    dense = [run for run in chosen if run.sparsity == 0]
    return dense, [run for run in chosen if run.sparsity > 0 or _size(run) == anchor]


def _draw_along(axis: Any, results: GridResults, scale: str, where: Where, aggregated: bool) -> None:
    index, label = _SCALES[scale]
    pair = _along(results, scale, where)
    for runs, name, style in zip(pair, ("dense", "sparse, equal parameters"), (_DENSE, _SPARSE), strict=True):
        sizes = sorted({_size(run)[index] for run in runs})
        by_size = [results.scores(run for run in runs if _size(run)[index] == size) for size in sizes]
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


def _scaling_by_task(scale: str) -> Draw:
    def draw(results: GridResults, runs: Path, path: Path) -> list[Path]:
        """Score against one scale, a panel for each algorithm and task (figures 15 and 16)."""
        pairs = _pairs(results)
        panels = Panels(len(pairs), columns=3)
        for axis, pair in zip(panels.axes, pairs, strict=True):
            _draw_along(axis, results, scale, of(*pair), aggregated=False)
            name_panel(axis, panel_name(*pair), "score")
        return panels.save(path, results.grid.title)

    return draw


def _draw_sparsities(axis: Any, results: GridResults, where: Where, column: str = "return_mean") -> None:
    """A line for each network size."""
    sizes = sorted({_size(run) for run in results.grid.runs})
    for size, colour, marker in zip(sizes, (_SMALL, _LARGE, *SPARSE_COLOURS[1:]), "osD^v", strict=False):
        runs = [run for run in results.grid.runs if where(run) and _size(run) == size]
        sparsities = sorted({run.sparsity for run in runs})
        values = [
            [final for run in runs if run.sparsity == sparsity and _finite(final := results.final(run, column))]
            for sparsity in sparsities
        ]
        parameters = [count for run in runs if (count := results.number(run, "parameters")) is not None]
        name = f"w = {size[0]:g} ({parameters[0] / 1e6:.3g}M)" if parameters else f"w = {size[0]:g}"
        draw_line(axis, sparsities, values, name, {"color": colour, "marker": marker, "linestyle": "-"})  # type: ignore[arg-type]
    axis.set_xlabel("sparsity")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def sparsity_and_size(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against sparsity, a line for each network size, a panel for each algorithm and task (figure 3)."""
    pairs = _pairs(results)
    panels = Panels(len(pairs))
    for axis, pair in zip(panels.axes, pairs, strict=True):
        _draw_sparsities(axis, results, of(*pair))
        name_panel(axis, panel_name(*pair), _FINAL)
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
    sizes = [_size(run) for run in results.grid.runs]
    sparsest = max(run.sparsity for run in results.grid.runs)
    wanted = {(min(sizes), 0.0), (max(sizes), 0.0), (max(sizes), sparsest)}
    return lambda run: (_size(run), run.sparsity) in wanted


def plasticity(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Dormant ratio and gradient norm of critic and actor, a row each (figure 5)."""
    columns = [
        (f"{network}_{metric}", f"{network}: {label}")
        for metric, label in (("dormant", "dormant ratio"), ("gradient_norm", "gradient norm"))
        for network in ("critic", "actor")
    ]
    return _curve_panels(results, columns, path)


def parameter_norms(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Parameter norm of actor and critic (figure 7)."""
    return _curve_panels(results, [(f"{network}_parameter_norm", f"{network}: norm") for network in ("actor", "critic")], path)


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


def covariance(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Gradient covariance of the critic before and after training, a row for each network (figure 9)."""
    rows = []
    for of_one in results.arms().values():
        with_matrices = [(run, matrices) for run in of_one if (matrices := _matrices(runs, run))]
        rows += [with_matrices[0]] if with_matrices else []
    if not rows:
        raise ValueError(f"No run of {results.grid.name} left gradient covariance matrices: set plasticity: covariance_freq.")
    panels = Panels(2 * len(rows), columns=2)
    cells = [(run, matrices, steps) for run, matrices in rows for steps in (min(matrices), max(matrices))]
    for axis, (run, matrices, steps) in zip(panels.axes, cells, strict=True):
        image = axis.imshow(matrices[steps], cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(f"{run.label}, {steps:,} environment steps", fontsize="small")
        axis.set_xticks([])
        axis.set_yticks([])
    panels.figure.colorbar(image, ax=panels.axes, shrink=0.6)
    return panels.save(path, results.grid.title)


def _matrices(runs: Path, run: GridRun) -> dict[int, np.ndarray]:
    for file in sorted((runs / run.id).glob("*/*/plasticity.csv")):
        return RunFolder(file.parent).matrices("critic")
    return {}


def _final_against_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against width, a line for each sparsity and initialisation (figures 10 and 12)."""
    pairs = _pairs(results)
    panels = Panels(len(pairs))
    arms = results.arms()
    kinds: dict[tuple[float, str], list[GridRun]] = defaultdict(list)
    for run in results.grid.runs:
        kinds[run.sparsity, str(run.policy.get("init", ""))].append(run)
    looks = styles(arms)
    for axis, pair in zip(panels.axes, pairs, strict=True):
        for (sparsity, init), kind in kinds.items():
            own = [run for run in kind if of(*pair)(run)]
            widths = sorted({_width(run) for run in own})
            values = [[v for run in own if _width(run) == w and _finite(v := results.final(run))] for w in widths]
            name = "SparseInit" if init == "sparse" else f"static, S = {sparsity:g}" if sparsity else "dense"
            draw_line(axis, widths, values, name, {**looks[kind[0].arm], "linestyle": "-"})  # type: ignore[arg-type]
        axis.set_xscale("log", base=2)
        widths = sorted({_width(run) for run in results.grid.runs})
        axis.set_xticks(widths, [f"{width:g}" for width in widths])
        axis.set_xlabel("width")
        name_panel(axis, panel_name(*pair), _FINAL)
    return panels.save(path, results.grid.title)


def _of_width(where: Where, width: float) -> Where:
    return lambda run: where(run) and _width(run) == width


def _width(run: GridRun) -> float:
    return float(run.policy.get("width", run.policy.get("width_scale", 1)))


def _curves_by_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Learning curves, a row for each task and a panel for each width (figures 13 and 17)."""
    widths = sorted({_width(run) for run in results.grid.runs})
    cells = list(itertools.product(_pairs(results), widths))
    panels = Panels(len(cells), columns=len(widths))
    arms = results.arms()
    first = {(runs[0].sparsity, str(runs[0].policy.get("init"))): arm for arm, runs in reversed(arms.items())}
    looks = styles(arms)
    for axis, (pair, width) in zip(panels.axes, cells, strict=True):
        here = results.arms(_of_width(of(*pair), width))
        for runs_of_arm in here.values():
            run = runs_of_arm[0]
            style = looks[first[run.sparsity, str(run.policy.get("init"))]]
            label = run.label.partition(", ")[2] or run.label
            series = [found for run in runs_of_arm if (found := results.series(run, "return_mean"))]
            steps = sorted({step for one in series for step in one})  # windows without the end of an episode have no value
            values = [[one[step] for one in series if step in one] for step in steps]
            draw_line(axis, steps, values, label, {**style, "marker": "", "linestyle": "-"})
        axis.set_xlabel("environment steps")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
        if width == _PUBLISHED_WIDTH:
            draw_reference(axis, *pair)
        name_panel(axis, [short_task(pair[1]), f"width {width:g}"], "return of training episodes")
    return panels.save(path, results.grid.title)


def plasticity_of_pixels(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Learning curves, and the fraction of active units of the critic (figure 11)."""
    return _curve_panels(results, [("return_mean", "return"), ("critic_active", "critic: active units")], path)


def improvements(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Improvement over the default network in per cent, a group of bars for each game (figure 18)."""
    arms = results.arms()
    base, *others = list(arms.values())
    names = sorted({short_task(run.task) for run in results.grid.runs})
    panels = Panels(1)
    axis = panels.axes[0]
    panels.figure.set_size_inches(max(6.0, 0.7 * len(names) + 2), 4.2)
    looks = styles(dict(list(arms.items())[1:]))
    for i, runs_of_arm in enumerate(others):
        values = _improvement(results, base, runs_of_arm)
        places = [j + 0.8 * (i - (len(others) - 1) / 2) / len(others) for j, name in enumerate(names) if name in values]
        heights = [values[name] for name in names if name in values]
        axis.bar(places, heights, 0.8 / len(others), label=runs_of_arm[0].label, color=looks[runs_of_arm[0].arm]["color"])
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    name_panel(axis, [f"compared with {base[0].label}"], "improvement, %", from_zero=False)
    return panels.save(path, results.grid.title)


def _improvement(results: GridResults, base: Sequence[GridRun], runs: Sequence[GridRun]) -> dict[str, float]:
    means: list[dict[str, float]] = []
    for of_one in (base, runs):
        by_task: dict[str, list[float]] = defaultdict(list)
        for run in of_one:
            final = results.final(run)
            if final is not None and math.isfinite(final):
                by_task[short_task(run.task)].append(final)
        means.append({task: float(np.mean(values)) for task, values in by_task.items()})
    reference, found = means
    return {
        task: 100 * (value - reference[task]) / abs(reference[task]) for task, value in found.items() if reference.get(task)
    }


FIGURES: dict[int, Draw] = {
    1: _model_size(logarithmic=True),
    2: scaling_summary,
    3: sparsity_and_size,
    4: rank,
    5: plasticity,
    6: learning_curves,
    7: parameter_norms,
    8: simplicity,
    9: covariance,
    10: _final_against_width,
    11: plasticity_of_pixels,
    12: _final_against_width,
    13: _curves_by_width,
    14: _model_size(logarithmic=False),
    15: _scaling_by_task("width"),
    16: _scaling_by_task("depth"),
    17: _curves_by_width,
    18: improvements,
}
