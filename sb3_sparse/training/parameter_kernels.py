"""
Adam's step and the average of a target network as compiled passes over all parameters (extra ``fast``).

A table has one line for every parameter, of addresses and sizes. The first argument, a zero, says which floating point type
the addresses point to. Operations come in the order of torch's kernels, and multiplications and additions are fused where
its compiler fuses them.
"""

import math
from typing import Any

import numpy as np
from numba import carray
from numba.extending import intrinsic

from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.vector_code import pointer, rounded

# Columns of the table of an optimizer's parameters, of its groups, and of a target network's parameters.
VALUES, GRADIENTS, MEANS, SQUARES, STEPS, SIZE, GROUP = range(7)
LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY, IS_DECOUPLED, VECTOR = range(7)
TARGET, ONLINE, LENGTH = range(3)

_FLOAT = np.float32(0.0)
_kernel = compiled(nogil=True, error_model="numpy")


@intrinsic
def _fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    return a(a, b, c), lambda context, builder, signature, arguments: builder.fma(*arguments)


@_kernel
def step_adam(zero, table, groups):  # type: ignore[no-untyped-def]
    """
    Make one step of Adam or AdamW with all parameters whose address of a gradient is not 0; counts steps as well.

    :param table: (parameters, 7) int64
    :param groups: (parameter groups, 7) float64; VECTOR is the number of entries that torch takes at a time
    """
    for line in table:
        values, gradients, means, squares, steps, size, group = line
        if gradients == 0:
            continue
        rate, beta1, beta2, epsilon, decay, is_decoupled, vector = groups[group]
        count = carray(pointer(steps, _FLOAT), 1)
        count[0] += _FLOAT + 1
        step = np.float64(count[0])
        length = rounded(zero, -(rate / (1 - beta1**step)))
        root = rounded(zero, math.sqrt(1 - beta2**step))
        kept = rounded(zero, 1 - rate * decay) if is_decoupled else rounded(zero, 1.0)
        added = zero if is_decoupled else rounded(zero, decay)
        rates = rounded(zero, 1 - beta1), rounded(zero, beta2), rounded(zero, 1 - beta2)
        body = size // np.int64(vector) * np.int64(vector)
        _step_entries(
            zero, values, gradients, means, squares, size, body, kept, added, rates, length, root, rounded(zero, epsilon)
        )


@_kernel
def _step_entries(  # type: ignore[no-untyped-def]
    zero, values, gradients, means, squares, size, body, kept, added, rates, length, root, epsilon
):
    value, gradient = carray(pointer(values, zero), size), carray(pointer(gradients, zero), size)
    mean, square = carray(pointer(means, zero), size), carray(pointer(squares, zero), size)
    of_mean, kept_square, of_square = rates
    for i in range(body):
        g = _fused(value[i], added, gradient[i])
        mean[i] = _fused(of_mean, g - mean[i], mean[i])
        square[i] = _fused(of_square * g, g, square[i] * kept_square)
        value[i] = value[i] * kept + length * mean[i] / (math.sqrt(square[i]) / root + epsilon)
    for i in range(body, size):
        g = _fused(value[i], added, gradient[i])
        mean[i] = _fused(of_mean, g - mean[i], mean[i])
        square[i] = _fused(square[i], kept_square, of_square * g * g)
        value[i] = value[i] * kept + length * mean[i] / (math.sqrt(square[i]) / root + epsilon)


@_kernel
def average(zero, table, weight):  # type: ignore[no-untyped-def]
    """
    Move the parameters of a target network towards those of its online network.

    :param table: (parameters, 3) int64
    :param weight: Weight of the online network, in [0, 1]
    """
    near = rounded(zero, weight)
    far = rounded(zero, rounded(zero, weight) - 1)
    for line in table:
        targets, values, size = line
        target, value = carray(pointer(targets, zero), size), carray(pointer(values, zero), size)
        if weight < 0.5:
            for i in range(size):
                target[i] = _fused(near, value[i] - target[i], target[i])
        else:
            for i in range(size):
                target[i] = _fused(far, value[i] - target[i], value[i])
