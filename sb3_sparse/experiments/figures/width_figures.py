"""Figures of width in visual and streaming RL, and of initialisations."""

import itertools
from pathlib import Path

from sb3_sparse.experiments.figures.grid_panels import (
    curve,
    draw_reference,
    finals,
    network_name,
    of,
    pairs_of,
    panel_name,
)
from sb3_sparse.experiments.figures.panels import Panels, Style, name_panel, step_axis, styles
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun, short_task

_PUBLISHED_WIDTH = 128  # of Stream AC's networks in published results


def final_against_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Final return against width, a line for each sparsity and initialisation (figures 10 and 12)."""
    pairs, widths, looks = pairs_of(results), _widths(results), _network_styles(results)
    panels = Panels(len(pairs))
    for axis, pair in zip(panels.axes, pairs, strict=True):
        for name, style in looks.items():
            own = [run for run in results.grid.runs if of(*pair)(run) and network_name(run) == name]
            values = {width: finals(results, (run for run in own if _width(run) == width)) for width in widths}
            panels.line(axis, values, name, style)
        axis.set_xscale("log", base=2)
        axis.set_xticks(widths, [f"{width:g}" for width in widths])
        axis.minorticks_off()
        axis.set_xlabel("width" if max(widths) > 16 else "width scale")
        name_panel(axis, panel_name(*pair), results.final_label)
    return panels.save(path, results.grid.title)


def curves_by_width(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Learning curves, a row for each task and a panel for each width (figures 13 and 17)."""
    widths = _widths(results)
    cells = list(itertools.product(pairs_of(results), widths))
    panels = Panels(len(cells), columns=len(widths))
    for axis, (pair, width) in zip(panels.axes, cells, strict=True):
        own = [run for run in results.grid.runs if of(*pair)(run) and _width(run) == width]
        for name, style in _network_styles(results).items():
            panels.line(axis, curve(results, (run for run in own if network_name(run) == name)), name, style)
        step_axis(axis)
        if width == _PUBLISHED_WIDTH:
            draw_reference(axis, *pair)
        name_panel(axis, [short_task(pair[1]), f"width {width:g}"], "return of training episodes")
    return panels.save(path, results.grid.title)


def _network_styles(results: GridResults) -> dict[str, Style]:
    return styles({network_name(run): run.sparsity for run in results.grid.runs})


def _widths(results: GridResults) -> list[float]:
    return sorted({_width(run) for run in results.grid.runs})


def _width(run: GridRun) -> float:
    return float(run.policy.get("width", run.policy.get("width_scale", 1)))
