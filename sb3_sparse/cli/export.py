"""``sb3-sparse export``: policies for other programs, and models that are safe to read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from sb3_sparse.deployment.environment_observations import Observations, Statistics


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("export", help="write a saved model for other programs, or so that reading it is safe")
    command.add_argument("model", type=Path, help="saved model; reading a zip can run any code in it")
    command.add_argument(
        "--format",
        choices=["onnx", "torchscript", "sparse", "c", "safetensors"],
        default="onnx",
        help="a dense graph as ONNX or TorchScript; active weights only, for sb3_sparse.deployment.runtime.load_policy, or as "
        "one file of C99; or the whole model, to go on training, read without running code in it (default: %(default)s)",
    )
    command.add_argument("--opset", type=int, help="version of ONNX's operators, from 13 to 18 (default: 18)")
    command.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    command.add_argument(
        "--vec-normalize",
        type=Path,
        metavar="FILE",
        help="statistics saved by VecNormalize, to be built in; none if there were no normalised observations (default: the "
        "zoo's vecnormalize.pkl of the model's run, if there is one)",
    )
    command.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="the environment's images have their channels last (default: what the model's file says)",
    )
    command.add_argument(
        "--observations",
        type=Path,
        metavar="FILE",
        help="a batch as the environment returns them, of numpy.save, or numpy.savez for a Dict, to check the file with; it "
        "carries the first 16 (default: drawn at random)",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export the policy."""
    from sb3_sparse.deployment import export
    from sb3_sparse.deployment.loading import load_model

    model = load_model(options.model)
    statistics = _statistics(options, model)
    observations = None if options.observations is None else _read_observations(options.observations)
    written = export(model, options.output, options.format, statistics, options.channels_last, options.opset, observations)
    print(f"{written.path}: {written.bytes:,} bytes, deviates from the model by at most {written.largest_error:.1e}")


def _read_observations(path: Path) -> "Observations":
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} was not written by numpy.save or numpy.savez: {error}") from error
    return found if isinstance(found, np.ndarray) else dict(found)


def _statistics(options: argparse.Namespace, model: "BaseAlgorithm") -> "Statistics":
    """What was given; else what lies with the model, unless the model knows that nothing normalised its observations."""
    from sb3_sparse.common.observation_preprocessing import noted_preprocessing
    from sb3_sparse.deployment import SAFE_FORMAT
    from sb3_sparse.deployment.loading import find_vec_normalize, load_vec_normalize

    if options.vec_normalize == Path("none"):
        return False
    if options.vec_normalize is not None:
        return load_vec_normalize(options.vec_normalize)
    found = find_vec_normalize(options.model)
    noted = noted_preprocessing(model)
    if found is None or (noted is not None and not noted.normalized and options.format != SAFE_FORMAT):
        return None
    if found != options.model:
        print(f"Observations are normalised with {found}.")
    return load_vec_normalize(found)
