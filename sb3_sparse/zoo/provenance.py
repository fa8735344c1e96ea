"""What a run of the RL Zoo leaves on record about where it comes from, besides its own files."""

import datetime
import functools
import importlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.experiments.provenance import commit, processor, versions
from sb3_sparse.zoo.hyperparameter_files import hyperparameter_file

# Its key in the arguments of a run, which the zoo writes to args.yml, takes to the Hub and back, and tells Weights & Biases.
KEY = "sb3_sparse"


def record_provenance(save_config: Callable) -> Callable:
    """
    Have the zoo save, with the arguments of a run that trains one of our policies, what the run was made with.

    :param save_config: ``ExperimentManager._save_config``
    """

    @functools.wraps(save_config)
    def wrapped(self: Any, saved_hyperparams: dict[str, Any]) -> None:
        if _is_ours(saved_hyperparams["policy"]):
            setattr(self.args, KEY, _provenance(self))
        save_config(self, saved_hyperparams)

    return wrapped


def _is_ours(policy: Any) -> bool:
    # As hyperparameter files have it, a class is the string "module.Class"; other strings are names that the algorithm knows.
    if isinstance(policy, str) and "." in policy:
        module, _, name = policy.rpartition(".")
        policy = getattr(importlib.import_module(module), name)
    return isinstance(policy, type) and issubclass(policy, PrunedPolicy)


def _provenance(manager: Any) -> dict[str, Any]:
    # Not earlier: with it, the environments are registered.
    from sb3_sparse.experiments.training import action_repeat

    return {
        "action_repeat": action_repeat(manager.env_name.gym_id, **manager.env_kwargs),
        "command": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(manager.device),
        "hyperparameters": _public_name(Path(manager.config), manager.algo),
        "versions": versions(),
    }


def _hardware(device: th.device | str) -> str:
    used = get_device(device)
    return f"{th.cuda.get_device_name(used)}, {processor()}" if used.type == "cuda" else processor()


def _public_name(path: Path, algo: str) -> str:
    """The file by its package, or by its name alone: where it was on this machine says nothing to others."""
    for package, file in {"sb3_sparse": hyperparameter_file(algo), "rl_zoo3": _zoo_file(algo)}.items():
        if path == file:
            return f"{package}/hyperparams/{path.name}"
    return path.name


def _zoo_file(algo: str) -> Path:
    return Path(str(importlib.import_module("rl_zoo3").__file__)).parent / "hyperparams" / f"{algo}.yml"
