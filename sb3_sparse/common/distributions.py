"""Action distributions as in the SimBa reference."""

import math

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution, sum_independent_dims


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
