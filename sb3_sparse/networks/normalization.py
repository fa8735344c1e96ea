"""Running normalisation of observations."""

import functools
import importlib
from collections.abc import Iterable
from types import ModuleType

import torch as th
from torch import nn

from sb3_sparse.sparsity.products.choice import are_ordinary, kernels_are_available

# Inputs that were there before the first batch count as batches of this size.
_USUAL_BATCH = 256


class RunningNormalizer(nn.Module):
    """
    Standardise inputs with running statistics: ``(x - mean) / sqrt(var + eps)``, without clipping.

    Statistics move only in :meth:`update` and :meth:`start`, never in a forward pass, and in place. They average the moments
    of the batches they are given with weight 1/k for the k-th batch until that falls to ``min_weight``, which stays: a plain
    average would lag behind data that drifts, because early batches would count as much as recent ones. Differences between
    batch means add to the variance (Chan et al., 1979), so the statistics are those of the data, not of a typical batch.

    Deviation from the reference, which counts every observation once while collecting: SB3 does not hand collected
    observations to the policy. Batches drawn from the replay buffer have what was visited as their expectation.

    Buffers are not named ``running_...`` because SB3 overwrites such buffers in target networks.

    :param dim: Size of the input
    :param min_weight: Smallest weight of a new batch, in (0, 1]; 0.005 averages over about the last 200 batches
    :param eps: Added to the variance (1e-8 as in the reference)
    :param frozen: Start with statistics that never move; with mean 0 and variance 1 this passes inputs through
    """

    mean: th.Tensor
    var: th.Tensor
    num_batches: th.Tensor
    frozen: th.Tensor

    def __init__(self, dim: int, min_weight: float = 0.005, eps: float = 1e-8, frozen: bool = False):
        super().__init__()
        if not 0.0 < min_weight <= 1.0:
            raise ValueError(f"min_weight must lie in (0, 1], got {min_weight}.")
        self.dim, self.min_weight, self.eps = dim, min_weight, eps
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("var", th.ones(dim))
        self.register_buffer("num_batches", th.zeros((), dtype=th.int64))
        # A tensor, so that it is saved with the statistics.
        self.register_buffer("frozen", th.tensor(frozen))

    @property
    def std(self) -> th.Tensor:
        """(dim,) standard deviation used for scaling, ``sqrt(var + eps)``."""
        return th.sqrt(self.var + self.eps)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (..., dim)
        :return: (..., dim), standardised
        """
        if (kernels := self._kernels(x)) is not None and not (x.requires_grad and th.is_grad_enabled()):
            return kernels.standardize(x, self._buffers["mean"], self._buffers["var"], self.eps)  # type: ignore[no-any-return]
        return (x - self.mean) / self.std

    def _kernels(self, x: th.Tensor) -> ModuleType | None:
        """What normalises such a batch in compiled passes, if that is possible."""
        # Past torch's __getattr__, which takes longer than the passes.
        mean, var = self._buffers["mean"], self._buffers["var"]
        assert mean is not None and var is not None
        is_plain = are_ordinary(x, mean) and x.ndim == 2 and mean.dtype == var.dtype == x.dtype and x.shape[1:] == mean.shape
        return _standardizing() if is_plain and len(x) and kernels_are_available() else None

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """
        Move the statistics towards a batch's mean and population variance; nothing happens when frozen.

        :param x: (batch, dim)
        """
        if (kernels := self._kernels(x)) is not None:
            kernels.follow(x, self.mean, self.var, self.num_batches, self.frozen, self.min_weight)
            return
        batch_var, batch_mean = _moments(x)
        # Arithmetic on tensors instead of branches: nothing here waits for a GPU.
        moving = ~self.frozen
        self.num_batches.add_(moving)
        weight = moving * th.clamp(1.0 / self.num_batches.clamp(min=1), min=self.min_weight)
        _mix(self.mean, self.var, batch_mean, batch_var, weight)

    @property
    def is_untouched(self) -> bool:
        """Whether statistics may move, and never did."""
        return not self.frozen and int(self.num_batches) == 0

    @th.no_grad()
    def start(self, mean: th.Tensor, var: th.Tensor, count: int) -> None:
        """
        Begin with the moments of what there is already.

        :param mean: (dim,) means
        :param var: (dim,) population variances
        :param count: Number of inputs that they are of
        """
        self.mean.copy_(mean)
        self.var.copy_(var)
        self.num_batches.fill_(max(1, round(count / _USUAL_BATCH)))

    def extra_repr(self) -> str:
        return f"{self.dim}, min_weight={self.min_weight}, eps={self.eps}"


class DeferredNormalizer(nn.Module):
    """
    Standardise inputs with running statistics that stay as they are throughout an update: inputs seen in training mode with
    gradients enabled are pooled, and the statistics move when training mode ends.

    The moments of a pool of n inputs count with weight n / total, until that falls to the smaller of ``min_weight`` and
    ``n / horizon``, which stays.

    The statistics are named ``running_...``, because SB3 copies such buffers to target networks, by references to the tensors:
    they are written in place. What is pooled is saved along, so that a model saved within an update goes on exactly.

    :param dim: Size of the input
    :param min_weight: Bound of the smallest weight of a pool, in (0, 1]; 0.005 averages over about the last 200 pools
    :param horizon: Number of inputs that are averaged over at least; small pools count less for it
    :param eps: Added to the variance
    :param frozen: Start with statistics that never move; with mean 0 and variance 1 this passes inputs through
    """

    running_mean: th.Tensor
    running_var: th.Tensor
    total: th.Tensor
    pooled_mean: th.Tensor
    pooled_var: th.Tensor
    pooled: th.Tensor
    frozen: th.Tensor

    def __init__(self, dim: int, min_weight: float = 0.005, horizon: int = 51_200, eps: float = 1e-8, frozen: bool = False):
        super().__init__()
        if not 0.0 < min_weight <= 1.0:
            raise ValueError(f"min_weight must lie in (0, 1], got {min_weight}.")
        self.dim, self.min_weight, self.horizon, self.eps = dim, min_weight, horizon, eps
        for name in ("running", "pooled"):
            self.register_buffer(f"{name}_mean", th.zeros(dim))
            self.register_buffer(f"{name}_var", th.ones(dim))
        self.register_buffer("total", th.zeros((), dtype=th.int64))
        self.register_buffer("pooled", th.zeros((), dtype=th.int64))
        # A tensor, so that it is saved with the statistics.
        self.register_buffer("frozen", th.tensor(frozen))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, dim)
        :return: (batch, dim), standardised
        """
        if self.training and th.is_grad_enabled():
            self._pool(x)
        return (x - self.running_mean) / th.sqrt(self.running_var + self.eps)

    def train(self, mode: bool = True) -> "DeferredNormalizer":
        """
        Set training mode; leaving it moves the statistics.

        :param mode: Whether to train
        """
        super().train(mode)
        if not mode:
            self._commit()
        return self

    @property
    def is_untouched(self) -> bool:
        """Whether statistics may move, and nothing was seen for it."""
        return not self.frozen and int(self.total + self.pooled) == 0

    @th.no_grad()
    def start(self, mean: th.Tensor, var: th.Tensor, count: int) -> None:
        """See :meth:`RunningNormalizer.start`."""
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)
        self.total.fill_(count)

    @th.no_grad()
    def _pool(self, x: th.Tensor) -> None:
        self.pooled.add_(len(x) * ~self.frozen)
        weight = len(x) / self.pooled.clamp(min=1)
        var, mean = _moments(x)
        _mix(self.pooled_mean, self.pooled_var, mean, var, th.where(self.frozen, 0.0, weight))

    @th.no_grad()
    def _commit(self) -> None:
        # Arithmetic on tensors instead of branches: nothing here waits for a GPU. An empty pool has weight 0.
        self.total.add_(self.pooled)
        least = th.clamp(self.pooled / self.horizon, max=self.min_weight)
        weight = th.maximum(self.pooled / self.total.clamp(min=1), least)
        _mix(self.running_mean, self.running_var, self.pooled_mean, self.pooled_var, weight)
        self.pooled.zero_()

    def extra_repr(self) -> str:
        return f"{self.dim}, min_weight={self.min_weight}, horizon={self.horizon}, eps={self.eps}"


