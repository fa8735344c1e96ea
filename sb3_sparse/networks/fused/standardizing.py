"""Running normalisation as compiled kernels (extra ``fast``): for small networks, torch's operations take longer than they."""

import math

import numpy as np
import torch as th
from numba import carray

from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.kernel_products import ZEROS
from sb3_sparse.sparsity.products.vector_code import pointer, rounded

_kernel = compiled(nogil=True, error_model="numpy")


@_kernel
def _standardize(zero, rows, width, eps, inputs, means, variances, outputs):  # type: ignore[no-untyped-def]
    x, y = carray(pointer(inputs, zero), (rows, width)), carray(pointer(outputs, zero), (rows + 1, width))
    mean, variance, std = carray(pointer(means, zero), width), carray(pointer(variances, zero), width), y[rows]
    added = rounded(zero, eps)
    for i in range(width):
        std[i] = math.sqrt(variance[i] + added)
    for row in range(rows):
        for i in range(width):
            y[row, i] = (x[row, i] - mean[i]) / std[i]


@_kernel
def _follow(zero, rows, width, least, inputs, means, variances, count, is_frozen, scratch):  # type: ignore[no-untyped-def]
    if carray(pointer(is_frozen, np.uint8(0)), 1)[0]:
        return
    x = carray(pointer(inputs, zero), (rows, width))
    mean, variance = carray(pointer(means, zero), width), carray(pointer(variances, zero), width)
    moments = carray(pointer(scratch, zero), (2, width))
    new_mean, new_variance = moments[0], moments[1]
    batches = carray(pointer(count, np.int64(0)), 1)
    batches[0] += 1
    single = max(np.float32(1.0) / np.float32(batches[0]), np.float32(least))  # of any type of numbers, as in torch
    weight, kept = rounded(zero, single), rounded(zero, np.float32(1.0) - single)
    moments[:] = zero
    # Differences from the first row, so that rounding is that of their size, and a constant is met.
    for row in range(1, rows):
        for i in range(width):
            new_mean[i] += x[row, i] - x[0, i]
    for i in range(width):
        new_mean[i] = x[0, i] + new_mean[i] / rows
    for row in range(rows):
        for i in range(width):
            new_variance[i] += (x[row, i] - new_mean[i]) * (x[row, i] - new_mean[i])
    for i in range(width):
        spread = new_mean[i] - mean[i]
        mean[i] += weight * spread
        variance[i] += weight * (new_variance[i] / rows + kept * spread * spread - variance[i])


def standardize(x: th.Tensor, mean: th.Tensor, variance: th.Tensor, eps: float) -> th.Tensor:
    """
    ``(x - mean) / sqrt(variance + eps)``, up to the last digit as torch computes it.

    :param x: (batch, dim)
    :param mean: (dim,)
    :param variance: (dim,)
    :param eps: Added to the variance
    :return: (batch, dim)
    """
    x, (rows, width) = x.contiguous(), x.shape
    output = x.new_empty(rows + 1, width)  # the last row is for the kernel
    places = [tensor.data_ptr() for tensor in (x, mean, variance, output)]
    _standardize(ZEROS[x.dtype], rows, width, eps, *places)
    return output[:rows]


def follow(
    x: th.Tensor, mean: th.Tensor, variance: th.Tensor, count: th.Tensor, is_frozen: th.Tensor, min_weight: float
) -> None:
    """
    Move statistics towards those of a batch; see :meth:`~sb3_sparse.networks.RunningNormalizer.update`.

    :param x: (batch, dim)
    :param mean: (dim,)
    :param variance: (dim,)
    :param count: Number of batches
    :param is_frozen: Whether statistics stay as they are
    :param min_weight: Smallest weight of a batch
    """
    x, (rows, width) = x.contiguous(), x.shape
    scratch = x.new_empty(2, width)
    places = [tensor.data_ptr() for tensor in (x, mean, variance, count, is_frozen, scratch)]
    _follow(ZEROS[x.dtype], rows, width, min_weight, *places)
    th.autograd.graph.increment_version([mean, variance, count])
