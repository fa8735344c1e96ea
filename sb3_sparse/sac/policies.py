"""Sparse SimBa policy for SAC."""

from stable_baselines3 import SAC
from stable_baselines3.sac.policies import SACPolicy

from sb3_sparse.common.gaussian_actor import SimBaActor
from sb3_sparse.common.simba_policy import SimBaPolicy


class SparseSimBaPolicy(SimBaPolicy, SACPolicy):
    """
    Statically sparse SimBa policy for SAC; arguments and sources: :class:`SimBaPolicy`.

    It has one critic, as in the paper (no clipped double Q-learning); give ``n_critics=2`` on tasks that terminate.
    """

    algorithm_class = SAC
    actor_class = SimBaActor
    default_n_critics = 1
