"""``sb3-sparse import``: what ``export --format safetensors`` wrote, as a model of Stable-Baselines3."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("import", help="make a saved model of what export --format safetensors wrote")
    command.add_argument("file", type=Path, help="file that export wrote")
    command.add_argument("-o", "--output", type=Path, required=True, help="model to write, for load() of its class")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the file, and save the model."""
    from sb3_sparse.deployment import read_model
    from sb3_sparse.deployment.loading import VEC_NORMALIZE
    from sb3_sparse.deployment.safe_file import has_vec_normalize, read_vec_normalize

    if not options.output.parent.is_dir():
        raise ValueError(f"Cannot write {options.output}: there is no folder {options.output.parent}.")
    model = read_model(options.file, device="cpu", has_buffer=False)
    model.save(options.output)
    if has_vec_normalize(options.file):
        # Where the zoo keeps it, and export finds it.
        statistics = options.output.with_suffix("") / VEC_NORMALIZE
        statistics.parent.mkdir(exist_ok=True)
        read_vec_normalize(options.file).save(str(statistics))
        print(f"{statistics}: the statistics of VecNormalize")
    print(f"{options.output}: {type(model).__name__} after {model.num_timesteps} agent steps")
