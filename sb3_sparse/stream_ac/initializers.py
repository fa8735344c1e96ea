"""Weight initialisations of Stream AC: SparseInit, the dense draw underneath it, and SparseInit whose zeros stay."""

import math

import torch as th
from torch import nn

from sb3_sparse.sparsity import SparseLinear, Topology, initialize_weight

# Fraction of each unit's inputs that SparseInit sets to zero (Elsayed et al., 2024).
INITIAL_SPARSITY = 0.9
# The initialisation that is a static mask as well.
FROZEN = "frozen_sparse"


def dense_init(layer: nn.Module) -> None:
    """
    Draw the weight from U(-1 / sqrt(fan-in), 1 / sqrt(fan-in)) and zero the bias. A sparse layer keeps the active entries of a
    full draw.

    :param layer: Linear layer, dense or sparse
    """
    initialize_weight(layer, _uniform)
    _zero_bias(layer)


def sparse_init(layer: nn.Module) -> None:
    """
    SparseInit (Elsayed et al., 2024): the draw of :func:`dense_init`, then, for every unit by itself, ceil(0.9 fan-in) random
    inputs set to zero. These zeros are trainable; in a sparse layer they fall on active and inactive weights alike. With few
    inputs rounding up leaves less than a tenth: 1 of 18.

    :param layer: Linear layer, dense or sparse
    """
    initialize_weight(layer, _sparse_uniform)
    _zero_bias(layer)


def frozen_sparse_init(layer: nn.Module) -> None:
    """
    SparseInit whose zeros are not trained, but a static mask: the weights and, from the same random numbers, the zeros of
    :func:`sparse_init`. Turns the layer into a sparse one, in which every unit has as many inputs (constant fan-in).

    :param layer: Dense linear layer
    :raises ValueError: if no input of a unit would be left, that is of fewer than 10.
    """
    assert isinstance(layer, nn.Linear)
    if _zeros(layer.in_features) == layer.in_features:
        raise ValueError(
            f"init='{FROZEN}' keeps a tenth of each unit's inputs, rounded down, and a layer of {layer.in_features} inputs "
            "would have none left (at least 10 are needed): give init='sparse', whose zeros are trained, or init='dense' and "
            "a sparsity."
        )
    initialize_weight(layer, _uniform)
    active = _draw_active(layer.weight)
    _zero_bias(layer)
    SparseLinear.convert(layer, Topology(active.flatten().nonzero().squeeze(1), active.shape))


INITIALIZERS = {"sparse": sparse_init, "dense": dense_init, FROZEN: frozen_sparse_init}


def _uniform(weight: th.Tensor) -> None:
    bound = 1.0 / math.sqrt(weight.shape[1])
    nn.init.uniform_(weight, -bound, bound)


def _sparse_uniform(weight: th.Tensor) -> None:
    _uniform(weight)
    weight.masked_fill_(~_draw_active(weight), 0.0)


def _draw_active(weight: th.Tensor) -> th.Tensor:
    """Boolean mask of a weight: True where SparseInit leaves it as it was drawn."""
    order = th.rand(weight.shape, device="cpu").argsort(dim=1)
    active = th.ones(weight.shape, dtype=th.bool, device="cpu").scatter_(1, order[:, : _zeros(weight.shape[1])], False)
    return active.to(weight.device)


def _zeros(fan_in: int) -> int:
    return math.ceil(INITIAL_SPARSITY * fan_in)


def _zero_bias(layer: nn.Module) -> None:
    assert isinstance(layer.bias, nn.Parameter)
    nn.init.zeros_(layer.bias)
