"""Actions of a Gaussian squashed by tanh, and their log-probabilities."""

import functools
import importlib
import math
from typing import Any

import torch as th
import torch.nn.functional as F

from sb3_sparse.sparsity.products.choice import are_ordinary, kernels_are_available


def draw(mean: th.Tensor, head: th.Tensor, noise: th.Tensor, least: float, half_range: float) -> tuple[th.Tensor, th.Tensor]:
    """
    Squash ``x = mean + exp(log_std) * noise``, where ``log_std = least + half_range * (1 + tanh(head))``. The log-determinant
    is exact: ``2 (log 2 - x - softplus(-2 x))``. On a CPU it is one operation where the extra ``fast`` is installed.

    :param mean: (batch, dim) means
    :param head: (batch, dim) what makes the standard deviations
    :param noise: (batch, dim) standard normal numbers
    :param least: Least log standard deviation
    :param half_range: Half of what the largest one is above it
    :return: (batch, dim) ``tanh(x)`` and (batch,) its log-probability
    """
    if are_ordinary(mean, head) and mean.dtype == head.dtype and mean.ndim == 2 and kernels_are_available():
        return _fused().apply(mean, head, noise, least, half_range)  # type: ignore[no-any-return]
    return draw_by_torch(mean, head, noise, least, half_range)


def draw_by_torch(
    mean: th.Tensor, head: th.Tensor, noise: th.Tensor, least: float, half_range: float
) -> tuple[th.Tensor, th.Tensor]:
    """The same by torch's own operations; see :func:`draw`."""
    log_std = least + half_range * (1.0 + th.tanh(head))
    x = mean + noise * log_std.exp()
    # Log-density of the Gaussian less the log-determinant, constants apart.
    entries = th.addcmul(2.0 * (x + F.softplus(-2.0 * x)) - log_std, noise, noise, value=-0.5)
    return th.tanh(x), entries.sum(dim=1) - constant(mean.shape[1])


def constant(dim: int) -> float:
    """
    :param dim: Dimension of the actions
    :return: What is subtracted from the sum of the log-probability's entries
    """
    return dim * (0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0))


@functools.cache
def _fused() -> Any:
    return importlib.import_module("sb3_sparse.networks.fused.squashed_gaussian").SquashedGaussian
