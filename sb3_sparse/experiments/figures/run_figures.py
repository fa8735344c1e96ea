"""Figures of training runs: how they learned, what became of their plasticity, how sparse they are."""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sb3_sparse.diagnostics.metrics import label_of, metric_of
from sb3_sparse.experiments.figures.course_figures import cosine_bar, draw_covariance
from sb3_sparse.experiments.figures.panels import Panels, Style, name_panel, step_axis, styles
from sb3_sparse.experiments.figures.table_figure import distinct_names
from sb3_sparse.zoo.run_folders import RunFolder

Groups = Mapping[str, Sequence[RunFolder]]  # legend -> runs that differ in their seed

_NETWORKS = ("critic", "q_net", "quantile_net", "actor", "encoder")
_METRICS = ("dormant", "srank", "gradient_norm", "parameter_norm")
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


def group_styles(groups: Groups) -> dict[str, Style]:
    """
    Colour and line of every group.

    :param groups: Groups of runs
    """
    return styles({name: runs[0].sparsity for name, runs in groups.items()})


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
    panels = Panels(1, size=(5.6, 3.8))
    for name, style in group_styles(groups).items():
        panels.line(panels.axes[0], curves[name], name, style)
    step_axis(panels.axes[0])
    name_panel(panels.axes[0], [], "return")
    return panels.save(path, title)


def plot_plasticity(groups: Groups, title: str, path: Path) -> list[Path]:
    """
    Draw what was measured of plasticity against environment steps: a row for each network.

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :return: Files written, none if nothing was measured
    """
    measured = {(m.network, m.metric) for runs in groups.values() for run in runs for m in run.measurements}
    networks = [name for name in _NETWORKS if any(network == name for network, _ in measured)]
    metrics = [name for kind in _METRICS for name in _variants(kind, {m for _, m in measured})]
    if not networks or not metrics:
        return []
    panels = Panels(len(networks) * len(metrics), columns=len(metrics), size=(3.4, 2.7))
    for axis, (network, name) in zip(panels.axes, itertools.product(networks, metrics), strict=True):
        metric = metric_of(name)
        for legend, style in group_styles(groups).items():
            panels.line(axis, _join([_metric_series(run, network, name) for run in groups[legend]]), legend, style)
        axis.set_yscale("log" if metric.is_log else "linear")
        step_axis(axis)
        name_panel(axis, [network], label_of(name), from_zero=not metric.is_log)
    return panels.save(path, title)


def plot_covariance(groups: Groups, title: str, path: Path, network: str = "critic") -> list[Path]:
    """
    Draw the gradient covariance matrices before and after training, one row for each group (its first run that has them).

    :param groups: Groups of runs of one task
    :param title: Task
    :param path: File without suffix
    :param network: Name of the network
    :return: Files written, none if there are no matrices
    """
    found = {name: [m for run in runs if (m := run.matrices(network))][:1] for name, runs in groups.items()}
    rows = [(name, matrices) for name, of_one in found.items() for matrices in of_one]
    if not rows:
        return []
    panels = Panels(2 * len(rows), columns=2, size=(3.2, 3.1))
    cells = [(name, matrices, steps) for name, matrices in rows for steps in (min(matrices), max(matrices))]
    for axis, (name, matrices, steps) in zip(panels.axes, cells, strict=True):
        draw_covariance(axis, matrices[steps], f"{name}\n{steps:,} environment steps")
    cosine_bar(panels)
    return panels.save(path, f"{title}: {network}")


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
    panels = Panels(len(shown), columns=len(shown), size=(4.6, 0.8 + 0.26 * height))
    for axis, (name, layers) in zip(panels.axes, shown.items(), strict=True):
        bars = axis.barh(range(len(layers)), list(layers.values()), color=group_styles(groups)[name]["color"], height=0.7)
        axis.bar_label(bars, labels=[f" {value:.2f}" if value else " dense" for value in layers.values()], fontsize="x-small")
        axis.set_yticks(range(len(layers)), list(layers), fontsize="x-small")
        axis.invert_yaxis()
        axis.set_xlim(0, 1.12)
        axis.set_xlabel("fraction of inactive weights")
        axis.set_title(name, fontsize="small")
    return panels.save(path, title)


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


def _join(runs: Sequence[Mapping[int, float]]) -> dict[float, list[float]]:
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
    :param folder: Where figures are written to, as PNG, PDF and SVG
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
