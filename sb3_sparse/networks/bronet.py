"""The BroNet encoder (Nauman et al., 2024)."""

import math

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.networks.initializers import orthogonal_linear, reset_layers
from sb3_sparse.networks.simba import LAYER_NORM_EPS

GAIN = math.sqrt(2.0)  # of the orthogonal initialisation of every linear layer, heads included


class BroNetBlock(nn.Module):
    """
    Residual feed-forward block: ``x + norm2(contract(relu(norm1(expand(x)))))``; both layers are as wide as the stream.

    :param hidden_dim: Width h of the residual stream
    """

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.expand = nn.Linear(hidden_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.activation = nn.ReLU()
        self.contract = nn.Linear(hidden_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, hidden_dim)
        :return: (batch, hidden_dim)
        """
        return x + self.norm2(self.contract(self.activation(self.norm1(self.expand(x)))))


class BroNetEncoder(nn.Module):
    """
    BroNet encoder: a linear projection, layer normalisation, ReLU, then residual blocks. What leaves it is not normalised.
    Initialisation: every linear layer orthogonal with gain sqrt(2), biases 0.

    :param input_dim: Size of the input, which the reference does not normalise
    :param hidden_dim: Width h of the residual stream, and of the output
    :param num_blocks: Number of residual blocks
    :raises ValueError: if a size is not a positive integer.
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_blocks: int):
        super().__init__()
        self.input_dim = check_integer("input_dim", input_dim)
        self.hidden_dim = check_integer("hidden_dim", hidden_dim)
        self.num_blocks = check_integer("num_blocks", num_blocks)
        self.projection = nn.Linear(input_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.activation = nn.ReLU()
        self.blocks = nn.Sequential(*(BroNetBlock(hidden_dim) for _ in range(num_blocks)))
        self.reset_parameters()

    def initialize_layer(self, layer: nn.Module) -> None:
        """See :class:`~sb3_sparse.networks.initializers.DrawsLayers`."""
        orthogonal_linear(layer, GAIN)

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        reset_layers(self, self.initialize_layer)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, input_dim)
        :return: (batch, hidden_dim) features
        """
        return self.blocks(self.activation(self.norm(self.projection(x))))
