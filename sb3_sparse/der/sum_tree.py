"""Drawing in proportion to priorities that keep changing."""

import math

import torch as th

from sb3_sparse.arguments import check_integer

# Leaves of one inner node: a million priorities are two levels of about a thousand, each one gather and one cumulative sum.
FAN_OUT = 1024


class SumTree:
    """
    Numbers, their sums in groups of 1024, and the sum of all: setting a batch of numbers and finding where a batch of partial
    sums is reached touch a few thousand numbers of a million. Inner sums are computed anew from their leaves, never adjusted,
    so rounding does not add up. On a GPU nothing waits for it, so both can be part of a CUDA graph.

    :param capacity: Number of leaves, all 0 at first
    :param device: Where they lie
    """

    def __init__(self, capacity: int, device: th.device | str = "cpu"):
        self.capacity = check_integer("capacity", capacity)
        # float64: in a sum of a million float32 numbers, single ones would get lost.
        self.leaves = th.zeros(math.ceil(capacity / FAN_OUT), FAN_OUT, dtype=th.float64, device=device)
        self.sums = th.zeros(len(self.leaves), dtype=th.float64, device=device)

    def get(self, positions: th.Tensor) -> th.Tensor:
        """
        :param positions: (batch,) int64
        :return: (batch,) numbers there
        """
        return self.leaves.view(-1)[positions]

    def set(self, positions: th.Tensor, numbers: th.Tensor) -> None:
        """
        :param positions: (batch,) int64; of one that occurs several times, one number counts
        :param numbers: (batch,) at least 0
        """
        self.leaves.view(-1)[positions] = numbers.to(self.leaves)
        groups = positions // FAN_OUT
        self.sums[groups] = self.leaves[groups].sum(dim=1)

    def total(self) -> th.Tensor:
        """Sum of all numbers, a scalar."""
        return self.sums.sum()

    def find(self, fractions: th.Tensor) -> th.Tensor:
        """
        Find where a fraction of the total is reached: with uniform fractions, each position with a probability proportional to
        its number, and never one whose number is 0.

        :param fractions: (batch,) in [0, 1)
        :return: (batch,) int64 positions
        """
        sought = fractions.to(self.sums) * self.total()
        group, rest = _reach(self.sums.expand(len(sought), -1), sought)
        leaf, _ = _reach(self.leaves[group], rest)
        return group * FAN_OUT + leaf

    def fill(self, leaves: th.Tensor) -> None:
        """
        :param leaves: Numbers of all positions, of the shape of ``leaves``
        """
        self.leaves.copy_(leaves)
        self.sums.copy_(self.leaves.sum(dim=1))


def _reach(numbers: th.Tensor, sought: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Where the cumulative sum of each row exceeds what is sought, and how much of it lies within that entry.

    :param numbers: (batch, n) at least 0
    :param sought: (batch,)
    :return: (batch,) columns and (batch,) rests
    """
    ends = numbers.cumsum(dim=1)
    # Rounding may put what is sought at the very end, behind which there are zeros only.
    sought = th.minimum(sought, th.nextafter(ends[:, -1], th.zeros_like(sought))).unsqueeze(1)
    column = th.searchsorted(ends, sought, right=True)
    rest = sought - (ends.gather(1, column) - numbers.gather(1, column))
    return column.squeeze(1), rest.clamp(min=0).squeeze(1)
