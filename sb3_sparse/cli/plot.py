"""``sb3-sparse plot``: figures of training runs."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("plot", help="draw learning curves, plasticity and sparsity of training runs")
    command.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of runs (the RL Zoo's or others), folders that contain some, or tables of results (CSV)",
    )
    command.add_argument("--output", type=Path, default=Path("plots"), help="folder to write to (default: %(default)s)")
    command.add_argument(
        "--action-repeat", type=int, help="environment steps per agent step (default: what the run's environment says)"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw what there is of the runs."""
    from sb3_sparse.experiments.figures.run_figures import plot_runs
    from sb3_sparse.experiments.figures.table_figure import plot_table
    from sb3_sparse.zoo.run_folders import find_runs

    tables = [path for path in options.runs if path.suffix == ".csv"]
    for table in tables:
        print(plot_table(table, options.output / f"{_picture_name(table, tables)}.png"))
    folders = [path for path in options.runs if path not in tables]
    for file in plot_runs(find_runs(folders, options.action_repeat), options.output):
        print(file)


def _picture_name(table: Path, tables: Iterable[Path]) -> str:
    """A table's own name, after the folders that tell it from others of this name."""
    twins = {other.resolve() for other in tables if other.stem == table.stem}
    parts = table.resolve().relative_to(os.path.commonpath(twins)).parts if len(twins) > 1 else ()
    return "-".join([*parts[:-1], table.stem])
