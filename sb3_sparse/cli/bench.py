"""``sb3-sparse bench``: what updates, actions and products cost."""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_WIDTHS, _SPARSITIES = [1.0, 2.0], [0.0, 0.5, 0.8, 0.9, 0.95]
_STREAMING_TASK = "HalfCheetah-v4"
# What --option takes, and what it means.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "width-scale": {"nargs": "+", "type": float, "help": "times the usual width"},
    "width": {"nargs": "+", "type": int, "help": "widths of the networks"},
    "sparsity": {"nargs": "+", "type": float, "help": "sparsities"},
    "algorithm": {"nargs": "+", "help": "algorithms, all for None"},
    "batch": {"nargs": "+", "type": int, "help": "batch sizes"},
    "batch-size": {"type": int, "help": "samples of an update"},
    "env": {"help": "environment to train in"},
    "rounds": {"type": int, "help": "timed rounds"},
    "updates": {"type": int, "help": "updates per round"},
    "device": {"help": "cpu, cuda or auto"},
}


@dataclass(frozen=True)
class Subject:
    """
    What can be measured.

    :param help: What it is
    :param measure: Measures it, prints a table, and returns its lines, which are dataclasses
    :param defaults: Options of :data:`_OPTIONS` that it has, and their defaults
    """

    help: str
    measure: Callable[[argparse.Namespace], list[Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    subjects = commands.add_parser("bench", help="time updates, actions, products and checkpoints").add_subparsers(
        required=True, metavar="subject"
    )
    for name, subject in _SUBJECTS.items():
        command = subjects.add_parser(name, help=subject.help, description=f"Measure {subject.help}.")
        for option, default in subject.defaults.items():
            words = _OPTIONS[option]
            command.add_argument(
                f"--{option}", default=default, **{**words, "help": f"{words['help']} (default: %(default)s)"}
            )
        if name == "updates":
            _add_comparisons(command)
        command.add_argument("--json", type=Path, help="also write the figures to this file")
        command.set_defaults(run=run, measure=subject.measure)


def _add_comparisons(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-memory", action="store_true", help="do not measure memory")
    command.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU (default: %(default)s)")
    command.add_argument("--peer", action="store_true", help="time SBX (JAX) as well, if sbx-rl is installed")
    command.add_argument("--loop", metavar="ENV", help="also time whole training loops in this environment")
    command.add_argument("--loop-steps", type=int, default=1_000, help="agent steps of each (default: %(default)s)")
    command.add_argument("--loop-updates", type=int, default=2, help="updates per agent step (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure, and write down what was measured."""
    from sb3_sparse.buffers.present_device import check_device

    if options.json is not None and not options.json.parent.is_dir():
        raise ValueError(f"Cannot write {options.json}: there is no folder {options.json.parent}.")
    if "device" in options:
        check_device(options.device)
    costs = options.measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


def _updates(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.contenders import MLP, Contender, contenders
    from sb3_sparse.experiments.benchmarks.loop_cost import check_loop, format_loops, loop_cost
    from sb3_sparse.experiments.benchmarks.update_cost import format_table, update_cost

    if options.loop:
        check_loop(options.loop)
    compared = contenders(options.width_scale, options.sparsity, options.peer)
    sizes = options.rounds, options.updates, options.device, not options.no_memory, options.threads
    costs: list[Any] = update_cost(compared, *sizes)
    print(format_table(costs))
    if options.loop:
        everybody = [*compared, *(Contender(MLP, width) for width in options.width_scale)]
        settings = options.loop, options.loop_steps, options.device, options.loop_updates
        loops = [loop_cost(contender, *settings) for contender in everybody]
        print(format_loops(loops))
        costs += loops
    return costs


def _inference(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.inference_cost import format_passes, inference_cost

    costs = inference_cost(options.width_scale, options.sparsity, options.rounds)
    print(format_passes(costs))
    return costs


def _deployment(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.deployment_cost import deployment_cost, format_deployment

    cases = itertools.product(options.width_scale, options.sparsity)
    costs = [cost for case in cases for cost in deployment_cost(*case, options.rounds, options.algorithm)]
    print(format_deployment(costs))
    return costs


def _products(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.product_cost import format_crossovers, product_cost

    costs = product_cost(options.batch)
    print(format_crossovers(costs))
    return costs


def _checkpoints(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.checkpoint_cost import checkpoint_cost, format_checkpoints

    costs = checkpoint_cost((100_000, 1_000_000), width_scale=1.0, sparsity=0.9)
    print(format_checkpoints(costs))
    return costs


def _checkpoint_throughput(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks import checkpoint_throughput as throughput

    results = throughput.checkpoint_throughput(options.rounds, throughput.trained_models(options.env))
    print(throughput.format_throughput(results))
    return results


def _stream_ac(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.stream_cost import format_stream_table, stream_cost

    costs = stream_cost(options.width, options.sparsity, options.rounds, options.env)
    print(format_stream_table(costs))
    return costs


def _der(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.der_cost import der_cost, format_der_table

    costs = der_cost(options.width_scale, options.sparsity, options.rounds, options.updates, options.device)
    print(format_der_table(costs))
    return costs


def _drqv2(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.drqv2_cost import drqv2_cost, format_drqv2_table

    sizes = options.rounds, options.updates, options.batch_size
    costs = drqv2_cost(options.width_scale, options.sparsity, *sizes, options.device)
    print(format_drqv2_table(costs))
    return costs


def _pixels(options: argparse.Namespace) -> list[Any]:
    from sb3_sparse.experiments.benchmarks.pixel_cost import format_pixels, pixel_cost

    costs = pixel_cost(options.rounds)
    print(format_pixels(costs))
    return costs


_SIZES = {"width-scale": _WIDTHS, "sparsity": _SPARSITIES, "rounds": 7}
_UPDATES = {"updates": 5, "device": "auto"}
_SUBJECTS = {
    "updates": Subject("updates and actions of SAC: stock SB3, ours, dense and sparse", _updates, {**_SIZES, **_UPDATES}),
    "inference": Subject("one pass of an actor and a critic for one observation", _inference, _SIZES),
    "deployment": Subject(
        "every format of an export beside every algorithm",
        _deployment,
        {"width-scale": [1.0], "sparsity": [0.9], "algorithm": None, "rounds": 7},
    ),
    "products": Subject("up to which density single products pay", _products, {"batch": [1, 16, 64, 256]}),
    "checkpoints": Subject("checkpoints of 100,000 and a million transitions", _checkpoints),
    "checkpoint-throughput": Subject(
        "training with checkpoints every 10,000 steps and without, in turn",
        _checkpoint_throughput,
        {"rounds": 7, "env": _STREAMING_TASK},
    ),
    "stream-ac": Subject(
        "StreamAC beside plain autograd",
        _stream_ac,
        {"width": [128, 1024], "sparsity": _SPARSITIES, "rounds": 7, "env": _STREAMING_TASK},
    ),
    "der": Subject(
        "DER's updates beside plain torch",
        _der,
        {**_SIZES, "width-scale": [1.0, 3.0], "sparsity": [0.0, 0.4, 0.8], **_UPDATES},
    ),
    "drqv2": Subject("DrQv2's update beside plain torch", _drqv2, {**_SIZES, **_UPDATES, "batch-size": 256}),
    "pixels": Subject("environments that are rendered, and the replay buffer of frames", _pixels, {"rounds": 7}),
}
