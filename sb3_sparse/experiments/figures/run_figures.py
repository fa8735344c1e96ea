"""Figures of training runs: how they learned, what became of their plasticity, how sparse they are."""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.figures.figures import DENSE_COLOUR, MLP_COLOUR, SPARSE_COLOURS, begin_at_zero, distinct_names
from sb3_sparse.zoo.run_folders import RunFolder

Groups = Mapping[str, Sequence[RunFolder]]  # legend -> runs that differ in their seed
Series = Mapping[int, list[float]]  # environment steps -> value of each run

FORMATS = ("png", "pdf")
LINE_STYLES = ("-", "--", ":", "-.")
_NETWORKS = ("critic", "q_net", "quantile_net", "actor", "encoder")
# Metric -> title of its panel, and whether its axis is logarithmic.
_METRICS = {
    "dormant": ("dormant ratio (tau = {})", False),
    "srank": ("Srank", False),
    "gradient_norm": ("gradient norm", True),
    "parameter_norm": ("parameter norm", False),
}
_EPISODES_SMOOTHED = 10


def group(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """
    Put runs together that differ in their seed only; dense networks first, then by sparsity.

    :param runs: Runs
    :return: Name -> runs
    """
    groups: dict[str, list[RunFolder]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.sparsity is None, run.sparsity or 0.0, run.name)):
        groups[json.dumps([run.name, run.settings], sort_keys=True, default=str)].append(run)
    names = distinct_names([(members[0].name, members[0].settings) for members in groups.values()])
    return dict(zip(names, groups.values(), strict=True))


def styles(groups: Groups) -> dict[str, dict[str, Any]]:
    """
    Colour and line of every group: dense networks have one colour everywhere, each sparsity has one of its own, and groups of
    the same sparsity differ in their lines.

    :param groups: Groups of runs
    """
    sparsities = sorted({runs[0].sparsity for runs in groups.values() if runs[0].sparsity})
    chosen: dict[str, dict[str, Any]] = {}
    lines: dict[str, Any] = defaultdict(lambda: itertools.cycle(LINE_STYLES))
    for name, runs in groups.items():
        sparsity = runs[0].sparsity
        colour = MLP_COLOUR if sparsity is None else DENSE_COLOUR
        if sparsity:
            colour = SPARSE_COLOURS[sparsities.index(sparsity) % len(SPARSE_COLOURS)]
        chosen[name] = {"color": colour, "linestyle": next(lines[colour])}
    return chosen


def plot_returns(groups: Groups, title: str, path: Path) -> list[Path]:
    """
    Draw return against environment steps.

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :return: Files written, none if there are no returns
    """
    curves = {name: _join([_return_series(run) for run in runs]) for name, runs in groups.items()}
    if not any(curves.values()):
        return []
    figure = _figure(1, 1, (5.6, 3.8))
    axis = figure.subplots()
    for name, style in styles(groups).items():
        _draw(axis, curves[name], name, style)
    _finish(axis, title, "return")
    axis.legend(frameon=False, fontsize="small")
    return _save(figure, path)


def plot_plasticity(groups: Groups, title: str, path: Path) -> list[Path]:
    """
    Draw dormant ratio, Srank, gradient norm and parameter norm against environment steps: a row for each network.

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :return: Files written, none if nothing was measured
    """
    measured = {(m.network, m.metric) for runs in groups.values() for run in runs for m in run.measurements}
    networks = [name for name in _NETWORKS if any(network == name for network, _ in measured)]
    panels = [(metric, *_METRICS[kind]) for kind in _METRICS for metric in _variants(kind, {m for _, m in measured})]
    if not networks or not panels:
        return []
    figure = _figure(len(networks), len(panels), (3.4, 2.7))
    axes = figure.subplots(len(networks), len(panels), squeeze=False)
    for (row, network), (column, (metric, label, is_log)) in itertools.product(enumerate(networks), enumerate(panels)):
        axis = axes[row, column]
        for name, style in styles(groups).items():
            series = _join([_metric_series(run, network, metric) for run in groups[name]])
            _draw(axis, series, name, style)
        if is_log:
            axis.set_yscale("log")
        _finish(axis, f"{network}: {label.format(metric.rpartition('_')[2])}", None)
        if not is_log:
            begin_at_zero(axis)
    _legend_below(figure, axes[0, 0], title)
    return _save(figure, path)


