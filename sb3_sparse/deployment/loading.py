"""Loading a saved model without being told its algorithm."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sb3_contrib import TQC
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_sparse.deployment.safe_file import SUFFIX, read_model, read_vec_normalize

_ALGORITHMS: dict[type, type[BaseAlgorithm]] = {SACPolicy: SAC, TD3Policy: TD3, TQCPolicy: TQC}
# What training needs and acting does not: a replay buffer takes gigabytes, and one of HER an environment.
_NO_BUFFER: dict[str, Any] = {
    "buffer_size": 1,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
}


def load_model(path: str | Path) -> BaseAlgorithm:
    """
    Load what ``model.save(path)`` wrote, or ``export --format safetensors``, on the CPU, to act: without a replay buffer.

    :param path: The file; one of ``model.save`` can run any code, so load only what you trust
    :raises ValueError: if there is no such file, it is no saved model, or one of another algorithm.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix == SUFFIX:
        return read_model(path, device="cpu", **_NO_BUFFER)
    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
    except (BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is no model saved by Stable-Baselines3: {error}") from error
    policy_class = None if data is None else data.get("policy_class")
    for known, algorithm in _ALGORITHMS.items():
        if data is not None and isinstance(policy_class, type) and issubclass(policy_class, known):
            if algorithm is TD3 and data["policy_kwargs"].get("n_critics") == 1:
                algorithm = DDPG  # which writes that down; policies of this package would warn of a TD3 like it
            return algorithm.load(path, device="cpu", custom_objects=_NO_BUFFER)
    name = getattr(policy_class, "__name__", policy_class)
    raise ValueError(f"{path} is a model with a {name}; policies of SAC, TD3, DDPG and TQC can be exported.")


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
