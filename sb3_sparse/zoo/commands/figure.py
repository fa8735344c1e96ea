"""``sb3-sparse figure``: figures of the paper."""

import argparse
from pathlib import Path

from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.streaming import GRIDS, TABLE, run_grid
from sb3_sparse.experiments.streaming_figures import draw_figure


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser(
        "figure", help="run what is missing of the grid behind a figure of the paper, then draw the figure"
    )
    command.add_argument("number", type=int, choices=sorted(GRIDS), help="number of the figure in the paper")
    budgets = ("smoke", "short", "full")
    command.add_argument(
        "--budget",
        choices=budgets,
        default="short",
        help="a minute, half an hour, or a day and more of a CPU core (default: %(default)s)",
    )
    command.add_argument("--output", type=Path, default=Path("runs/figures"), help="folder to write to (default: %(default)s)")
    command.add_argument("--workers", type=int, help="processes at once; all CPU cores by default")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, then draw the figure."""
    grid = GRIDS[options.number][options.budget]
    import_extra("matplotlib", "plots")  # before hours of training, not after
    rows = run_grid(grid, options.output, options.workers)
    path = options.output / f"figure-{options.number}-{options.budget}.png"
    draw_figure(options.number, rows, grid, path)
    print(f"Results table: {options.output / TABLE}\nFigure: {path}")
