"""The figure of improvements over the default network, game by game."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sb3_sparse.experiments.figures.figure_panels import Panels, name_panel, styles
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun, short_task


def improvements(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Improvement over the default network in per cent, a group of bars for each game (figure 18)."""
    arms = results.arms()
    base, *others = list(arms.values())
    names = sorted({short_task(run.task) for run in results.grid.runs})
    panels = Panels(1)
    axis = panels.axes[0]
    panels.figure.set_size_inches(max(6.0, 0.7 * len(names) + 2), 4.2)
    looks = styles(dict(list(arms.items())[1:]))
    reference = _means(results, base)
    for i, runs_of_arm in enumerate(others):
        values = _improvement(reference, _means(results, runs_of_arm))
        if not values:  # bars of nothing would still be in the legend
            continue
        places = [j + 0.8 * (i - (len(others) - 1) / 2) / len(others) for j, name in enumerate(names) if name in values]
        heights = [values[name] for name in names if name in values]
        axis.bar(places, heights, 0.8 / len(others), label=runs_of_arm[0].label, color=looks[runs_of_arm[0].arm]["color"])
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    words = [f"compared with {base[0].label}"]
    zeros = [name for name in names if reference.get(name) == 0]
    if zeros:
        words.append(f"which scores 0, so that there is no percentage, in {', '.join(zeros)}")
    name_panel(axis, words, "improvement, %", from_zero=False)
    return panels.save(path, results.grid.title)


def _means(results: GridResults, runs: Sequence[GridRun]) -> dict[str, float]:
    """Game -> mean final return over seeds."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        final = results.final(run)
        if final is not None and math.isfinite(final):
            by_task[short_task(run.task)].append(final)
    return {task: float(np.mean(values)) for task, values in by_task.items()}


def _improvement(reference: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    return {
        task: 100 * (value - reference[task]) / abs(reference[task]) for task, value in found.items() if reference.get(task)
    }
