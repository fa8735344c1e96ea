"""The part of Stream AC that acts."""

from typing import Any

import torch as th
from torch import nn

from sb3_sparse.algorithms.acting_networks import ActingNetwork, plain


class StreamMean(ActingNetwork):
    """The mean of Stream AC's normal distribution, or the logits of its actions."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.normalizer, self.actor = plain(model.policy.normalizer), plain(model.policy.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(self.normalizer(observation))[0]

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [self.normalizer, self.actor.trunk, self.actor.get_submodule(self.actor.heads[0])]
