"""The command line: ``sb3-sparse`` and ``python -m sb3_sparse``."""

import argparse
import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_sparse.deployment import FORMATS, export
from sb3_sparse.deployment.inference_cost import format_passes, inference_cost
from sb3_sparse.deployment.loading import load_model, load_vec_normalize
from sb3_sparse.experiments.product_cost import BATCHES, format_crossovers, product_cost
from sb3_sparse.experiments.quickstart import Quickstart, quickstart
from sb3_sparse.experiments.extras import import_extra
from sb3_sparse.experiments.stream_cost import TASK, format_stream_table, stream_cost
from sb3_sparse.experiments.streaming import GRIDS, TABLE, run_grid
from sb3_sparse.experiments.streaming_figures import draw_figure
from sb3_sparse.experiments.contenders import contenders
from sb3_sparse.experiments.loop_cost import format_loops, loop_cost
from sb3_sparse.experiments.run_figures import plot_runs
from sb3_sparse.experiments.run_folders import find_runs
from sb3_sparse.experiments.update_cost import format_table, update_cost
from sb3_sparse.zoo.registration import register
from sb3_sparse.zoo.sharing import SharingError, pulling, pushing

# Our commands that are the RL Zoo's own, and the zoo's modules behind them.
_ZOO_COMMANDS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record": "rl_zoo3.record_video",
    "push": "rl_zoo3.push_to_hub",
    "pull": "rl_zoo3.load_from_hub",
}
# In what some of them run.
_SURROUNDINGS = {"push": pushing, "pull": pulling}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: Command line without the program's name, that of the process if None
    :return: Exit status; 1 after an error that the user can mend, which is printed without a traceback
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_zoo_command = bool(words) and words[0] in _ZOO_COMMANDS
    try:
        if is_zoo_command:
            register()
        else:
            options = _parser().parse_args(words)
            options.run(options)
    except (ImportError, ValueError, gym.error.Error) as error:
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    if is_zoo_command:  # not above, as what goes wrong in hours of training is worth a traceback
        return _run_zoo(*words)
    return 0


def _run_zoo(command: str, *options: str) -> int:
    given = sys.argv
    sys.argv = [f"sb3-sparse {command}", *options]
    try:
        with _SURROUNDINGS.get(command, nullcontext)():
            runpy.run_module(_ZOO_COMMANDS[command], run_name="__main__")
    except SharingError as error:
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    finally:
        sys.argv = given
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-sparse", description="Static network sparsity for Stable-Baselines3.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('sb3-sparse')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_quickstart(commands)
    _add_bench(commands)
    _add_plot(commands)
    _add_figure(commands)
    _add_export(commands)
    for name, module in _ZOO_COMMANDS.items():  # listed for the help only; the zoo parses their options
        commands.add_parser(name, help=f"the RL Zoo's {module} with our environments and hyperparameters")
    return parser


def _add_quickstart(commands: argparse._SubParsersAction) -> None:
    defaults = Quickstart()
    command = commands.add_parser("quickstart", help="train a sparse and a dense agent side by side, in minutes on a CPU")
    command.add_argument("--env", default=defaults.task, help="environment id (default: %(default)s)")
    command.add_argument(
        "--sparsity", type=float, default=defaults.sparsity, help="of the sparse agent (default: %(default)s)"
    )
    command.add_argument("--width-scale", type=float, default=defaults.width_scale, help="(default: %(default)s)")
    command.add_argument("--steps", type=int, default=defaults.agent_steps, help="agent steps (default: %(default)s)")
    command.add_argument("--seed", type=int, default=defaults.seed)
    command.add_argument("--output", type=Path, default=defaults.folder, help="folder to write to (default: %(default)s)")
    command.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> None:
    quickstart(
        Quickstart(
            task=options.env,
            sparsity=options.sparsity,
            width_scale=options.width_scale,
            agent_steps=options.steps,
            seed=options.seed,
            folder=options.output,
        )
    )


