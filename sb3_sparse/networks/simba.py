"""The SimBa encoder (Lee et al., 2024)."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.networks.initializers import he_normal_linear, orthogonal_linear
from sb3_sparse.sparsity.products.choice import are_ordinary, kernels_are_available
from sb3_sparse.sparsity.products.dense_weights import TakesDenseWeights

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


class SimBaEncoder(TakesDenseWeights):
    """
    SimBa encoder: a linear projection, residual blocks, a final layer normalisation. There is no activation after the
    projection. Initialisation: projection orthogonal with gain 1, block layers He-normal, biases 0.

    :param input_dim: Size of the (normalised) input
    :param hidden_dim: Width h of the residual stream, and of the output
    :param num_blocks: Number of residual blocks
    :raises ValueError: if a size is not a positive integer.
    """

    # Where the passes as one operation keep their plans; no part of a copy or a pickle.
    _fused: Any = None

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
        outputs = self._pass_fused(x)
        return self.norm(self.blocks(self.projection(x))) if outputs is None else outputs[0]

    def with_heads(self, x: th.Tensor, heads: Sequence[nn.Module]) -> Sequence[th.Tensor]:
        """
        What linear heads make of the features: one operation on a CPU, unless somebody listens to this module.

        :param x: (batch, input_dim)
        :param heads: Linear layers on the features
        :return: (batch, output_dim) of every head
        """
        outputs = None if is_listened_to(self) else self._pass_fused(x, heads)
        if outputs is not None:
            return outputs
        features = self(x)
        return [head(features) for head in heads]

    def _pass_fused(self, x: th.Tensor, heads: Sequence[nn.Module] = ()) -> Sequence[th.Tensor] | None:
        if not (are_ordinary(x, x) and kernels_are_available()):
            return None
        if self._fused is None:
            self._fused = importlib.import_module("sb3_sparse.networks.fused.encoder").FusedPasses()
        return self._fused(self, x, heads)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fused"}


class HeadedEncoder(nn.Sequential):
    """An encoder, a linear head and what may follow, with the encoder and the head in one operation if it has such a one."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, input_dim)
        :return: (batch, output_dim)
        """
        encoder, head, *others = self._modules.values()
        (output,) = outputs_of(encoder, x, [head])
        for module in others:
            output = module(output)
        return output


def outputs_of(encoder: nn.Module, x: th.Tensor, heads: Sequence[nn.Module]) -> Sequence[th.Tensor]:
    """
    :param encoder: Any encoder
    :param x: (batch, input_dim)
    :param heads: Linear layers on its features
    :return: (batch, output_dim) of every head
    """
    if type(encoder) is SimBaEncoder:
        return encoder.with_heads(x, heads)
    features = encoder(x)
    return [head(features) for head in heads]


def is_listened_to(module: nn.Module) -> bool:
    """
    :param module: Module
    :return: Whether calling it does more than its type's ``forward``
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
