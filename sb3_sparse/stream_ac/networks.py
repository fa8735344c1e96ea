"""Actor and critic of Stream AC."""

from collections.abc import Mapping

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical, Distribution, Normal

from sb3_sparse.sparsity import SparseLinear
from sb3_sparse.stream_ac.initializers import INITIALIZERS

LAYER_NORM_EPS = 1e-5
NEGATIVE_SLOPE = 0.01


class StreamNetwork(nn.Module):
    """
    Two hidden layers, each Linear, LayerNorm of the pre-activation (no parameters), LeakyReLU, and linear heads.

    :param input_dim: Size of the input
    :param width: Units of each hidden layer
    :param heads: Name -> size of each head
    :param init: "sparse", "frozen_sparse" or "dense", see :mod:`sb3_sparse.stream_ac.initializers`
    """

    def __init__(self, input_dim: int, width: int, heads: Mapping[str, int], init: str):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(input_dim, width),
            nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
        )
        self.heads = tuple(heads)
        for name, size in heads.items():
            self.add_module(name, nn.Linear(width, size))
        for layer in self.linear_layers():
            INITIALIZERS[init](layer)

    def linear_layers(self) -> list[nn.Linear | SparseLinear]:
        """The layers that have weights: two hidden ones, then the heads."""
        layers = [self.trunk[0], self.trunk[3], *(self.get_submodule(name) for name in self.heads)]
        return [layer for layer in layers if isinstance(layer, nn.Linear | SparseLinear)]

    def hidden_activations(self, features: th.Tensor) -> list[th.Tensor]:
        """
        What diagnostics of units look at.

        :param features: (batch, input_dim)
        :return: (batch, width) after the LeakyReLU of each hidden layer
        """
        activations = []
        for layer in self.trunk:
            features = layer(features)
            if isinstance(layer, nn.LeakyReLU):
                activations.append(features)
        return activations

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param features: (batch, input_dim)
        :return: (batch, size) of each head
        """
        latent = self.trunk(features)
        return tuple(self.get_submodule(name)(latent) for name in self.heads)


class StreamActor(StreamNetwork):
    """
    Policy: a normal distribution, not squashed, whose standard deviation is a softplus (no floor); or a softmax over actions.

    :param input_dim: Size of the input
    :param action_space: A Box or Discrete space
    :param width: Units of each hidden layer
    :param init: As for :class:`StreamNetwork`
    """

    optimizer: th.optim.Optimizer

    def __init__(self, input_dim: int, action_space: spaces.Space, width: int, init: str):
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        if isinstance(action_space, spaces.Discrete):
            heads = {"logits": int(action_space.n)}
        else:
            size = int(np.prod(action_space.shape))  # type: ignore[arg-type]
            heads = {"mu": size, "pre_std": size}
        super().__init__(input_dim, width, heads, init)

    def distribution(self, features: th.Tensor) -> Distribution:
        """
        Distribution of actions.

        :param features: (batch, input_dim)
        """
        outputs = self(features)
        if self.is_discrete:
            return Categorical(logits=outputs[0], validate_args=False)
        mu, pre_std = outputs
        return Normal(mu, nn.functional.softplus(pre_std), validate_args=False)


class StreamCritic(nn.Module):
    """
    State value.

    :param input_dim: Size of the input
    :param width: Units of each hidden layer
    :param init: As for :class:`StreamNetwork`
    """

    optimizer: th.optim.Optimizer

    def __init__(self, input_dim: int, width: int, init: str):
        super().__init__()
        self.vf = StreamNetwork(input_dim, width, {"value": 1}, init)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (batch, input_dim)
        :return: (batch,)
        """
        return self.vf(features)[0].squeeze(-1)
