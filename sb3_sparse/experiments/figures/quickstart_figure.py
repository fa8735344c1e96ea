"""The quickstart's figure: streaming returns, and SAC's with what happens to its critic."""

from pathlib import Path

from sb3_sparse.experiments.figures.grid_panels import draw_curves, of, pairs_of, panel_name
from sb3_sparse.experiments.figures.panels import Panels, name_panel
from sb3_sparse.experiments.sweep.grid_results import GridResults

_OF_SAC = {
    "return_mean": "return",
    "critic_dormant": "critic: dormant ratio",
    "critic_parameter_norm": "critic: parameter norm",
}


def draw_quickstart(results: GridResults, path: Path) -> list[Path]:
    """
    Draw the runs of the quickstart.

    :param results: Results
    :param path: File without suffix
    :return: Files written
    """
    panels = [
        (pair, column, label)
        for pair in reversed(pairs_of(results))
        for column, label in _OF_SAC.items()
        if pair[0] == "sac" or column == "return_mean"
    ]
    drawn = Panels(len(panels), columns=2)
    for axis, (pair, column, label) in zip(drawn.axes, panels, strict=True):
        draw_curves(drawn, axis, results, results.arms(of(*pair)), of(*pair), column)
        name_panel(axis, panel_name(*pair), label)
    return drawn.save(path, results.grid.title)
