"""``sb3-sparse figure``: figures of the paper."""

import argparse
from pathlib import Path

from sb3_sparse.cli.place_options import add_place_options
from sb3_sparse.cli.sweep import add_change_options, changes_of, run_grid
from sb3_sparse.experiments.sweep.shipped_grids import BUDGETS, figures


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser(
        "figure", help="run what is missing of the grid behind a figure of the paper, then draw the figure"
    )
    command.add_argument(
        "number",
        type=int,
        nargs="+",
        choices=figures(),
        metavar="N",
        help="number of the figure in the paper, 1 to 18, or several",
    )
    command.add_argument(
        "--budget",
        choices=BUDGETS,
        default="short",
        help="minutes on two CPU cores, hours on a GPU (streaming: of a CPU core), or the paper's (default: %(default)s)",
    )
    add_change_options(command)
    add_place_options(command, Path("runs/figures"))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, then draw the figures; runs of one that fail do not keep the next from beginning."""
    from sb3_sparse.experiments.sweep.grid import figure_grid
    from sb3_sparse.experiments.sweep.sweep import SweepError
    from sb3_sparse.zoo.registration import register

    register()
    grids = [figure_grid(number, options.budget, *changes_of(options)) for number in options.number]
    failures = []
    for grid in grids:
        try:
            run_grid(grid, options)
        except SweepError as error:
            failures.append(f"{grid.name}: {error}")
    if failures:
        raise SweepError("\n".join(failures))
