"""Sparse SimBa policy for TD3 and DDPG."""

from collections import OrderedDict

import numpy as np
from stable_baselines3 import TD3
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_sparse.common.networks import SimBaActorBase
from sb3_sparse.common.simba_policy import SimBaPolicy
from sb3_sparse.networks.simba import HeadedEncoder


class SimBaDeterministicActor(SimBaActorBase, Actor):
    """
    Deterministic actor of TD3 and DDPG: a SimBa encoder and one linear head, squashed by tanh; arguments:
    :class:`~sb3_sparse.common.networks.SimBaNetwork`.
    """

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        encoder, head = self.size.encoder(features_dim), self.size.head(action_dim)
        self.mu = HeadedEncoder(OrderedDict(encoder=encoder, head=head, squash=nn.Tanh()))

    def acting_networks(self) -> tuple[nn.Module, list[nn.Module]]:
        """See :class:`~sb3_sparse.common.networks.SimBaActorBase`."""
        encoder, head, squash = self.mu
        return encoder, [nn.Sequential(head, squash)]

    def choose(self, observations: np.ndarray, deterministic: bool) -> np.ndarray | None:
        """See :class:`~sb3_sparse.common.networks.SimBaActorBase`."""
        heads = self.compiled.heads(self, observations, 1)
        return None if heads is None else heads[0]


class SparseSimBaTD3Policy(SimBaPolicy, TD3Policy):
    """
    Statically sparse SimBa policy for TD3 and DDPG; arguments and sources: :class:`SimBaPolicy`.

    TD3 has two critics; for DDPG, SB3 asks for one.
    """

    algorithm_class = TD3
    actor_class = SimBaDeterministicActor
    default_n_critics = 2
