"""The module behind every export: observation in, deterministic action out."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_sparse.algorithms.acting_networks import ActingNetwork
from sb3_sparse.algorithms.own_algorithm import known_algorithm
from sb3_sparse.deployment.action_choices import choice_of
from sb3_sparse.deployment.environment_observations import (
    EnvironmentObservations,
    Observations,
    environment_observations,
    is_image,
)
from sb3_sparse.deployment.known_classes import EXPORTABLE


# The only input of a policy, unless it takes every entry of a Dict by itself.
ONE_INPUT = "observation"


class DeterministicPolicy(nn.Module):
    """
    What acts in a model, from the observation that the environment returns to the action that it takes: what
    ``predict(observation, deterministic=True)`` returns.

    Dictionaries of vectors are taken as one vector, their entries in the space's order as ``gymnasium.spaces.flatten`` puts
    them; of others, with images or discrete entries, every entry is an input.

    :param model: Model of an algorithm of this package or SB3, with a policy of this package or any other, pruned or not
    :param observations: The environment's observations; what its model finds out if None
    :raises ValueError: for other algorithms, unusual observations, and statistics that do not fit.
    """

    def __init__(self, model: BaseAlgorithm, observations: EnvironmentObservations | None = None):
        super().__init__()
        self.network = _acting_network(model)
        self.observations = environment_observations(model) if observations is None else observations
        check_observation_space(model.observation_space)
        # Of the observations as the environment returns them.
        self.entries = entries_of(self.observations.space)
        self.is_dict = isinstance(model.observation_space, spaces.Dict)
        self.is_flat = self.is_dict and all(map(_is_vector, self.entries.values()))
        self.has_images = any(map(is_image, self.entries.values()))
        of_model = entries_of(model.observation_space).items()
        self.preparations = nn.ModuleList(Preparation(self.observations, key, space) for key, space in of_model)
        self.choice = choice_of(model.action_space, self.network.is_squashed)
        self.action_space = model.action_space

    def forward(self, *inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: (batch, *shape) observations of the environment: one, (batch, dim) of a Dict of vectors, or every entry
        :return: (batch, *action_shape) actions of the action space
        """
        entries = self._split(inputs[0]) if self.is_flat else inputs
        prepared = [prepare(entry) for prepare, entry in zip(self.preparations, entries, strict=True)]
        return self.choice(self.network(dict(zip(self.entries, prepared, strict=True)) if self.is_dict else prepared[0]))

    def _split(self, flat: th.Tensor) -> list[th.Tensor]:
        shapes = [space.shape or () for space in self.entries.values()]
        parts = flat.split([math.prod(shape) for shape in shapes], dim=1)
        return [part.reshape(-1, *shape) for shape, part in zip(shapes, parts, strict=True)]

    def inputs(self, observations: Observations) -> dict[str, np.ndarray]:
        """
        :param observations: A batch of the environment
        :return: Name of an input -> what it takes of them
        """
        parts = dict(observations) if isinstance(observations, Mapping) else {"": observations}
        if parts.keys() != self.entries.keys():
            raise ValueError(f"Expected observations with the entries {list(self.entries)}, got {list(parts)}.")
        typed = {key: np.asarray(parts[key]).astype(input_type(space)) for key, space in self.entries.items()}
        for key, space in self.entries.items():
            if typed[key].shape[1:] != space.shape:
                raise ValueError(f"Expected a batch of observations of shape {space.shape}, got {typed[key].shape}.")
        if not self.is_dict:
            return {ONE_INPUT: typed[""]}
        if not self.is_flat:
            return typed
        flat = np.concatenate([part.reshape(len(part), -1) for part in typed.values()], axis=1)
        return {ONE_INPUT: flat.astype(np.float32, copy=False)}


class Preparation(nn.Module):
    """
    What lies between an environment's observation, or one entry of it, and the model's.

    :param observations: The environment's observations
    :param key: Name of the entry, "" if there are no entries
    :param space: Its space as the model has it
    """

    def __init__(self, observations: EnvironmentObservations, key: str, space: spaces.Space):
        super().__init__()
        self.moves_channels = observations.channels_last and is_image(space)
        vec_normalize = observations.vec_normalize
        found = None if vec_normalize is None else _statistics(vec_normalize, key, space)
        self.normalization = None if vec_normalize is None or found is None else FixedNormalization(vec_normalize, found)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        :param observation: (batch, *shape) of the environment
        :return: (batch, *shape) of the model
        """
        if self.moves_channels:
            observation = observation.movedim(-1, 1)
        return observation if self.normalization is None else self.normalization(observation)


def _acting_network(model: BaseAlgorithm) -> ActingNetwork:
    row = known_algorithm(model)
    if row is None or row.acting is None:
        raise ValueError(
            f"A policy of {type(model).__name__} cannot be exported; those of these can: {', '.join(EXPORTABLE)}."
        )
    return row.acting(model)


class FixedNormalization(nn.Module):
    """
    What ``VecNormalize`` does to observations, with the statistics that it has.

    :param vec_normalize: The wrapper
    :param statistics: Its statistics of these observations
    """

    def __init__(self, vec_normalize: VecNormalize, statistics: RunningMeanStd):
        super().__init__()
        self.epsilon, self.clip = vec_normalize.epsilon, vec_normalize.clip_obs
        self.mean, self.var = (nn.Buffer(th.from_numpy(value).float()) for value in (statistics.mean, statistics.var))

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        :param observation: (batch, *shape)
        :return: (batch, *shape), normalised and clipped
        """
        return ((observation - self.mean) / th.sqrt(self.var + self.epsilon)).clamp(-self.clip, self.clip)


def check_observation_space(space: spaces.Space) -> None:
    """
    Refuse what no export takes.

    :param space: Observation space
    :raises ValueError: if it is neither a Box, Discrete, MultiDiscrete or MultiBinary, nor a Dict of these.
    """
    for key, part in entries_of(space).items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            where = f"entry {key!r} of the observation space" if key else "the observation space"
            kinds = "a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of these"
            raise ValueError(f"Exported policies take {kinds}, but {where} is {part}: flatten it in the environment.")


def entries_of(space: spaces.Space) -> dict[str, spaces.Space]:
    """
    :param space: Observation space
    :return: The entries of a Dict, or the space under the name ""
    """
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def input_type(space: spaces.Space) -> type[np.generic]:
    """
    :param space: Observation space, or an entry of one
    :return: Type of the numbers that stand for it: uint8 where it is the space's, int64 of numbers of values, else float32
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return np.int64
    return np.uint8 if space.dtype == np.uint8 else np.float32


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box | spaces.MultiBinary) and not is_image(space)


def _statistics(vec_normalize: VecNormalize, key: str, space: spaces.Space) -> RunningMeanStd | None:
    found = statistics_of_entry(vec_normalize, key)
    if found is None:
        return None
    if not isinstance(found, RunningMeanStd) or found.mean.shape != space.shape:
        given = found.mean.shape if isinstance(found, RunningMeanStd) else "a dictionary"
        raise ValueError(f"The VecNormalize statistics are of shape {given}, the model's observations of {space.shape}.")
    return found


def statistics_of_entry(vec_normalize: VecNormalize, key: str) -> Any:
    """
    :param vec_normalize: The wrapper
    :param key: An entry of its observations, "" if there are no entries
    :return: Its statistics of that entry, None if it does not normalise it
    """
    found = vec_normalize.obs_rms
    return found.get(key) if key and isinstance(found, dict) else found