def pooled_moments(parts: Iterable[th.Tensor]) -> tuple[th.Tensor, th.Tensor, int]:
    """
    Take the moments of all inputs together.

    :param parts: (n, dim) inputs each, at least one
    :return: (dim,) means and (dim,) population variances in double precision, and the number of inputs
    """
    moments = [(len(part), *th.var_mean(part.double(), dim=0, correction=0)) for part in parts]
    counts, variances, means = zip(*moments, strict=True)
    weights = th.tensor(counts, dtype=th.float64, device=means[0].device)[:, None] / sum(counts)
    mean = (weights * th.stack(means)).sum(0)
    var = (weights * (th.stack(variances) + (th.stack(means) - mean).square())).sum(0)
    return mean, var, sum(counts)


@functools.cache
def _standardizing() -> ModuleType:
    return importlib.import_module("sb3_sparse.networks.fused.standardizing")


def _moments(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Population variance and mean of every column: what ``torch.var_mean`` takes seven times as long for on a CPU."""
    mean = x.mean(0)
    return (x - mean).square_().mean(0), mean


def _mix(mean: th.Tensor, var: th.Tensor, new_mean: th.Tensor, new_var: th.Tensor, weight: th.Tensor) -> None:
    """Move moments in place towards those of a batch; differences between the means add to the variance."""
    spread = (new_mean - mean).square()
    mean.lerp_(new_mean, weight)
    var.lerp_(th.addcmul(new_var, 1.0 - weight, spread), weight)
