"""Loading a saved model without being told its algorithm."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.deployment.known_classes import ALGORITHMS, saved_algorithm
from sb3_sparse.deployment.no_buffer import place_holder, remove_place_holder
from sb3_sparse.deployment.safe_file import SUFFIX, has_vec_normalize, read_model, read_vec_normalize

# What the zoo calls the statistics of a run, in the folder <environment id>.
VEC_NORMALIZE = "vecnormalize.pkl"


def load_model(path: str | Path) -> BaseAlgorithm:
    """
    Load what ``model.save(path)`` wrote, or ``export --format safetensors``, on the CPU, to act: without a replay buffer.

    :param path: The file; one of ``model.save`` can run any code, so load only what you trust
    :raises ValueError: if there is no such file, it is no saved model, or one of an unknown algorithm.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix == SUFFIX:
        return read_model(path, device="cpu", has_buffer=False)
    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
    except (BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is no model saved by Stable-Baselines3: {error}") from error
    algorithm = _algorithm_of(path, data or {})
    model = algorithm.load(path, device="cpu", **place_holder(algorithm))
    remove_place_holder(model, data or {})
    return model


def find_vec_normalize(path: Path) -> Path | None:
    """
    Find what normalised the observations of a saved model, where it lies with the model: in its own file, if that is of
    ``export --format safetensors``; in the folder that the zoo keeps beside its models, and ``import`` beside those it makes.

    :param path: File of the model
    :return: File for :func:`load_vec_normalize`, if there is one
    """
    if path.suffix == SUFFIX:
        return path if has_vec_normalize(path) else None
    own = path.with_suffix("") / VEC_NORMALIZE
    # The zoo's checkpoints and best models lie in the run's folder, under other names.
    of_run = [file for file in path.parent.glob(f"*/{VEC_NORMALIZE}") if file.with_name("config.yml").is_file()]
    return own if own.is_file() else of_run[0] if len(of_run) == 1 else None


def _algorithm_of(path: Path, data: Mapping[str, Any]) -> type[BaseAlgorithm]:
    algorithm = saved_algorithm(data)
    if algorithm is None:
        policy = data.get("policy_class")
        found = policy.__name__ if isinstance(policy, type) else policy
        raise ValueError(f"{path} is a model with a {found}, of an unknown algorithm: known are {', '.join(ALGORITHMS)}.")
    return algorithm


def load_vec_normalize(path: str | Path) -> VecNormalize:
    """
    Load what ``VecNormalize.save(path)`` wrote, for its statistics: without an environment.

    :param path: The file; a pickle, so load only what you trust, unless it was written by ``export --format safetensors``
    :raises ValueError: if there is no such file, or it is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix == SUFFIX:
        return read_vec_normalize(path)
    try:
        with path.open("rb") as file:
            loaded = pickle.load(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise ValueError(f"{path} was not saved by VecNormalize: {error}") from error
    if not isinstance(loaded, VecNormalize):
        raise ValueError(f"{path} was not saved by VecNormalize: it holds a {type(loaded).__name__}.")
    return loaded
