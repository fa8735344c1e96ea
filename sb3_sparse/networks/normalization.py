"""Running normalisation of observations."""

import torch as th
from torch import nn


class RunningNormalizer(nn.Module):
    """
    Standardise inputs with running statistics: ``(x - mean) / sqrt(var + eps)``, without clipping.

    Statistics move only in :meth:`update`, never in a forward pass, and in place. They average the moments of the batches
    they are given with weight 1/k for the k-th batch until that falls to ``min_weight``, which stays: a plain average would
    lag behind data that drifts, because early batches would count as much as recent ones. Differences between batch means
    add to the variance (Chan et al., 1979), so the statistics are those of the data, not of a typical batch.

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
        return (x - self.mean) / self.std

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """
        Move the statistics towards a batch's mean and population variance; nothing happens when frozen.

        :param x: (batch, dim)
        """
        batch_var, batch_mean = th.var_mean(x, dim=0, correction=0)
        # Arithmetic on tensors instead of branches: nothing here waits for a GPU.
        moving = ~self.frozen
        self.num_batches.add_(moving)
        weight = moving * th.clamp(1.0 / self.num_batches.clamp(min=1), min=self.min_weight)
        difference = batch_mean - self.mean
        self.mean.add_(weight * difference)
        self.var.add_(weight * (batch_var - self.var) + weight * (1.0 - weight) * difference.square())

    def extra_repr(self) -> str:
        return f"{self.dim}, min_weight={self.min_weight}, eps={self.eps}"
