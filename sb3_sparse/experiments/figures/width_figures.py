"""Figures of width in visual and streaming RL, and of initialisations."""

import itertools
from collections import defaultdict
from pathlib import Path

from sb3_sparse.experiments.figures.figure_panels import (
    Panels,
    Where,
    draw_line,
    draw_reference,
    is_finite,
    name_panel,
    of,
    pairs_of,
    panel_name,
    styles,
)
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import INITIALISATIONS, GridRun, short_task

_PUBLISHED_WIDTH = 128  # of Stream AC's networks in published results


def final_against_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against width, a line for each sparsity and initialisation (figures 10 and 12)."""
    pairs = pairs_of(results)
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
            values = [[v for run in own if _width(run) == w and is_finite(v := results.final(run))] for w in widths]
            name = INITIALISATIONS.get(init) or (f"static, S = {sparsity:g}" if sparsity else "dense")
            draw_line(axis, widths, values, name, {**looks[kind[0].arm], "linestyle": "-"})  # type: ignore[arg-type]
        axis.set_xscale("log", base=2)
        widths = sorted({_width(run) for run in results.grid.runs})
        axis.set_xticks(widths, [f"{width:g}" for width in widths])
        axis.set_xlabel("width")
        name_panel(axis, panel_name(*pair), results.final_label)
    return panels.save(path, results.grid.title)


def _of_width(where: Where, width: float) -> Where:
    return lambda run: where(run) and _width(run) == width


def _width(run: GridRun) -> float:
    return float(run.policy.get("width", run.policy.get("width_scale", 1)))


def curves_by_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Learning curves, a row for each task and a panel for each width (figures 13 and 17)."""
    widths = sorted({_width(run) for run in results.grid.runs})
    cells = list(itertools.product(pairs_of(results), widths))
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