def plot_covariance(groups: Groups, title: str, path: Path, network: str = "critic") -> list[Path]:
    """
    Draw the gradient covariance matrices before and after training, one row for each group (its first run that has them).

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :param network: Name of the network
    :return: Files written, none if there are no matrices
    """
    rows = {}
    for name, runs in groups.items():
        found = [matrices for matrices in (run.matrices(network) for run in runs) if matrices]
        if found:
            rows[name] = (min(found[0]), max(found[0]), found[0])
    if not rows:
        return []
    figure = _figure(len(rows), 2, (3.0, 2.9))
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for pair, (name, (first, last, matrices)) in zip(axes, rows.items(), strict=True):
        for axis, steps in zip(pair, (first, last), strict=True):
            image = axis.imshow(matrices[steps], cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
            axis.set_title(f"{name}\n{steps:,} environment steps", fontsize="small")
            axis.set_xticks([])
            axis.set_yticks([])
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("cosine of two samples' gradients")
    figure.suptitle(f"{title}: {network}", fontsize="medium")
    return _save(figure, path)


def plot_layer_sparsity(groups: Groups, title: str, path: Path) -> list[Path]:
    """
    Draw the fraction of inactive weights of every layer of the saved models, one panel for each group (its first model).

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :return: Files written, none if no saved model has a sparse layer
    """
    found = {name: next((run.layer_sparsities for run in runs if run.layer_sparsities), {}) for name, runs in groups.items()}
    shown = {name: layers for name, layers in found.items() if any(layers.values())}
    if not shown:
        return []
    height = max(len(layers) for layers in shown.values())
    figure = _figure(1, len(shown), (4.6, 0.8 + 0.26 * height))
    for axis, (name, layers) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        bars = axis.barh(range(len(layers)), list(layers.values()), color=styles(groups)[name]["color"], height=0.7)
        axis.bar_label(bars, labels=[f" {value:.2f}" if value else " dense" for value in layers.values()], fontsize="x-small")
        axis.set_yticks(range(len(layers)), list(layers), fontsize="x-small")
        axis.invert_yaxis()
        axis.set_xlim(0, 1.12)
        axis.set_xlabel("fraction of inactive weights")
        axis.set_title(name, fontsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    return _save(figure, path)


def _variants(kind: str, metrics: set[str]) -> list[str]:
    if kind != "dormant":
        return [kind] if kind in metrics else []
    taus = sorted(metric for metric in metrics if metric.startswith("dormant_"))
    # One panel is enough: the first asked for is the smallest here, 0.1 the usual one.
    return ["dormant_0.1"] if "dormant_0.1" in taus else taus[:1]


def _return_series(run: RunFolder) -> dict[int, float]:
    if run.curve is None:
        return {}
    returns = np.asarray(run.curve.returns)
    if run.curve.is_evaluation or len(returns) < _EPISODES_SMOOTHED:
        return dict(zip(run.curve.env_steps, returns.tolist(), strict=True))
    smooth = np.convolve(returns, np.full(_EPISODES_SMOOTHED, 1 / _EPISODES_SMOOTHED), mode="valid")
    return dict(zip(run.curve.env_steps[_EPISODES_SMOOTHED - 1 :], smooth.tolist(), strict=True))


def _metric_series(run: RunFolder, network: str, metric: str) -> dict[int, float]:
    return {
        m.env_steps: m.value
        for m in run.measurements
        if m.network == network and m.metric == metric and m.layer == "" and math.isfinite(m.value)
    }


def _join(runs: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    """Values of all runs at the steps that all of them have; interpolated where episodes end at different steps."""
    runs = [run for run in runs if run]
    if not runs:
        return {}
    common = sorted(set.intersection(*(set(run) for run in runs)))
    if len(common) >= min(len(run) for run in runs) // 2:
        return {step: [run[step] for run in runs] for step in common}
    last = min(max(run) for run in runs)
    steps = [step for step in sorted(runs[0]) if step <= last]
    values = [np.interp(steps, sorted(run), [run[step] for step in sorted(run)]) for run in runs]
    return {step: [float(value[i]) for value in values] for i, step in enumerate(steps)}


def _draw(axis: Any, series: Series, name: str, style: Mapping[str, Any]) -> None:
    if not series:
        return
    steps = list(series)
    count = max(len(values) for values in series.values())
    axis.plot(steps, [np.mean(series[s]) for s in steps], label=f"{name} ({count} seed{'s' if count > 1 else ''})", **style)
    low, high = [min(series[s]) for s in steps], [max(series[s]) for s in steps]
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.18, lw=0)


def _finish(axis: Any, title: str, label: str | None) -> None:
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("environment steps")
    if label is not None:
        axis.set_ylabel(label)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _legend_below(figure: Any, axis: Any, title: str) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)
    figure.suptitle(f"{title}: mean over seeds, and the range of all of them", fontsize="medium")


def _figure(rows: int, columns: int, panel: tuple[float, float]) -> Any:
    # Drawn without touching pyplot's global state or needing a display.
    figure_module = import_extra("matplotlib.figure", "plots")
    return figure_module.Figure(figsize=(panel[0] * columns, panel[1] * rows + 0.5), layout="constrained")


def _save(figure: Any, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in FORMATS]
    for file in files:
        figure.savefig(file, dpi=150)
    return files


Plotter = Callable[[Groups, str, Path], list[Path]]
FIGURES: dict[str, Plotter] = {
    "learning_curves": plot_returns,
    "plasticity": plot_plasticity,
    "covariance": plot_covariance,
    "layer_sparsity": plot_layer_sparsity,
}


def plot_runs(runs: Sequence[RunFolder], folder: Path) -> list[Path]:
    """
    Draw every figure that there is something for, of every task by itself.

    :param runs: Runs
    :param folder: Where figures are written to, as PNG and PDF
    :return: Files written
    :raises ValueError: if there are runs, but nothing in them to draw.
    """
    tasks: dict[str, list[RunFolder]] = defaultdict(list)
    for run in runs:
        if run.curve or run.measurements or run.model_file:
            tasks[run.task].append(run)
    files = []
    for task, task_runs in tasks.items():
        title = task.removeprefix("dm_control/").removesuffix("-v0") or "unknown task"
        prefix = f"{title.replace('/', '-').replace(' ', '-')}-" if len(tasks) > 1 else ""
        for name, draw in FIGURES.items():
            files += draw(group(task_runs), title, folder / f"{prefix}{name}")
    if runs and not files:
        raise ValueError(f"There is nothing to draw in {len(runs)} runs yet: no evaluation, no episode, no measurement.")
    return files
