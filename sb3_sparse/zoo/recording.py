"""Recording the provenance of the RL Zoo's runs, beside its own files."""

import functools
import importlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.zoo.hyperparameter_files import hyperparameter_file
from sb3_sparse.zoo.policy_check import named_policy
from sb3_sparse.zoo.provenance import provenance

# Its key in the arguments of a run, which the zoo writes to args.yml, takes to the Hub and back, and tells Weights & Biases.
KEY = "sb3_sparse"


def record_provenance(manager_class: Any) -> None:
    """
    Have the zoo save, with the arguments of a run that trains one of our policies, what the run was made with.

    :param manager_class: The zoo's ``ExperimentManager``, changed in place
    """
    manager_class.create_envs = _note_action_repeat(manager_class.create_envs)
    manager_class._save_config = _record(manager_class._save_config)


def _note_action_repeat(create_envs: Callable) -> Callable:
    @functools.wraps(create_envs)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> VecEnv:
        env = create_envs(self, *args, **kwargs)
        self.action_repeat = action_repeat(env)
        return env

    return wrapped


def _record(save_config: Callable) -> Callable:
    @functools.wraps(save_config)
    def wrapped(self: Any, saved_hyperparams: dict[str, Any]) -> None:
        if _is_ours(saved_hyperparams.get("policy"), self.algo):
            setattr(self.args, KEY, _provenance(self))
        save_config(self, saved_hyperparams)

    return wrapped


def _is_ours(policy: Any, algo: str) -> bool:
    # As hyperparameter files have it, a class is the string "module.Class"; other strings are names that the algorithm knows.
    if isinstance(policy, str) and "." in policy:
        policy = named_policy(policy, algo)
    return isinstance(policy, type) and issubclass(policy, PrunedPolicy)


def _provenance(manager: Any) -> dict[str, Any]:
    return {
        "action_repeat": manager.action_repeat,  # of the training environment, which is made last
        "command": shlex.join(_without_folder(word) for word in sys.orig_argv),
        "hyperparameters": _public_name(Path(manager.config), manager.algo),
        **provenance(manager.device),
    }


def _without_folder(word: str) -> str:
    """An absolute path by its name alone: where it was on this machine says nothing to others."""
    return Path(word).name if Path(word).is_absolute() else word


def _public_name(path: Path, algo: str) -> str:
    """The file by its package, or by its name alone."""
    for package, file in {"sb3_sparse": hyperparameter_file(algo), "rl_zoo3": _zoo_file(algo)}.items():
        if path == file:
            return f"{package}/hyperparams/{path.name}"
    return path.name


def _zoo_file(algo: str) -> Path:
    return Path(str(importlib.import_module("rl_zoo3").__file__)).parent / "hyperparams" / f"{algo}.yml"
