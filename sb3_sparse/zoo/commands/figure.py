"""``sb3-sparse figure``: figures of the paper."""

import argparse
from pathlib import Path

from sb3_sparse.experiments.grid import BUDGETS, figure_grid, figures
from sb3_sparse.zoo.commands.place_options import add_place_options
from sb3_sparse.zoo.commands.sweep import run_grid
from sb3_sparse.zoo.registration import register


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser(
        "figure", help="run what is missing of the grid behind a figure of the paper, then draw the figure"
    )
    command.add_argument("number", type=int, choices=figures(), help="number of the figure in the paper")
    command.add_argument(
        "--budget",
        choices=BUDGETS,
        default="short",
        help="minutes on two CPU cores, hours on a GPU (streaming: of a CPU core), or the paper's (default: %(default)s)",
    )
    add_place_options(command, Path("runs/figures"))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, then draw the figure."""
    register()
    run_grid(figure_grid(options.number, options.budget), options)
