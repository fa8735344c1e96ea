"""Weight initialisations of the references (SimBa, DrQ-v2, Rainbow); they work on dense and on sparse layers."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch as th
from torch import nn

from sb3_sparse.sparsity import SparseLinear, initialize_weight

# Standard deviation of a unit normal distribution truncated at +-2.
_TRUNCATED_STD = 0.87962566103423978


@runtime_checkable
class DrawsLayers(Protocol):
    """A network that says itself how its layers are initialised."""

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        Draw the parameters of a layer as this network's are drawn when it is built; ReDo does so with recycled units.

        :param layer: Layer like one of this network, dense or sparse
        """


def reset_layers(network: nn.Module, initialize: Callable[[nn.Module], None]) -> None:
    """
    Draw all linear layers of a network alike, and reset its layer normalisations.

    :param network: Network; where it is pruned, the topology stays
    :param initialize: Draws the parameters of a linear layer, dense or sparse
    """
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | SparseLinear):
            initialize(module)


def orthogonal_linear(layer: nn.Module, gain: float = 1.0) -> None:
    """
    Orthogonal weight, zero bias (SimBa: input projections and heads; DrQ-v2 and BroNet: all linear layers).

    :param layer: Linear layer, dense or sparse
    :param gain: Factor of the weight
    """
    initialize_weight(layer, nn.init.orthogonal_, gain=gain)
    _zero_bias(layer)


def orthogonal_conv(layer: nn.Module) -> None:
    """
    Orthogonal weight with gain sqrt(2), zero bias (encoder of DrQ-v2).

    :param layer: Two-dimensional convolution, dense or sparse
    """
    initialize_weight(layer, nn.init.orthogonal_, gain=math.sqrt(2.0))
    _zero_bias(layer)


def he_normal_linear(layer: nn.Module) -> None:
    """
    He-normal weight over the dense fan-in, drawn from a normal distribution truncated at two standard deviations and scaled to
    variance 2 / fan-in as in JAX; zero bias (residual blocks).

    :param layer: Linear layer, dense or sparse
    """
    initialize_weight(layer, _truncated_normal, scale=2.0)
    _zero_bias(layer)


def xavier_uniform_conv(layer: nn.Module) -> None:
    """
    Xavier-uniform weight, zero bias.

    :param layer: Convolutional layer, dense or sparse
    """
    initialize_weight(layer, nn.init.xavier_uniform_)
    _zero_bias(layer)


def lecun_normal_conv(layer: nn.Module) -> None:
    """
    LeCun-normal weight, of variance 1 / fan-in from a normal distribution truncated at two standard deviations; zero bias.

    :param layer: Convolutional layer, dense or sparse
    """
    initialize_weight(layer, _truncated_normal, scale=1.0)
    _zero_bias(layer)


def _truncated_normal(weight: th.Tensor, scale: float) -> None:
    """Variance ``scale`` / fan-in after truncation."""
    std = math.sqrt(scale / weight[0].numel()) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _zero_bias(layer: nn.Module) -> None:
    if isinstance(layer.bias, nn.Parameter):
        nn.init.zeros_(layer.bias)
