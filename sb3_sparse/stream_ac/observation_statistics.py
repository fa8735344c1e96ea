"""Running statistics of a stream of observations."""

import numpy as np
import torch as th
from torch import nn

EPS = 1e-8


class ObservationStatistics(nn.Module):
    """
    Standardise observations with the mean and the unbiased variance of all observations so far (Welford, 1962; float64), each
    counted once. The variance is 1 until there are two, so the first observation becomes exactly 0. Nothing is clipped.

    Statistics move only in :meth:`observe`, which training calls with every observation of a step or a reset, never in a
    forward pass.

    :param dim: Size of the observation
    :param normalized_dim: How many of its first entries are standardised; the others, the time feature, pass through
    """

    mean: th.Tensor
    squares: th.Tensor
    count: th.Tensor

    def __init__(self, dim: int, normalized_dim: int):
        super().__init__()
        self.dim, self.normalized_dim = dim, normalized_dim
        self.register_buffer("mean", th.zeros(normalized_dim, dtype=th.float64))
        # Sum of squared deviations from the mean.
        self.register_buffer("squares", th.zeros(normalized_dim, dtype=th.float64))
        self.register_buffer("count", th.zeros(1, dtype=th.float64))

    @property
    def var(self) -> th.Tensor:
        """(normalized_dim,) unbiased variance, 1 before the second observation."""
        return th.where(self.count > 1, self.squares / (self.count - 1).clamp(min=1), 1.0)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (batch, dim), any float type
        :return: (batch, dim) float32, standardised
        """
        head, tail = observations.double().split([self.normalized_dim, self.dim - self.normalized_dim], dim=1)
        return th.cat([(head - self.mean) / th.sqrt(self.var + EPS), tail], dim=1).float()

    @th.no_grad()
    def observe(self, observation: np.ndarray) -> np.ndarray:
        """
        Count one observation, then standardise it.

        :param observation: (dim,)
        :return: (dim,) float32
        """
        values = th.as_tensor(observation, dtype=th.float64, device=self.mean.device)
        head = values[: self.normalized_dim]
        self.count += 1
        difference = head - self.mean
        self.mean += difference / self.count
        self.squares += difference * (head - self.mean)
        return self(values[None])[0].cpu().numpy()

    def extra_repr(self) -> str:
        return f"{self.dim}, normalized_dim={self.normalized_dim}"
