"""The stochastic actor of SAC and TQC."""

import math
from collections.abc import Sequence

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution, sum_independent_dims
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor
from torch import nn

from sb3_sparse.common.networks import SimBaActorBase
from sb3_sparse.networks.simba import outputs_of
from sb3_sparse.networks.squashed_gaussian import draw

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0
_HALF_RANGE = 0.5 * (LOG_STD_MAX - LOG_STD_MIN)


class ExactSquashedDiagGaussian(SquashedDiagGaussianDistribution):
    """
    Gaussian squashed by tanh, with the exact log-determinant ``2 (log 2 - x - softplus(-2 x))``.

    SB3's class adds 1e-6 inside ``log(1 - tanh(x)^2 + 1e-6)`` instead, which bounds the log-probability of saturated actions.

    :param action_dim: Dimension of the action space
    """

    def log_prob(self, actions: th.Tensor, gaussian_actions: th.Tensor | None = None) -> th.Tensor:
        """
        :param actions: (batch, action_dim) squashed actions, in (-1, 1)
        :param gaussian_actions: (batch, action_dim) the same before squashing, if known; it is more accurate
        :return: (batch,) log-probability of the squashed actions
        """
        if gaussian_actions is None:
            # The bound, just inside (-1, 1), keeps atanh finite.
            gaussian_actions = th.atanh(actions.clamp(-1.0 + th.finfo(actions.dtype).eps, 1.0 - th.finfo(actions.dtype).eps))
        log_determinant = 2.0 * (math.log(2.0) - gaussian_actions - F.softplus(-2.0 * gaussian_actions))
        return sum_independent_dims(self.distribution.log_prob(gaussian_actions)) - sum_independent_dims(log_determinant)


class SimBaActor(SimBaActorBase, Actor):
    """
    Stochastic actor of SAC and TQC: a SimBa encoder and two linear heads, mean and log standard deviation of a Gaussian that
    is squashed by tanh.

    Deviations from SB3's actor, all as in the SimBa reference: ``log_std = -10 + 6 (1 + tanh(head))`` lies smoothly within
    [-10, 2], where SB3 clamps to [-20, 2]; the squashing correction of the log-probability is exact.

    Arguments: :class:`~sb3_sparse.common.networks.SimBaNetwork`.
    """

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        self.action_dist = ExactSquashedDiagGaussian(action_dim)  # type: ignore[assignment]
        self.latent_pi = self.size.encoder(features_dim)  # type: ignore[assignment]
        self.mu = self.size.head(action_dim)
        self.log_std = self.size.head(action_dim)  # type: ignore[assignment]

    def acting_networks(self) -> tuple[nn.Module, list[nn.Module]]:
        """See :class:`~sb3_sparse.common.networks.SimBaActorBase`."""
        return self.latent_pi, [self.mu, self.log_std]  # type: ignore[list-item]

    def choose(self, observations: np.ndarray, deterministic: bool) -> np.ndarray | None:
        """See :class:`~sb3_sparse.common.networks.SimBaActorBase`; random numbers are those of :meth:`forward`."""
        heads = self.compiled.heads(self, observations, 1 if deterministic else 2)
        if heads is None:
            return None
        if deterministic:
            return np.tanh(heads[0])
        mean, log_std = heads
        noise = th.randn(mean.shape, dtype=th.float32, device="cpu").numpy()
        return np.tanh(mean + noise * np.exp(LOG_STD_MIN + _HALF_RANGE * (1.0 + np.tanh(log_std))))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Draw an action: what SB3's actor returns, and from the same random numbers, without a distribution object, which takes
        longer to make than a small network.

        :param obs: (batch, *shape) raw observations
        :param deterministic: Whether to return the mode
        :return: (batch, action_dim) actions in [-1, 1]
        """
        if deterministic:
            return th.tanh(self.mu(self.latent_pi(self.extract_features(obs, self.features_extractor))))
        mean, log_std, _ = self.get_action_dist_params(obs)
        return th.tanh(mean + th.randn_like(mean) * log_std.exp())

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        Draw an action and tell its log-probability: what SB3's actor returns, and from the same random numbers, but computed
        from these, in half as many operations.

        :param obs: (batch, *shape) raw observations
        :return: (batch, action_dim) actions in [-1, 1] and (batch,) their log-probability
        """
        mean, head = self._heads(obs)
        return draw(mean, head, th.randn_like(mean), LOG_STD_MIN, _HALF_RANGE)

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        :param obs: (batch, *shape) raw observations
        :return: (batch, action_dim) mean and log standard deviation before squashing, and no further arguments
        """
        mean, head = self._heads(obs)
        return mean, LOG_STD_MIN + _HALF_RANGE * (1.0 + th.tanh(head)), {}

    def _heads(self, obs: PyTorchObs) -> Sequence[th.Tensor]:
        features = self.extract_features(obs, self.features_extractor)
        return outputs_of(self.latent_pi, features, [self.mu, self.log_std])  # type: ignore[list-item]
