"""The part of DER that acts."""

from typing import Any

import torch as th

from sb3_sparse.algorithms.acting_networks import ActingNetwork, plain


class RainbowValues(ActingNetwork):
    """The expected values of all actions, as DER has them."""

    obstacle = "DER takes expectations of distributions."

    def __init__(self, model: Any):
        super().__init__(model)
        self.q_net = plain(model.policy.q_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.q_net.q_values(observation)
