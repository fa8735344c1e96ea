"""``sb3-sparse bench``: what updates, actions and products cost."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_sparse.buffers.present_device import check_device
from sb3_sparse.experiments.benchmarks.checkpoint_cost import checkpoint_cost, format_checkpoints
from sb3_sparse.experiments.benchmarks.checkpoint_throughput import checkpoint_throughput, format_throughput, trained_models
from sb3_sparse.experiments.benchmarks.contenders import contenders
from sb3_sparse.experiments.benchmarks.der_cost import SPARSITIES, WIDTHS, der_cost, format_der_table
from sb3_sparse.experiments.benchmarks.drqv2_cost import drqv2_cost, format_drqv2_table
from sb3_sparse.experiments.benchmarks.inference_cost import format_passes, inference_cost
from sb3_sparse.experiments.benchmarks.loop_cost import check_loop, format_loops, loop_cost
from sb3_sparse.experiments.benchmarks.pixel_cost import format_pixels, pixel_cost
from sb3_sparse.experiments.benchmarks.product_cost import BATCHES, format_crossovers, product_cost
from sb3_sparse.experiments.benchmarks.stream_cost import TASK, format_stream_table, stream_cost
from sb3_sparse.experiments.benchmarks.update_cost import format_table, update_cost

# Of SAC; other subjects have defaults of their own.
_WIDTHS, _SPARSITIES = [1.0, 2.0], [0.0, 0.5, 0.8, 0.9, 0.95]

# Measures, prints a table, and returns its lines, which are dataclasses.
Measure = Callable[[argparse.Namespace], list[Any]]


@dataclass(frozen=True)
class Subject:
    """
    What can be measured instead of SAC's updates.

    :param help: Of its option
    :param measure: Measures it
    """

    help: str
    measure: Measure


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("bench", help="time updates and actions of SAC: stock SB3, ours, dense and sparse")
    command.add_argument(
        "--width-scale", nargs="+", type=float, default=_WIDTHS, help="times the paper's width (default: %(default)s)"
    )
    command.add_argument("--sparsity", nargs="+", type=float, default=_SPARSITIES, help="sparsities (default: %(default)s)")
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    command.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    command.add_argument("--updates", type=int, default=5, help="updates per round (default: %(default)s)")
    command.add_argument("--no-memory", action="store_true", help="do not measure memory")
    command.add_argument("--peer", action="store_true", help="time SBX (JAX) as well, if sbx-rl is installed")
    command.add_argument("--loop", metavar="ENV", help="also time whole training loops in this environment")
    command.add_argument("--loop-steps", type=int, default=1_000, help="agent steps of each (default: %(default)s)")
    instead = command.add_mutually_exclusive_group()
    for option, subject in _INSTEAD.items():
        instead.add_argument(option, dest="measure", action="store_const", const=subject.measure, help=subject.help)
    command.add_argument("--width", nargs="+", type=int, default=[128, 1024], help="of StreamAC (default: %(default)s)")
    command.add_argument("--env", default=TASK, help="environment that StreamAC trains in (default: %(default)s)")
    command.add_argument("--batch", nargs="+", type=int, default=list(BATCHES), help="batch sizes (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=256, help="of DrQv2's updates (default: %(default)s)")
    command.add_argument("--json", type=Path, help="also write the figures to this file")
    command.set_defaults(run=run, measure=_updates)


def run(options: argparse.Namespace) -> None:
    """Measure, and write down what was measured."""
    if options.json is not None and not options.json.parent.is_dir():
        raise ValueError(f"Cannot write {options.json}: there is no folder {options.json.parent}.")
    check_device(options.device)
    costs = options.measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


def _updates(options: argparse.Namespace) -> list[Any]:
    if options.loop:
        check_loop(options.loop)
    compared = contenders(options.width_scale, options.sparsity, options.peer)
    costs: list[Any] = update_cost(compared, options.rounds, options.updates, options.device, not options.no_memory)
    print(format_table(costs))
    if options.loop:
        loops = [loop_cost(contender, options.loop, options.loop_steps, options.device) for contender in compared]
        print(format_loops(loops))
        costs += loops
    return costs


def _inference(options: argparse.Namespace) -> list[Any]:
    costs = inference_cost(options.width_scale, options.sparsity, options.rounds)
    print(format_passes(costs))
    return costs


def _products(options: argparse.Namespace) -> list[Any]:
    costs = product_cost(batches=options.batch)
    print(format_crossovers(costs))
    return costs


def _checkpoints(options: argparse.Namespace) -> list[Any]:
    costs = checkpoint_cost((100_000, 1_000_000), options.width_scale[0], max(options.sparsity))
    print(format_checkpoints(costs))
    return costs


def _checkpoint_throughput(options: argparse.Namespace) -> list[Any]:
    results = checkpoint_throughput(options.rounds, trained_models(options.env))
    print(format_throughput(results))
    return results


def _stream_ac(options: argparse.Namespace) -> list[Any]:
    costs = stream_cost(options.width, options.sparsity, options.rounds, options.env)
    print(format_stream_table(costs))
    return costs


def _der(options: argparse.Namespace) -> list[Any]:
    widths = WIDTHS if options.width_scale == _WIDTHS else options.width_scale
    sparsities = SPARSITIES if options.sparsity == _SPARSITIES else options.sparsity
    costs = der_cost(widths, sparsities, options.rounds, options.updates, options.device)
    print(format_der_table(costs))
    return costs


def _drqv2(options: argparse.Namespace) -> list[Any]:
    sizes = options.rounds, options.updates, options.batch_size
    costs = drqv2_cost(options.width_scale, options.sparsity, *sizes, options.device)
    print(format_drqv2_table(costs))
    return costs


def _pixels(options: argparse.Namespace) -> list[Any]:
    costs = pixel_cost(options.rounds)
    print(format_pixels(costs))
    return costs


# Options that exclude each other, in the order of the help.
_INSTEAD = {
    "--inference": Subject("instead, one pass of an actor and a critic for one observation", _inference),
    "--products": Subject("instead, up to which density single products pay (option --batch)", _products),
    "--checkpoints": Subject("instead, checkpoints of 100,000 and a million transitions", _checkpoints),
    "--checkpoint-throughput": Subject(
        "instead, training with checkpoints every 10,000 steps and without, in turn (options --rounds, --env)",
        _checkpoint_throughput,
    ),
    "--der": Subject("instead, DER's updates beside plain torch (defaults: widths 1 and 3, sparsities 0, 0.4, 0.8)", _der),
    "--stream-ac": Subject("instead, StreamAC beside plain autograd (options --width, --env)", _stream_ac),
    "--drqv2": Subject("instead, DrQv2's update beside plain torch (options --width-scale, --batch-size)", _drqv2),
    "--pixels": Subject("instead, environments that are rendered, and the replay buffer of frames", _pixels),
}
