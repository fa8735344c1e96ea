"""The part of DrQ-v2 that acts."""

from typing import Any

import torch as th

from sb3_sparse.algorithms.acting_networks import ActingNetwork, Features, plain


class PixelActor(ActingNetwork):
    """The actor of DrQ-v2 on its encoder."""

    is_squashed = True
    obstacle = "DrQ-v2 looks at images."

    def __init__(self, model: Any):
        super().__init__(model)
        self.encoder, self.actor = Features(model.policy, model.policy.encoder), plain(model.policy.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(self.encoder(observation))
