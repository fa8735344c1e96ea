"""The figure of improvements over the default network, game by game."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.experiments.figures.aggregation import Estimate
from sb3_sparse.experiments.figures.grid_panels import arm_label, arm_styles, finals
from sb3_sparse.experiments.figures.panels import Panels, Style, name_panel, spread
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun, short_task

_GAMES_IN_A_ROW = 9
_LINEAR = 100  # per cent; beyond, the axis is logarithmic, as single games improve tenfold


def improvements(results: GridResults, runs: Path, path: Path) -> list[Path]:
    """Improvement over the default network in per cent, a group of bars for each game (figure 18)."""
    arms = results.arms()
    base, *others = list(arms.items())
    reference = {game: float(np.mean(values)) for game, values in _finals(results, base[1]).items()}
    names = sorted({short_task(run.task) for run in results.grid.runs})
    rows = [names[start : start + _GAMES_IN_A_ROW] for start in range(0, len(names), _GAMES_IN_A_ROW)]
    panels = Panels(len(rows), columns=1, size=(max(6.0, 1.15 * len(rows[0])), 2.5))
    looks = arm_styles(dict(others))
    for i, (arm, of_arm) in enumerate(others):
        found = _finals(results, of_arm)
        panels.seeds |= set(map(len, found.values()))
        bars = {game: _improvement(reference[game], values) for game, values in found.items() if reference.get(game)}
        for axis, games in zip(panels.axes, rows, strict=True):
            _draw_bars(axis, games, bars, (i - (len(others) - 1) / 2, 0.8 / len(others)), arm_label(of_arm), looks[arm])
    for axis, games in zip(panels.axes, rows, strict=True):
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xlim(-0.6, len(games) - 0.4)
        axis.set_xticks(range(len(games)), games, fontsize="small")
        name_panel(axis, [], "improvement, %", from_zero=False)
    _share_scale(panels.axes)
    zeros = [name for name in names if reference.get(name) == 0]
    words = [f"compared with {arm_label(base[1])}"]
    words += [f"which scores 0, so that there is no percentage, in {', '.join(zeros)}"] if zeros else []
    name_panel(panels.axes[0], words, "improvement, %", from_zero=False)
    return panels.save(path, results.grid.title)


def _draw_bars(
    axis: Any, games: Sequence[str], bars: Mapping[str, Estimate], place: tuple[float, float], label: str, style: Style
) -> None:
    shown = {j + place[0] * place[1]: bars[game] for j, game in enumerate(games) if game in bars}
    if not shown:  # bars of nothing would still be in the legend
        return
    heights, errors = [bar.value for bar in shown.values()], [bar.high - bar.value for bar in shown.values()]
    bad = {"elinewidth": 0.8, "ecolor": "#333333"}
    axis.bar(list(shown), heights, place[1], yerr=errors, label=label, color=style["color"], error_kw=bad)


def _share_scale(axes: Sequence[Any]) -> None:
    """The same vertical axis for all games."""
    low, high = (end(axis.get_ylim()[i] for axis in axes) for i, end in enumerate((min, max)))
    for axis in axes:
        if high > 5 * _LINEAR:
            axis.set_yscale("symlog", linthresh=_LINEAR)
            ticks = [-_LINEAR, 0, *(_LINEAR * 10**power for power in range(6))]
            axis.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.minorticks_off()
        axis.set_ylim(low, high)


def _finals(results: GridResults, runs: Sequence[GridRun]) -> dict[str, list[float]]:
    """Game -> final return of each seed."""
    by_game: dict[str, list[GridRun]] = defaultdict(list)
    for run in runs:
        by_game[short_task(run.task)].append(run)
    return {game: values for game, of_game in by_game.items() if (values := finals(results, of_game))}


def _improvement(reference: float, values: Sequence[float]) -> Estimate:
    return spread([100 * (value - reference) / abs(reference) for value in values])
