"""Weight initialisations of Stream AC: SparseInit and the dense draw underneath it."""

import math

import torch as th
from torch import nn

from sb3_sparse.sparsity import initialize_weight

# Fraction of each unit's inputs that SparseInit sets to zero (Elsayed et al., 2024).
INITIAL_SPARSITY = 0.9


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


INITIALIZERS = {"sparse": sparse_init, "dense": dense_init}


def _uniform(weight: th.Tensor) -> None:
    bound = 1.0 / math.sqrt(weight.shape[1])
    nn.init.uniform_(weight, -bound, bound)


def _sparse_uniform(weight: th.Tensor) -> None:
    _uniform(weight)
    zeros = math.ceil(INITIAL_SPARSITY * weight.shape[1])
    order = th.rand(weight.shape, device="cpu").argsort(dim=1)
    weight.scatter_(1, order[:, :zeros].to(weight.device), 0.0)


def _zero_bias(layer: nn.Module) -> None:
    assert isinstance(layer.bias, nn.Parameter)
    nn.init.zeros_(layer.bias)
