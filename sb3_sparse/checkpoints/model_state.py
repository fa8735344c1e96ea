"""The state of a model: networks, optimizers, counters, replay buffer."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_sparse.algorithms.own_algorithm import Checkpointed, OwnAlgorithm
from sb3_sparse.checkpoints.live_pickle import dump, load
from sb3_sparse.checkpoints.replay_rows import owners
from sb3_sparse.common.sparsify import give_numbers, prune_by_magnitude
from sb3_sparse.common.pruned_policy import PrunedPolicy, active_weights_of

# Of the process rather than of the run, or given to learn().
_OF_THE_PROCESS = {
    "start_time",
    "verbose",
    "tensorboard_log",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "observation_space",
    "action_space",
    "policy_kwargs",
    "replay_buffer_kwargs",
}
# Not in SB3's zip files, though training depends on it.
_OF_THE_RUN = {"_last_lstm_states"}
# Noise of gSDE, which is no buffer of the module.
_EXPLORATION = ("exploration_mat", "exploration_matrices")


def weights_of(model: Any) -> bytes:
    """
    Networks, optimizers and other tensors that are trained, as ``torch.load(..., weights_only=True)`` reads them.

    :param model: Model
    """
    _, variables = model._get_torch_save_params()
    policy: Any = model.policy
    content = {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name).detach() for name in variables},
        "gradients": _gradients(model),
        "sparsity": policy.sparsity if isinstance(policy, PrunedPolicy) else None,
        "active_weights": policy.pruning.active_weights if isinstance(policy, PrunedPolicy) else None,
    }
    file = io.BytesIO()
    th.save(content, file)
    return file.getvalue()


@th.no_grad()
def restore_weights(model: Any, content: bytes) -> None:
    """
    Write networks, optimizers and other tensors in place; a policy that was pruned further in the meantime is as well.

    :param model: A model as the one that was stored was when it was new
    :param content: What :func:`weights_of` returned
    :raises ValueError: if it does not fit.
    """
    state = th.load(io.BytesIO(content), map_location=model.device, weights_only=True)
    policy: Any = model.policy
    if isinstance(policy, PrunedPolicy):
        _bring_to(model, state["sparsity"], state.get("active_weights"))
    model.set_parameters(state["parameters"], exact_match=True, device=model.device)
    for name, value in state["variables"].items():
        recursive_getattr(model, name).copy_(value)
    if isinstance(model, OwnAlgorithm):
        model.recapture()
        model.restore_gradients(state["gradients"])


def _bring_to(model: Any, sparsity: Any, active_weights: Mapping[str, int] | None) -> None:
    """Give the layers as many active weights as those have that are restored next."""
    if active_weights is not None:
        if active_weights != active_weights_of(model.policy):
            give_numbers(model, sparsity, active_weights)
    elif (model.policy.sparsity, model.policy.pruning.active_weights) != (sparsity, None):
        prune_by_magnitude(model, sparsity)


def _gradients(model: Any) -> dict[str, dict[str, th.Tensor]]:
    if not isinstance(model, OwnAlgorithm):
        return {}
    return {name: model.gradients(name) for name in model.networks_with_gradients}


def exploration_noise(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """
    The noise of state-dependent exploration, which is drawn for each rollout; empty without.

    :param model: Model
    """
    return {name: getattr(part, key).detach() for name, part, key in _noise(model)}


def restore_exploration_noise(model: BaseAlgorithm, noise: Mapping[str, th.Tensor]) -> None:
    """
    Explore as before.

    :param model: Model
    :param noise: What :func:`exploration_noise` returned
    """
    for name, part, key in _noise(model):
        setattr(part, key, noise[name].to(model.device))


def _noise(model: BaseAlgorithm) -> list[tuple[str, Any, str]]:
    if not model.use_sde:
        return []
    modules = {name: module for name, module in model.policy.named_modules() if "action_dist" in vars(module)}
    return [(f"{name}.{key}", module.action_dist, key) for name, module in modules.items() for key in _EXPLORATION]


class ModelData:
    """
    What a model has beside tensors: counters, what it last saw, statistics of episodes, action noise, random generators.

    A model with further state offers it as :class:`Checkpointed` says.

    :param model: Model
    """

    def __init__(self, model: BaseAlgorithm):
        self.model = model
        self._unpicklable: set[str] = set()

    def capture(self, live: Mapping[Any, Any]) -> bytes:
        """
        :param live: Objects that are referred to
        """
        own = self.model.checkpoint_state() if isinstance(self.model, Checkpointed) else None
        return dump({"attributes": self._attributes(live), "own": own}, live)

    def restore(self, content: bytes, live: Mapping[Any, Any]) -> None:
        """
        :param content: What :meth:`capture` returned
        :param live: Objects that were referred to
        """
        state = load(content, live)
        for name, value in state["attributes"].items():
            put(self.model, name, value)
        if isinstance(self.model, Checkpointed):
            self.model.restore_checkpoint_state(state["own"])
        # The speed that is logged is that of this process.
        self.model._num_timesteps_at_start = self.model.num_timesteps

    def _attributes(self, live: Mapping[Any, Any]) -> dict[str, Any]:
        names, variables = self.model._get_torch_save_params()
        skipped = {name.split(".")[0] for name in [*self.model._excluded_save_params(), *names, *variables]}
        found = {}
        for name, value in vars(self.model).items():
            if name in (skipped - _OF_THE_RUN) | _OF_THE_PROCESS | self._unpicklable or _is_part_of_networks(value):
                continue
            if callable(value) and not isinstance(value, ActionNoise):  # classes and schedules
                continue
            if self._can_be_pickled(name, value, live):
                found[name] = value
        return found

    def _can_be_pickled(self, name: str, value: Any, live: Mapping[Any, Any]) -> bool:
        if isinstance(value, bool | int | float | str | np.ndarray | None):
            return True
        try:
            dump(value, live)
        except Exception as error:  # whatever a foreign attribute raises
            self._unpicklable.add(name)
            warnings.warn(
                f"{type(self.model).__name__}.{name} is not part of checkpoints, because it cannot be pickled: {error}",
                stacklevel=2,
            )
            return False
        return True


class BufferData:
    """
    What a replay buffer has beside its rows: position, generators, settings.

    :param buffer: Replay buffer
    :param names: Attributes to store
    """

    def __init__(self, buffer: Any, names: set[str]):
        self.buffer, self.names = buffer, names

    def capture(self, live: Mapping[Any, Any]) -> bytes:
        """
        :param live: Objects that are referred to
        """
        attributes = {
            f"{prefix}{name}": value
            for prefix, owner in owners(self.buffer).items()
            for name, value in vars(owner).items()
            if f"{prefix}{name}" in self.names
        }
        return dump({k: v for k, v in attributes.items() if not isinstance(v, spaces.Space | VecEnv)}, live)

    def restore(self, content: bytes, live: Mapping[Any, Any]) -> None:
        """
        :param content: What :meth:`capture` returned
        :param live: Objects that were referred to
        """
        parts = owners(self.buffer)
        for name, value in load(content, live).items():
            prefix, slash, attribute = name.rpartition("/")
            put(parts[prefix + slash], attribute, value)


def put(owner: Any, name: str, value: Any) -> None:
    """
    Set an attribute; tensors and generators are written in place, as captured graphs read them where they are.

    :param owner: Object
    :param name: Attribute
    :param value: Its value
    """
    present = vars(owner).get(name)
    if isinstance(present, th.Tensor) and isinstance(value, th.Tensor) and present.shape == value.shape:
        with th.no_grad():
            present.copy_(value)
    elif isinstance(present, th.Generator) and isinstance(value, th.Generator):
        present.set_state(value.get_state())
    else:
        setattr(owner, name, value)


def _is_part_of_networks(value: Any) -> bool:
    """Modules, optimizers, and lists of their tensors, such as SB3 keeps of batch norm statistics."""
    if isinstance(value, list | tuple):
        return all(isinstance(entry, th.Tensor) for entry in value)
    return isinstance(value, nn.Module | th.optim.Optimizer)
