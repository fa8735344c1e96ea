"""Normalisation of what an environment returns, flat or a dictionary."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space

from sb3_sparse.networks import RunningNormalizer

Observations = th.Tensor | dict[str, th.Tensor]


class ObservationNormalizer(RunningNormalizer):
    """
    Running normalisation of preprocessed observations (float, discrete parts one-hot): one vector of statistics over all
    entries, those of a dictionary one after the other in the space's order.

    :param observation_space: Space of the observations
    :param frozen: Start with statistics that never move, which passes observations through
    """

    def __init__(self, observation_space: spaces.Space, frozen: bool = False):
        super().__init__(get_flattened_obs_dim(observation_space), frozen=frozen)
        self.keys = tuple(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else ()

    def forward(self, observations: Observations) -> Observations:  # type: ignore[override]
        """
        :param observations: Preprocessed observations, (batch, *shape) each
        :return: The same structure, standardised
        """
        return self._unflatten(super().forward(flatten_observations(observations, self.keys)), observations)

    def update(self, observations: Observations) -> None:  # type: ignore[override]
        """
        Move the statistics towards those of a batch.

        :param observations: Preprocessed observations, (batch, *shape) each
        """
        super().update(flatten_observations(observations, self.keys))

    def _unflatten(self, flat: th.Tensor, like: Observations) -> Observations:
        if not isinstance(like, dict):
            return flat.view_as(like)
        parts = flat.split([like[key].shape[1:].numel() for key in self.keys], dim=1)
        return {key: part.reshape(like[key].shape) for key, part in zip(self.keys, parts, strict=True)}


def flatten_observations(observations: Observations, keys: tuple[str, ...]) -> th.Tensor:
    """
    Make one vector of each observation.

    :param observations: Preprocessed observations, (batch, *shape) each
    :param keys: The entries of a dictionary, in the order of the space
    :return: (batch, dim)
    """
    if isinstance(observations, dict):
        # A user's dictionary may come in any order.
        return th.cat([observations[key].flatten(1) for key in keys], dim=1)
    return observations.flatten(1)


def check_observation_space(observation_space: spaces.Space) -> None:
    """
    Refuse observations that an encoder of vectors cannot take.

    :param observation_space: Space of the observations
    :raises ValueError: if it is, or contains, an image or a number without dimension.
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    for key, space in parts.items():
        where = f"entry {key!r} of the observation space" if key else "the observation space"
        if isinstance(space, spaces.Box) and space.shape == ():
            # SB3's extractors flatten from the first dimension after the batch's.
            raise ValueError(f"{where} is a scalar ({space}): wrap the environment in gymnasium.wrappers.FlattenObservation.")
        if is_image_space(space):
            raise ValueError(
                f"SimBa takes vectors, but {where} is an image ({space}): prune a stock CnnPolicy with "
                "sparsify(model, sparsity), or flatten the image (gymnasium.wrappers.FlattenObservation)."
            )
