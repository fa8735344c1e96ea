"""Sparse SimBa policy for TQC."""

from typing import Any, ClassVar

from sb3_contrib import TQC
from sb3_contrib.tqc.policies import Critic, TQCPolicy

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.gaussian_actor import SimBaActor
from sb3_sparse.common.networks import SimBaCriticBase
from sb3_sparse.common.simba_policy import SimBaPolicy


class SimBaQuantileCritic(SimBaCriticBase, Critic):
    """
    Distributional Q-functions of TQC (Kuznetsov et al., 2020): SimBa encoders on observation and action, each with a linear
    head that returns quantiles of the return, (batch, n_critics, n_quantiles) altogether.

    :param n_quantiles: Number of quantiles of each network
    :param kwargs: Those of :class:`~sb3_sparse.common.networks.SimBaNetwork`
    """

    def __init__(self, *, n_quantiles: int, **kwargs: Any):
        self.output_dim = check_integer("n_quantiles", n_quantiles)
        super().__init__(n_quantiles=self.output_dim, **kwargs)


class SparseSimBaTQCPolicy(SimBaPolicy, TQCPolicy):
    """
    Statically sparse SimBa policy for TQC; arguments and sources: :class:`SimBaPolicy`, and ``n_quantiles``, the number of
    quantiles of each critic (25).

    The paper does not use TQC. Numbers of critics and quantiles are sb3-contrib's: two critics of 25 quantiles.
    """

    algorithm_class = TQC
    actor_class = SimBaActor
    critic_class = SimBaQuantileCritic
    default_n_critics = 2
    own_arguments: ClassVar[tuple[str, ...]] = ("n_quantiles",)

    def _critic_kwargs(self) -> dict[str, Any]:
        return {**super()._critic_kwargs(), "n_quantiles": self.critic_kwargs["n_quantiles"]}
