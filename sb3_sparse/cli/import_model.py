"""``sb3-sparse import``: what ``export --format safetensors`` wrote, as a model of Stable-Baselines3."""

import argparse
from pathlib import Path

from sb3_sparse.deployment import read_model


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("import", help="make a saved model of what export --format safetensors wrote")
    command.add_argument("file", type=Path, help="file that export wrote")
    command.add_argument("-o", "--output", type=Path, required=True, help="model to write, for load() of its class")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the file, and save the model."""
    if not options.output.parent.is_dir():
        raise ValueError(f"Cannot write {options.output}: there is no folder {options.output.parent}.")
    model = read_model(options.file, device="cpu", has_buffer=False)
    model.save(options.output)
    print(f"{options.output}: {type(model).__name__} after {model.num_timesteps} agent steps")
