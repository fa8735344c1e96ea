"""``sb3-sparse sweep``: a grid of runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_sparse.cli.place_options import add_place_options, list_runs, place_of
from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.figures.grid_figures import draw_figure
from sb3_sparse.experiments.sweep.grid import Grid, GridError, load_grid, shipped_grids
from sb3_sparse.experiments.sweep.grid_check import check_grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_training import train_run
from sb3_sparse.experiments.sweep.sweep import SweepError, sweep
from sb3_sparse.zoo.registration import register


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    grids = shipped_grids()
    width = max(map(len, grids)) + 2
    command = commands.add_parser(
        "sweep",
        help="run what is missing of a grid of runs, on this machine or a cluster",
        epilog="grids of this package:\n" + "\n".join(f"  {name:<{width}}{title}" for name, title in grids.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("grid", type=Path, help="YAML file of the grid, or the name of one of this package, see below")
    command.add_argument("--budget", help="entry of the grid's budgets; the file as it is by default")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the grid to replace, as YAML: seeds=5 task=Ant-v5"
    )
    add_place_options(command, Path("runs/sweep"))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, then draw."""
    register()
    run_grid(load_grid(options.grid, options.budget, _changes(options.set)), options)


def _changes(words: Sequence[str]) -> dict[str, Any]:
    yaml = import_extra("yaml", "zoo")
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            changes[key] = yaml.safe_load(value) if equals else None
        except yaml.YAMLError as error:
            raise GridError(f"--set {word}: {value!r} is not YAML: {error}") from error
        if not equals:
            raise GridError(f"--set takes words such as seeds=5, got {word!r}.")
    return changes


def run_grid(grid: Grid, options: argparse.Namespace) -> None:
    """
    Run what is missing of a grid, then draw its figure from what there is.

    :param grid: Grid
    :param options: Options of :func:`~sb3_sparse.cli.place_options.add_place_options`
    :raises ValueError: if runs failed; the figure is drawn before.
    """
    check_grid(grid)
    if options.dry_run:
        list_runs(grid)
        return
    import_extra("matplotlib", "plots")  # before hours of training, not after
    import_extra("rliable", "plots")
    try:
        sweep(grid, options.output, place_of(options, grid), train_run)
    except SweepError as error:
        draw(grid, options.output, is_all=False)
        raise error
    except KeyboardInterrupt:
        print("\nStopped. What is finished is kept; the same command goes on.", flush=True)
        raise SystemExit(130) from None
    except OSError as error:
        raise ValueError(
            f"{options.output}: {error.strerror}. Mend that, or give another folder (--output). What is finished is kept; the "
            "same command goes on."
        ) from error
    draw(grid, options.output, is_all=True)


def draw(grid: Grid, output: Path, is_all: bool) -> None:
    """
    Draw a grid's figure, and say what is missing in it.

    :param grid: Grid
    :param output: Folder of results
    :param is_all: Whether all runs are finished
    """
    results = GridResults.of(grid, output)
    if not results.lines and not is_all:
        return
    for problem in results.problems():
        print(problem)
    print(f"Figure: {draw_figure(results, output / 'runs', output / 'figures' / grid.name)[0]}", flush=True)
