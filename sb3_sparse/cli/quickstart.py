"""``sb3-sparse quickstart``: sparse and dense agents side by side."""

import argparse
from pathlib import Path

from sb3_sparse.experiments.quickstart import Quickstart, quickstart
from sb3_sparse.experiments.sweep.grid_training import train_run
from sb3_sparse.zoo.registration import register


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    defaults = Quickstart()
    command = commands.add_parser("quickstart", help="train sparse and dense agents side by side, in minutes on a CPU")
    command.add_argument("--env", default=defaults.task, help="environment id, of SAC (default: %(default)s)")
    command.add_argument(
        "--sparsity", type=float, default=defaults.sparsity, help="of SAC's sparse agent (default: %(default)s)"
    )
    command.add_argument(
        "--width-scale",
        type=float,
        default=defaults.width_scale,
        help="of SAC's agents, times the paper's width (default: %(default)s)",
    )
    command.add_argument("--steps", type=int, default=defaults.agent_steps, help="agent steps of SAC (default: %(default)s)")
    command.add_argument(
        "--streaming-steps",
        type=int,
        default=defaults.streaming_steps,
        help="agent steps of Stream AC on Ant, 0 for none (default: %(default)s)",
    )
    command.add_argument("--seed", type=int, default=defaults.seed, help="of all runs (default: %(default)s)")
    command.add_argument("--output", type=Path, default=defaults.folder, help="folder to write to (default: %(default)s)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train the agents."""
    register()
    quickstart(
        Quickstart(
            task=options.env,
            sparsity=options.sparsity,
            width_scale=options.width_scale,
            agent_steps=options.steps,
            streaming_steps=options.streaming_steps,
            seed=options.seed,
            folder=options.output,
        ),
        train_run,
    )
