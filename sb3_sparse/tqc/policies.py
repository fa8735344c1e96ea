"""Sparse SimBa policy for TQC."""

from typing import Any, ClassVar

from gymnasium import spaces
from sb3_contrib import TQC
from sb3_contrib.tqc.policies import Critic, TQCPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.gaussian_actor import SimBaActor
from sb3_sparse.common.networks import SimBaCriticBase
from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.common.simba_policy import SimBaPolicy


class SimBaQuantileCritic(SimBaCriticBase, Critic):
    """
    Distributional Q-functions of TQC (Kuznetsov et al., 2020): SimBa encoders on observation and action, each with a linear
    head that returns quantiles of the return, (batch, n_critics, n_quantiles) altogether.

    :param observation_space: Observation space
    :param action_space: Action space
    :param features_extractor: Flattens observations
    :param features_dim: Size of the flattened observation
    :param normalizer: Statistics shared by all networks of the policy
    :param size: Size of each network
    :param n_quantiles: Number of quantiles of each network
    :param n_critics: Number of independent networks
    :param share_features_extractor: Whether the extractor is the actor's
    :param normalize_images: As in SB3; observations here are vectors
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        normalizer: ObservationNormalizer,
        size: SimBaSize,
        n_quantiles: int = 25,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        normalize_images: bool = True,
    ):
        n_quantiles = check_integer("n_quantiles", n_quantiles)
        super().__init__(
            observation_space,
            action_space,
            net_arch=[],
            features_extractor=features_extractor,
            features_dim=features_dim,
            n_quantiles=n_quantiles,
            n_critics=n_critics,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
        )
        self.normalizer = normalizer
        self._replace_q_networks(features_dim, size, n_quantiles)


class SparseSimBaTQCPolicy(SimBaPolicy, TQCPolicy):
    """
    Statically sparse SimBa policy for TQC; arguments and sources: :class:`SimBaPolicy`, and ``n_quantiles``, the number of
    quantiles of each critic (25).

    The paper does not use TQC. Numbers of critics and quantiles are sb3-contrib's: two critics of 25 quantiles.
    """

    algorithm_class = TQC
    critic_class = SimBaQuantileCritic
    default_n_critics = 2
    own_arguments: ClassVar[tuple[str, ...]] = ("n_quantiles",)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimBaActor:  # type: ignore[override]
        """
        Build the actor, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return SimBaActor(**self._network_kwargs(features_extractor), size=self.actor_size).to(self.device)

    def _critic_kwargs(self) -> dict[str, Any]:
        return {**super()._critic_kwargs(), "n_quantiles": self.critic_kwargs["n_quantiles"]}
