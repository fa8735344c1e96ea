"""Sparse SimBa policy for SAC."""

from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy

from sb3_sparse.common.gaussian_actor import SimBaActor
from sb3_sparse.common.simba_policy import SimBaPolicy


class SparseSimBaPolicy(SimBaPolicy, SACPolicy):
    """
    Statically sparse SimBa policy for SAC; arguments and sources: :class:`SimBaPolicy`.

    It has one critic, as in the paper (no clipped double Q-learning); give ``n_critics=2`` on tasks that terminate.
    """

    algorithm_class = SAC
    default_n_critics = 1

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimBaActor:
        """
        Build the actor, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return SimBaActor(**self._network_kwargs(features_extractor), size=self.actor_size).to(self.device)
