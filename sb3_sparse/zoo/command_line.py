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

import gymnasium as gym

from sb3_sparse.experiments.run_figures import plot_runs
from sb3_sparse.experiments.run_folders import find_runs
from sb3_sparse.experiments.quickstart import Quickstart, quickstart
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
    command = commands.add_parser(
        "bench", help="process time of one SAC update and one action on the CPU: plain dense SimBa against ours"
    )
    command.add_argument("--width-scale", nargs="+", type=float, default=[1.0, 2.0])
    command.add_argument("--sparsity", nargs="+", type=float, default=[0.0, 0.5, 0.8, 0.9, 0.95])
    command.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    command.add_argument("--updates", type=int, default=5, help="updates per round (default: %(default)s)")
    command.add_argument("--json", type=Path, help="also write the figures to this file")
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    costs = [cost for w in options.width_scale for cost in update_cost(w, options.sparsity, options.rounds, options.updates)]
    print(format_table(costs))
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
