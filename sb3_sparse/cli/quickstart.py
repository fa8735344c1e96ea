"""``sb3-sparse quickstart``: sparse and dense agents side by side."""

import argparse
from pathlib import Path

from sb3_sparse.experiments.quickstart_settings import Quickstart

# Name of each option, the setting that it is, its type and meaning.
_OPTIONS = (
    ("env", "task", str, "environment id, of SAC"),
    ("sparsity", "sparsity", float, "of SAC's sparse agent"),
    ("width-scale", "width_scale", float, "of SAC's agents, times the paper's width"),
    ("steps", "agent_steps", int, "agent steps of SAC"),
    ("streaming-steps", "streaming_steps", int, "agent steps of Stream AC on Ant, 0 for none"),
    ("seed", "seed", int, "of all runs"),
    ("output", "folder", Path, "folder to write to"),
)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    defaults = Quickstart()
    command = commands.add_parser("quickstart", help="train sparse and dense agents side by side, in minutes on a CPU")
    for name, field, kind, text in _OPTIONS:
        default, metavar = getattr(defaults, field), name.upper().replace("-", "_")
        help_text = f"{text} (default: %(default)s)"
        command.add_argument(f"--{name}", dest=field, type=kind, default=default, metavar=metavar, help=help_text)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train the agents."""
    from sb3_sparse.experiments.quickstart import quickstart
    from sb3_sparse.experiments.sweep.grid_training import train_run
    from sb3_sparse.zoo.registration import register

    register()
    quickstart(Quickstart(**{field: getattr(options, field) for _, field, _, _ in _OPTIONS}), train_run)