def _add_bench(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("bench", help="time updates and actions of SAC: stock SB3, ours, dense and sparse")
    command.add_argument("--width-scale", nargs="+", type=float, default=[1.0, 2.0])
    command.add_argument("--sparsity", nargs="+", type=float, default=[0.0, 0.5, 0.8, 0.9, 0.95])
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    command.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    command.add_argument("--updates", type=int, default=5, help="updates per round (default: %(default)s)")
    command.add_argument("--no-memory", action="store_true", help="do not measure memory")
    command.add_argument("--peer", action="store_true", help="time SBX (JAX) as well, if sbx-rl is installed")
    command.add_argument("--loop", metavar="ENV", help="also time whole training loops in this environment")
    command.add_argument("--loop-steps", type=int, default=1_000, help="agent steps of each (default: %(default)s)")
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--inference", action="store_true", help="instead, one pass of an actor and a critic for one observation"
    )
    instead.add_argument(
        "--products", action="store_true", help="instead, up to which density single products pay (option --batch)"
    )
    instead.add_argument(
        "--stream-ac", action="store_true", help="instead, StreamAC beside plain autograd (options --width, --env)"
    )
    command.add_argument("--width", nargs="+", type=int, default=[128, 1024], help="of StreamAC (default: %(default)s)")
    command.add_argument("--env", default=TASK, help="environment that StreamAC trains in (default: %(default)s)")
    command.add_argument("--batch", nargs="+", type=int, default=list(BATCHES), help="batch sizes (default: %(default)s)")
    command.add_argument("--json", type=Path, help="also write the figures to this file")
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    costs: list[Any]
    if options.stream_ac:
        costs = stream_cost(options.width, options.sparsity, options.rounds, options.env)
        print(format_stream_table(costs))
    elif options.products:
        costs = product_cost(batches=options.batch)
        print(format_crossovers(costs))
    elif options.inference:
        costs = inference_cost(options.width_scale, options.sparsity, options.rounds)
        print(format_passes(costs))
    else:
        costs = _bench_updates(options)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


def _add_plot(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("plot", help="draw learning curves, plasticity and sparsity of training runs")
    command.add_argument(
        "runs", nargs="+", type=Path, help="folders of runs (the RL Zoo's or others), or folders that contain some"
    )
    command.add_argument("--output", type=Path, default=Path("plots"), help="folder to write to (default: %(default)s)")
    command.add_argument(
        "--action-repeat", type=int, help="environment steps per agent step (default: what the run's environment says)"
    )
    command.set_defaults(run=_plot)


def _plot(options: argparse.Namespace) -> None:
    for file in plot_runs(find_runs(options.runs, options.action_repeat), options.output):
        print(file)


def _bench_updates(options: argparse.Namespace) -> list[Any]:
    compared = contenders(options.width_scale, options.sparsity, options.peer)
    costs: list[Any] = update_cost(compared, options.rounds, options.updates, options.device, not options.no_memory)
    print(format_table(costs))
    if options.loop:
        loops = [loop_cost(contender, options.loop, options.loop_steps, options.device) for contender in compared]
        print(format_loops(loops))
        costs += loops
    return costs


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("export", help="write the deterministic policy of a saved model for other programs")
    command.add_argument("model", type=Path, help="model saved by SAC, TD3, DDPG or TQC")
    command.add_argument(
        "--format",
        choices=list(FORMATS),
        default="onnx",
        help="a dense ONNX graph, or active weights only for sb3_sparse.deployment.load_policy (default: %(default)s)",
    )
    command.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    command.add_argument("--vec-normalize", type=Path, help="statistics saved by VecNormalize, to be built in")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    vec_normalize = None if options.vec_normalize is None else load_vec_normalize(options.vec_normalize)
    written = export(load_model(options.model), options.output, options.format, vec_normalize)
    print(f"{written.path}: {written.bytes:,} bytes, deviates from the model by at most {written.largest_error:.1e}")


def _add_figure(commands: argparse._SubParsersAction) -> None:
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
    command.set_defaults(run=_figure)


def _figure(options: argparse.Namespace) -> None:
    grid = GRIDS[options.number][options.budget]
    import_extra("matplotlib", "plots")  # before hours of training, not after
    rows = run_grid(grid, options.output, options.workers)
    path = options.output / f"figure-{options.number}-{options.budget}.png"
    draw_figure(options.number, rows, grid, path)
    print(f"Results table: {options.output / TABLE}\nFigure: {path}")
