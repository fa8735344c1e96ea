"""The SimBa encoder (Lee et al., 2024)."""

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.networks.initializers import he_normal_linear, orthogonal_linear

LAYER_NORM_EPS = 1e-6  # flax's default, which the reference uses; torch's is 1e-5
EXPANSION = 4  # ratio of a block's inner to its outer width


class SimBaBlock(nn.Module):
    """
    Residual feed-forward block: ``x + contract(relu(expand(norm(x))))``.

    :param hidden_dim: Width h of the residual stream; the block's inner width is 4 h
    """

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.expand = nn.Linear(hidden_dim, EXPANSION * hidden_dim)
        self.activation = nn.ReLU()
        self.contract = nn.Linear(EXPANSION * hidden_dim, hidden_dim)

    def reset_parameters(self) -> None:
        """Draw the block's parameters anew."""
        self.norm.reset_parameters()
        he_normal_linear(self.expand)
        he_normal_linear(self.contract)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, hidden_dim)
        :return: (batch, hidden_dim)
        """
        return x + self.contract(self.activation(self.expand(self.norm(x))))


class SimBaEncoder(nn.Module):
    """
    SimBa encoder: a linear projection, residual blocks, a final layer normalisation. There is no activation after the
    projection. Initialisation: projection orthogonal with gain 1, block layers He-normal, biases 0.

    :param input_dim: Size of the (normalised) input
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
        self.blocks = nn.Sequential(*(SimBaBlock(hidden_dim) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        orthogonal_linear(self.projection)
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]
        self.norm.reset_parameters()

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, input_dim)
        :return: (batch, hidden_dim) features, layer-normalised
        """
        return self.norm(self.blocks(self.projection(x)))
