"""SimBa actors and critics: what those of all algorithms share."""

from collections import OrderedDict
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.compiled_actor import CompiledActor
from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.common.pruned_network import PrunedNetwork
from sb3_sparse.networks.simba import HeadedEncoder

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class NormalizesObservations(BaseModel):
    """Mixin for SB3 networks: observations pass the policy's normaliser on their way to the features extractor."""

    normalizer: ObservationNormalizer

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: (batch, *shape) observations, or a dictionary of them
        :param features_extractor: Extractor that takes normalised observations
        :return: (batch, features_dim)
        """
        return features_extractor(self.normalizer(self._preprocess(obs)))

    def train(self: NetworkT, mode: bool = True) -> NetworkT:
        """
        Set training mode of the network and all below it. SB3 does so in every ``predict``, where torch's way, which sets it
        whether it changes or not, would take longer than the actor.

        :param mode: Whether to train
        """
        _set_training(self, mode)
        return self

    def _preprocess(self, obs: PyTorchObs) -> PyTorchObs:
        return preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)  # type: ignore[return-value]


class SimBaNetwork(NormalizesObservations):
    """
    Mixin for SB3 actors and critics: SimBa networks in the place of those that SB3 builds.

    :param action_space: Action space
    :param features_dim: Size of the flattened observation
    :param normalizer: Statistics shared by all networks of the policy
    :param size: Size of each network
    :param kwargs: Further ones of the SB3 network
    """

    def __init__(
        self, *, action_space: spaces.Box, features_dim: int, normalizer: ObservationNormalizer, size: SimBaSize, **kwargs: Any
    ):
        kwargs.update(action_space=action_space, features_dim=features_dim, net_arch=[])
        super().__init__(**kwargs)
        self.normalizer, self.size = normalizer, size
        self._replace_networks(features_dim, get_action_dim(action_space))

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        raise NotImplementedError


class SimBaActorBase(SimBaNetwork, PrunedNetwork, BasePolicy):
    """
    Mixin for SB3 actors: saved and loaded alone (``policy.actor.save(path)``), with topology and statistics, and acting in
    compiled passes where that is possible.
    """

    # How to write down modules of the actor's networks that only this kind of actor has, see
    # :mod:`sb3_sparse.networks.live_steps`.
    acting_rules: ClassVar[dict[type[nn.Module], Any]] = {}
    features_dim: int

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.compiled = CompiledActor()

    def acting_networks(self) -> tuple[nn.Module, list[nn.Module]]:
        """What follows the normaliser and the features extractor: a trunk, and its heads."""
        raise NotImplementedError

    def choose(self, observations: np.ndarray, deterministic: bool) -> np.ndarray | None:
        """
        Choose actions in compiled passes, up to rounding those of ``forward``.

        :param observations: (batch, dim) raw observations, float32 and contiguous
        :param deterministic: Whether to return the mode
        :return: (batch, action_dim) actions in [-1, 1]; None where torch has to make the passes
        """
        raise NotImplementedError

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = BaseModel._get_constructor_parameters(self)
        for name in ("features_extractor", "features_dim", "normalizer", "size"):
            data[name] = getattr(self, name)
        return data


class SimBaCriticBase(SimBaNetwork):
    """
    Mixin for SB3 critics: SimBa networks on observation and action, before which observations are normalised.

    The normalisation statistics move here, because every off-policy algorithm shows each batch of stored actions to the online
    critic exactly once per gradient step.
    """

    n_critics: int
    q_networks: Any
    # Of each network.
    output_dim = 1

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        self.q_networks = [simba_network(features_dim + action_dim, self.size, self.output_dim) for _ in range(self.n_critics)]
        for i, q_network in enumerate(self.q_networks):
            setattr(self, f"qf{i}", q_network)

    def forward(self, obs: PyTorchObs, action: th.Tensor) -> Any:
        """
        :param obs: (batch, *shape) raw observations
        :param action: (batch, action_dim) actions in [-1, 1]
        :return: What the SB3 critic returns
        """
        q_values = super().forward(obs, action)
        # Actions without gradient come from the buffer, those with one from the actor whose loss this is. After the forward
        # pass, so that target and prediction of one loss are made with the same statistics.
        if self.training and th.is_grad_enabled() and not action.requires_grad:
            self.normalizer.update(self._preprocess(obs))
        return q_values


class SimBaCritic(SimBaCriticBase, ContinuousCritic):
    """
    Q-functions of SAC, DDPG and TD3: SimBa encoders on observation and action, each with a linear head; arguments:
    :class:`SimBaNetwork`.
    """


def simba_network(input_dim: int, size: SimBaSize, output_dim: int) -> HeadedEncoder:
    """
    Build an encoder with one linear head.

    :param input_dim: Size of the input
    :param size: Size of the encoder
    :param output_dim: Size of the output
    """
    return HeadedEncoder(OrderedDict(encoder=size.encoder(input_dim), head=size.head(output_dim)))


def _set_training(module: nn.Module, mode: bool) -> None:
    for child in module._modules.values():
        if child is None:
            continue
        if type(child).train is nn.Module.train:
            _set_training(child, mode)
        else:
            child.train(mode)
    if module.training != mode:
        module.training = mode
