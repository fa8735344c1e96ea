"""Changes to observations by a model's environment: an exported policy takes them as they were before it."""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.common.observation_preprocessing import noted_preprocessing, preprocessing_of

Observations = np.ndarray | dict[str, np.ndarray]
# What to normalise with: None for what the model's environment has, False if nothing normalised its observations.
Statistics = VecNormalize | Literal[False] | None


@dataclass(frozen=True)
class EnvironmentObservations:
    """
    The observations that an environment returns, and what makes of them those that a model gets.

    :param space: Their space
    :param vec_normalize: What normalises them, if anything does
    :param channels_last: Whether they are images whose channels are moved to the front
    """

    space: spaces.Space
    vec_normalize: VecNormalize | None
    channels_last: bool

    def as_model_gets_them(self, observations: Observations) -> Observations:
        """
        :param observations: A batch of the environment
        :return: What the model's ``predict`` takes
        """
        if self.channels_last and isinstance(observations, dict):
            images = {key for key, part in _entries(self.space).items() if is_image(part)}
            observations = {k: np.moveaxis(part, -1, 1) if k in images else part for k, part in observations.items()}
        elif self.channels_last:
            observations = np.moveaxis(np.asarray(observations), -1, 1)
        return observations if self.vec_normalize is None else self.vec_normalize.normalize_obs(observations)


def environment_observations(
    model: BaseAlgorithm, vec_normalize: Statistics = None, channels_last: bool | None = None
) -> EnvironmentObservations:
    """
    Find out what lies between a model and the observations of its environment.

    :param model: The model
    :param vec_normalize: What normalised the observations it was trained on; False if nothing did
    :param channels_last: Whether the environment's images have their channels last
    :raises ValueError: if they were normalised and nothing tells how.
    """
    space = model.observation_space
    statistics = statistics_of(model, vec_normalize)
    if not any(map(is_image, _entries(space).values())):
        return EnvironmentObservations(space, statistics, False)
    is_moved = _channels_last(model) if channels_last is None else channels_last
    return EnvironmentObservations(_channels_to_end(space) if is_moved else space, statistics, is_moved)


def statistics_of(model: BaseAlgorithm, given: Statistics = None) -> VecNormalize | None:
    """
    :param model: Model
    :param given: What normalised its observations; None asks its environment, False says that nothing did
    :return: What normalises its observations, if anything does: not what normalises rewards only
    :raises ValueError: if they were normalised and nothing tells how.
    """
    found = model.get_vec_normalize_env() if given is None else given
    if isinstance(found, VecNormalize):
        return found if found.norm_obs else None
    if given is None and was_normalized(model):
        raise ValueError(
            "The model was trained under VecNormalize, on observations that were normalised, and its statistics are missing: "
            "give what VecNormalize.save wrote (--vec-normalize FILE, or vec_normalize=VecNormalize.load(...)); the zoo keeps "
            "it in the run's folder, as <environment id>/vecnormalize.pkl. If it normalised rewards only, say so "
            "(--vec-normalize none, or vec_normalize=False)."
        )
    return None


def was_normalized(model: BaseAlgorithm) -> bool:
    """
    Tell whether a model without its environment was trained under ``VecNormalize`` of observations.

    Models of this package's classes or policies say so. A file of stock SB3 does not, but its last observations may: of
    on-policy algorithms, the original one is there only under ``VecNormalize`` (perhaps of rewards only); of others, it is
    told by another type (float64 before, float32 after) or by values that left the bounds of the space. Nothing is known of
    stock off-policy models of unbounded float32 observations.

    :param model: Model
    """
    noted = noted_preprocessing(model)
    if noted is not None:
        return noted.normalized
    last, original, space = (_entries(part) for part in (model._last_obs, model._last_original_obs, model.observation_space))
    if not last or not original:
        return False
    if any(last[key].dtype != original[key].dtype or _left_bounds(last[key], original[key], space[key]) for key in original):
        return True
    return isinstance(model, OnPolicyAlgorithm) and any(last[key].dtype == np.float32 for key in last)


def _entries(observation: object) -> dict:
    if observation is None:
        return {}
    if isinstance(observation, spaces.Dict):
        return dict(observation.spaces)
    return observation if isinstance(observation, dict) else {"": observation}


def _left_bounds(last: np.ndarray, original: np.ndarray, space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box):
        return False

    def is_outside(values: np.ndarray) -> bool:
        return bool(((values < space.low) | (values > space.high)).any())

    return is_outside(last) and not is_outside(original)


def _channels_last(model: BaseAlgorithm) -> bool:
    if model.env is not None:
        return preprocessing_of(model.env).channels_last
    noted = noted_preprocessing(model)
    if noted is not None:
        return noted.channels_last
    images = [space for space in _entries(model.observation_space).values() if is_image_space(space)]
    if images:
        warnings.warn(
            "Nothing tells whether the environment's images have their channels first or last, which SB3 moves to the front: "
            f"the file takes images of shape {images[0].shape}. Say channels_last=True (--channels-last) if they are last.",
            stacklevel=4,
        )
    return False


def _channels_to_end(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        moved = ((key, _channels_to_end(part) if is_image(part) else part) for key, part in space.items())
        return spaces.Dict(OrderedDict(moved))  # the keys of others are sorted
    assert isinstance(space, spaces.Box)
    return spaces.Box(np.moveaxis(space.low, 0, -1), np.moveaxis(space.high, 0, -1), dtype=space.dtype.type)


def is_image(space: spaces.Space) -> bool:
    """
    :param space: Observation space, or an entry of one
    :return: Whether these are images, whatever the order of their channels
    """
    return is_image_space(space, check_channels=False)
