"""The module behind every export: observation in, deterministic action out."""

import math

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_sparse.algorithms.acting_networks import ActingNetwork
from sb3_sparse.algorithms.own_algorithm import known_algorithm
from sb3_sparse.deployment.action_choices import choice_of
from sb3_sparse.deployment.environment_observations import EnvironmentObservations, environment_observations
from sb3_sparse.deployment.known_classes import EXPORTABLE


class DeterministicPolicy(nn.Module):
    """
    What acts in a model, from the observation that the environment returns to the action that it takes: what
    ``predict(observation, deterministic=True)`` returns.

    Dictionaries of vectors are taken as one vector, their entries in the space's order as ``gymnasium.spaces.flatten`` puts
    them; other observations in their own shape.

    :param model: Model of an algorithm of this package or SB3, with a policy of this package or any other, pruned or not
    :param observations: The environment's observations; what its model finds out if None
    :raises ValueError: for other algorithms, observations that are neither a Box nor a Dict of vectors, and statistics that do
        not fit.
    """

    def __init__(self, model: BaseAlgorithm, observations: EnvironmentObservations | None = None):
        super().__init__()
        self.network = _acting_network(model)
        self.observations = environment_observations(model) if observations is None else observations
        space, vec_normalize = model.observation_space, self.observations.vec_normalize
        check_observation_space(space)
        self.entries = shapes_of(space) if isinstance(space, spaces.Dict) else {}
        self.choice = choice_of(model.action_space, self.network.is_squashed)
        self.action_space = model.action_space
        self.normalization = None if vec_normalize is None else FixedNormalization(vec_normalize, space)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        :param observation: (batch, *shape) observations of the environment, (batch, dim) of a Dict
        :return: (batch, *action_shape) actions of the action space
        """
        if self.observations.channels_last:
            observation = observation.movedim(-1, 1)
        if self.normalization is not None:
            observation = self.normalization(observation)
        return self.choice(self.network(self._split(observation) if self.entries else observation))

    def _split(self, flat: th.Tensor) -> dict[str, th.Tensor]:
        parts = flat.split([math.prod(shape) for shape in self.entries.values()], dim=1)
        shapes = self.entries.items()
        return {key: part.reshape(-1, *shape) for (key, shape), part in zip(shapes, parts, strict=True)}


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
    :param space: Observation space of the model: a Box or a Dict of vectors
    :raises ValueError: if its statistics are those of other observations.
    """

    def __init__(self, vec_normalize: VecNormalize, space: spaces.Space):
        super().__init__()
        self.epsilon, self.clip = vec_normalize.epsilon, vec_normalize.clip_obs
        statistics = [_statistics(vec_normalize, key, part) for key, part in _parts(space).items()]
        mean, var, normalized = (np.concatenate([part[i] for part in statistics]) for i in range(3))
        shape = space.shape if isinstance(space, spaces.Box) else mean.shape
        self.mean, self.var = (nn.Buffer(th.from_numpy(value).float().view(shape)) for value in (mean, var))
        self.normalized = nn.Buffer(th.from_numpy(normalized).view(shape))

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        :param observation: (batch, *shape)
        :return: (batch, *shape), normalised and clipped
        """
        scaled = ((observation - self.mean) / th.sqrt(self.var + self.epsilon)).clamp(-self.clip, self.clip)
        return th.where(self.normalized, scaled, observation)


def check_observation_space(space: spaces.Space) -> None:
    """
    Refuse what no export takes.

    :param space: Observation space
    :raises ValueError: if it is neither a Box nor a Dict of Boxes that are no images.
    """
    for key, part in _parts(space).items():
        where = f"entry {key!r} of the observation space" if key else "the observation space"
        if not isinstance(part, spaces.Box) or (key and is_image_space(part, check_channels=False)):
            kinds = "a Box, or a Dict of Boxes without images"
            raise ValueError(f"Exported policies take {kinds}, but {where} is {part}: flatten it in the environment.")


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def shapes_of(space: spaces.Space) -> dict[str, tuple[int, ...]]:
    """
    :param space: Observation space: a Box or a Dict of Boxes
    :return: Shape of every entry of a Dict, or of a Box under the name ""
    """
    return {key: part.shape for key, part in _parts(space).items()}  # type: ignore[misc]


def _statistics(vec_normalize: VecNormalize, key: str, part: spaces.Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat mean and variance of one entry, and whether it is normalised at all."""
    size = math.prod(part.shape or ())
    found = vec_normalize.obs_rms
    if key and isinstance(found, dict):
        found = found.get(key)  # type: ignore[assignment]
    if found is None:
        return np.zeros(size), np.ones(size), np.zeros(size, dtype=bool)
    if not isinstance(found, RunningMeanStd) or found.mean.shape != part.shape:
        given = found.mean.shape if isinstance(found, RunningMeanStd) else "a dictionary"
        raise ValueError(f"The VecNormalize statistics are of shape {given}, the model's observations of {part.shape}.")
    return found.mean.ravel(), found.var.ravel(), np.ones(size, dtype=bool)
