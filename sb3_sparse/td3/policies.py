"""Sparse SimBa policy for TD3 and DDPG."""

from collections import OrderedDict

from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.networks import SimBaActorBase, linear_head
from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.common.simba_policy import SimBaPolicy
from sb3_sparse.networks import SimBaEncoder


class SimBaDeterministicActor(SimBaActorBase, Actor):
    """
    Deterministic actor of TD3 and DDPG: a SimBa encoder and one linear head, squashed by tanh.

    :param observation_space: Observation space
    :param action_space: Action space
    :param features_extractor: Flattens observations
    :param features_dim: Size of the flattened observation
    :param normalizer: Statistics shared by all networks of the policy
    :param size: Size of the network
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
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch=[],
            features_extractor=features_extractor,
            features_dim=features_dim,
            normalize_images=normalize_images,
        )
        self.normalizer, self.size = normalizer, size
        encoder = SimBaEncoder(features_dim, size.hidden_dim, size.num_blocks)
        head = linear_head(size.hidden_dim, get_action_dim(action_space))
        self.mu = nn.Sequential(OrderedDict(encoder=encoder, head=head, squash=nn.Tanh()))


class SparseSimBaTD3Policy(SimBaPolicy, TD3Policy):
    """
    Statically sparse SimBa policy for TD3 and DDPG; arguments and sources: :class:`SimBaPolicy`.

    TD3 has two critics; for DDPG, SB3 asks for one.
    """

    algorithm_class = TD3
    default_n_critics = 2

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimBaDeterministicActor:
        """
        Build the actor, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return SimBaDeterministicActor(**self._network_kwargs(features_extractor), size=self.actor_size).to(self.device)
