"""``sb3-sparse export``: policies for other programs, and models that are safe to read."""

import argparse
from pathlib import Path

from sb3_sparse.deployment import FORMATS, SAFE_FORMAT, export
from sb3_sparse.deployment.loading import load_model, load_vec_normalize


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("export", help="write a saved model for other programs, or so that reading it is safe")
    command.add_argument("model", type=Path, help="saved model; reading a zip can run any code in it")
    command.add_argument(
        "--format",
        choices=[*FORMATS, SAFE_FORMAT],
        default="onnx",
        help="a dense ONNX graph; active weights only, for sb3_sparse.deployment.load_policy; or the whole model, to go on "
        "training, read without running code in it (default: %(default)s)",
    )
    command.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    command.add_argument("--vec-normalize", type=Path, help="statistics saved by VecNormalize, to be built in")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export the policy."""
    vec_normalize = None if options.vec_normalize is None else load_vec_normalize(options.vec_normalize)
    written = export(load_model(options.model), options.output, options.format, vec_normalize)
    print(f"{written.path}: {written.bytes:,} bytes, deviates from the model by at most {written.largest_error:.1e}")
