"""``sb3-sparse sweep``: a grid of runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_sparse.cli.place_options import add_place_options, place_of, show_plan
from sb3_sparse.experiments.sweep.shipped_grids import shipped_grids

if TYPE_CHECKING:
    from sb3_sparse.experiments.sweep.grid import Grid


_EXAMPLES = {"--set": "seeds=5", "--arm": "sparsity=0.9"}


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
    add_change_options(command)
    add_place_options(command, Path("runs/sweep"))
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, then draw."""
    from sb3_sparse.experiments.sweep.grid import load_grid
    from sb3_sparse.zoo.registration import register

    register()
    run_grid(load_grid(options.grid, options.budget, *changes_of(options)), options)


def add_change_options(command: argparse.ArgumentParser) -> None:
    """
    Add the options that change a grid.

    :param command: Parser
    """
    command.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the grid to replace, as YAML: seeds=5 task=Ant-v5"
    )
    command.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an arm to add to the grid's own: width_scale=2 sparsity=0.9 label=mine; can be given several times",
    )


def changes_of(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    What they ask for.

    :param options: Options given
    :return: Keys to replace, and arms to add
    """
    return _read("--set", options.set), [_read("--arm", words) for words in options.arm]


def _read(option: str, words: Sequence[str]) -> dict[str, Any]:
    from sb3_sparse.installation import import_extra
    from sb3_sparse.experiments.sweep.grid import GridError

    yaml = import_extra("yaml", "zoo")
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            changes[key] = yaml.safe_load(value) if equals else None
        except yaml.YAMLError as error:
            raise GridError(f"{option} {word}: {value!r} is not YAML: {error}") from error
        if not equals:
            raise GridError(f"{option} takes words such as {_EXAMPLES[option]}, got {word!r}.")
    return changes


def run_grid(grid: "Grid", options: argparse.Namespace) -> None:
    """
    Run what is missing of a grid, then draw its figure from what there is.

    :param grid: Grid
    :param options: Options of :func:`~sb3_sparse.cli.place_options.add_place_options`
    :raises ValueError: if runs failed; the figure is drawn before.
    """
    from sb3_sparse.buffers.present_device import check_device
    from sb3_sparse.installation import import_extra
    from sb3_sparse.experiments.sweep.grid_check import check_grid
    from sb3_sparse.experiments.sweep.grid_training import train_run
    from sb3_sparse.experiments.sweep.sweep import SweepError, sweep

    check_grid(grid)
    if options.dry_run:
        check_device(options.device)
        show_plan(grid, options.device)
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


def draw(grid: "Grid", output: Path, is_all: bool) -> None:
    """
    Draw a grid's figure, and say what is missing in it.

    :param grid: Grid
    :param output: Folder of results
    :param is_all: Whether all runs are finished
    """
    from sb3_sparse.experiments.figures.grid_figures import draw_figure
    from sb3_sparse.experiments.sweep.grid_results import GridResults

    results = GridResults.of(grid, output)
    if not results.lines and not is_all:
        return
    for problem in results.problems():
        print(problem)
    print(f"Figure: {draw_figure(results, output / 'runs', output / 'figures' / grid.name)[0]}", flush=True)
