"""The paper's figures, each from the results of its grid, in the paper's layout."""

from pathlib import Path

from sb3_sparse.experiments.figures.course_figures import course, covariance, curve_panels
from sb3_sparse.experiments.figures.grid_panels import Draw
from sb3_sparse.experiments.figures.improvement_figure import improvements
from sb3_sparse.experiments.figures.scaling_figures import model_size, scaling_by_task, scaling_summary
from sb3_sparse.experiments.figures.sparsity_figures import rank, simplicity, sparsity_and_size
from sb3_sparse.experiments.figures.width_figures import curves_by_width, final_against_width
from sb3_sparse.experiments.sweep.grid_results import GridResults

FIGURES: dict[int, Draw] = {
    1: model_size(logarithmic=True),
    2: scaling_summary,
    3: sparsity_and_size,
    4: rank,
    5: curve_panels("critic_dormant", "actor_dormant", "critic_gradient_norm", "actor_gradient_norm"),
    6: curve_panels("return_mean"),
    7: curve_panels("actor_parameter_norm", "critic_parameter_norm"),
    8: simplicity,
    9: covariance,
    10: final_against_width,
    11: curve_panels("return_mean", "critic_active"),
    12: final_against_width,
    13: curves_by_width,
    14: model_size(logarithmic=False),
    15: scaling_by_task("width"),
    16: scaling_by_task("depth"),
    17: curves_by_width,
    18: improvements,
}


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
    draw = course if number is None else FIGURES[number]
    return draw(results, runs, path)
