"""Options of commands that run grids: where runs go, and where results are kept."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_sparse.experiments.sweep.grid import Grid
    from sb3_sparse.experiments.sweep.places import Place


def add_place_options(command: argparse.ArgumentParser, output: Path) -> None:
    """
    Add the options.

    :param command: Parser
    :param output: Default folder of results
    """
    command.add_argument(
        "--output", type=Path, default=output, help="folder of results, grids can share one (default: %(default)s)"
    )
    command.add_argument("--workers", type=int, help="runs at once on this machine; as many as CPU cores by default")
    command.add_argument("--address", help="HOST:PORT of a Ray cluster, or auto; by default Ray runs on this machine only")
    command.add_argument("--local", action="store_true", help="one run after the other in this process, without Ray")
    command.add_argument("--retries", type=int, default=3, help="of a run whose process died (default: %(default)s)")
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    command.add_argument("--dry-run", action="store_true", help="list the runs, and estimate what they will take")


def place_of(options: argparse.Namespace, grid: "Grid") -> "Place":
    """
    Where runs go.

    :param options: Options given
    :param grid: Grid, which says what its runs need
    :raises ValueError: if options contradict each other.
    """
    from sb3_sparse.buffers.present_device import check_device
    from sb3_sparse.installation import import_extra
    from sb3_sparse.experiments.sweep.places import RayCluster, ThisProcess

    if options.local and (options.address is not None or options.workers is not None):
        raise ValueError("--local runs in this process: leave out --address and --workers.")
    if options.address is not None and options.workers is not None:
        raise ValueError("--workers is for this machine; a cluster runs as many as it has room for: leave one of them out.")
    for name, number, least in (("--workers", options.workers, 1), ("--retries", options.retries, 0)):
        if number is not None and number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")
    check_device(options.device, is_here=options.address is None)
    if options.local:
        return ThisProcess(options.device)
    try:
        import_extra("ray", "cluster")
    except ImportError as error:
        raise ImportError(f"{error}, or add --local to train one run after the other.") from error
    return RayCluster(
        options.address, options.workers, grid.resources["cpus"], grid.resources["gpus"], options.retries, options.device
    )


def show_plan(grid: "Grid", device: str) -> None:
    """
    Print what a grid would train, and what that will take.

    :param grid: Grid
    :param device: Device that runs are timed on
    """
    from sb3_sparse.experiments.benchmarks.grid_cost import estimate

    for run in grid.runs:
        print(f"{run.id}  {run.agent_steps:,} agent steps")
    print(f"{grid.title}: {len(grid.runs)} runs, {sum(run.agent_steps for run in grid.runs):,} agent steps", flush=True)
    estimate(grid, device, functools.partial(print, flush=True))
