"""Fingerprint of a run's settings, to tell whether a checkpoint belongs to it."""

import platform
import re
import warnings
from collections.abc import Mapping
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.installation import installed_versions

# Those that numbers depend on.
_PACKAGES = ("torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "dm-control", "sb3-sparse")
# Attributes that training changes, that do not change what it does, or that are compared by themselves.
_NOT_ARGUMENTS = {
    "num_timesteps",
    "start_time",
    "verbose",
    "tensorboard_log",
    "ep_info_buffer",
    "ep_success_buffer",
    "_last_obs",
    "_last_episode_starts",
    "_last_original_obs",
    "ent_coef_tensor",
    "learning_rate",
    "lr_schedule",
    "observation_preprocessing",
    "exploration_rate",
    "seed",
}


def fingerprint(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Describe a model as it was constructed, in JSON's types.

    :param model: Model that has not been trained yet
    """
    arguments = {
        name: value
        for name, value in vars(model).items()
        if not name.startswith("_") and name not in _NOT_ARGUMENTS and _is_setting(value)
    }
    assert model.env is not None
    return {
        "algorithm": f"{type(model).__module__}.{type(model).__qualname__}",
        "policy": f"{type(model.policy).__module__}.{type(model.policy).__qualname__}",
        "seed": model.seed,
        "learning_rate": _schedule(model.learning_rate),
        "hyperparameters": {name: _describe(value) for name, value in sorted(arguments.items())},
        "observation_space": str(model.observation_space),
        "action_space": str(model.action_space),
        "environment": _layers(model.env),
        "versions": {
            **installed_versions(_PACKAGES),
            "python": platform.python_version(),
            "device": str(model.device),
            **_processor(),
        },
    }


def _processor() -> dict[str, Any]:
    """What the order of additions depends on."""
    return {"threads": th.get_num_threads(), "instructions": th.backends.cpu.get_cpu_capability()}


def compare(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """
    Refuse a checkpoint of another run; other versions are warned of, as results may then differ in the last bits.

    :param theirs: Fingerprint in the checkpoint
    :param ours: This run's
    :raises CheckpointError: if anything but versions differs; it is named.
    """
    flat = [_flat(_without(mark, theirs, ours)) for mark in (theirs, ours)]
    differences = [
        f"{name}: {flat[0].get(name)!r} in the checkpoint, {flat[1].get(name)!r} here"
        for name in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(name) != flat[1].get(name)
    ]
    grave = [difference for difference in differences if not difference.startswith("versions.")]
    if grave:
        raise CheckpointError(
            "The checkpoint belongs to another run. "
            + "; ".join(grave)
            + ". Construct the model as it was, or give another folder."
        )
    if differences:
        warnings.warn(
            "The run goes on with other versions or hardware than it had, so it may not be bit-identical: "
            + "; ".join(differences),
            stacklevel=2,
        )


def _without(mark: Mapping[str, Any], *marks: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what another version of an algorithm does not have."""
    common = set.intersection(*(set(other["hyperparameters"]) for other in marks)) - _NOT_ARGUMENTS
    return {**mark, "hyperparameters": {name: mark["hyperparameters"][name] for name in common}}


def _flat(mark: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in mark.items():
        found.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": _wherever(value)})
    return found


def _wherever(value: Any) -> Any:
    """A class of this package by its name alone: versions have it in other modules."""
    return re.sub(r"^(sb3_sparse)\.[\w.]+\.(?=\w+$)", r"\1.", value) if isinstance(value, str) else value


def _is_setting(value: Any) -> bool:
    plain = (bool, int, float, str, tuple, dict, type, ActionNoise, FloatSchedule)
    return value is None or isinstance(value, plain)


def _describe(value: Any) -> Any:
    """In JSON's types, and the same in every process: no addresses."""
    if isinstance(value, Mapping):
        return {str(key): _describe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(entry) for entry in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, FloatSchedule):
        return _schedule(value)
    return type(value).__qualname__


def _schedule(schedule: Any) -> Any:
    """A number if it is constant; objects by what they were made with. Two functions cannot be told apart."""
    if isinstance(schedule, FloatSchedule):
        return _schedule(schedule.value_schedule)
    if isinstance(schedule, ConstantSchedule):
        return schedule.val
    if isinstance(schedule, int | float):
        return schedule
    if isinstance(schedule, FunctionType | MethodType) or not hasattr(schedule, "__dict__"):
        return "schedule"
    return {"schedule": type(schedule).__qualname__, **_describe(vars(schedule))}


def _layers(env: VecEnv) -> list[str]:
    names = []
    while isinstance(env, VecEnvWrapper):
        names.append(type(env).__name__)
        env = env.venv
    names.append(f"{type(env).__name__} of {env.num_envs}")
    if isinstance(env, DummyVecEnv):
        return names + environment_layers(env.envs[0])
    return names + env.env_method("describe_layers", indices=0)[0]  # of ResumableEnv


def environment_layers(env: gym.Env[Any, Any]) -> list[str]:
    """
    Name an environment and its wrappers, and what it was made with.

    :param env: Environment
    """
    made = "no id" if env.spec is None else f"{env.spec.id} {_describe(env.spec.kwargs)}"
    return [*(type(layer).__name__ for layer in _wrappers(env)), made]


def _wrappers(env: gym.Env) -> list[gym.Env]:
    return [env, *(_wrappers(env.env) if isinstance(env, gym.Wrapper) else [])]
