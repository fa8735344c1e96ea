"""N:M patterns: exactly n of every m consecutive inputs of a unit are active."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch as th


@dataclass(frozen=True)
class Pattern:
    """
    Of every ``m`` consecutive weights of a row (the inputs of one unit, an output channel's in the order of the weight),
    ``n`` are active; of ``r`` that are left over at its end, ``ceil(n r / m)``. Known as N:M or semi-structured sparsity; in
    reinforcement learning RNM-TD3 (arXiv 2602.14578), whose handling of remainders is not known.

    Layers with less than ``m`` inputs stay dense. As a distribution it takes the sparsity ``1 - n / m`` only, which is that of
    the patterned layers whatever the budget, and 0, at which nothing is pruned.

    :param n: Active weights of a group
    :param m: Weights of a group
    :raises ValueError: unless 1 <= n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f'An N:M pattern such as "2:4" keeps n of m weights with 1 <= n < m, got "{self}".')

    @classmethod
    def parse(cls, text: str) -> "Pattern | None":
        """
        Read a pattern.

        :param text: Such as "2:4"
        :return: None if the text is not meant as one
        :raises ValueError: if there is no such pattern.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        return None if match is None else cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """Fraction of the weights of whole groups that is removed."""
        return 1.0 - self.n / self.m

    def __call__(self, shapes: Mapping[str, Sequence[int]], sparsity: float, dense: Collection[str] = ()) -> dict[str, float]:
        """
        Layer-wise sparsities, as :func:`~sb3_sparse.sparsity.erdos_renyi` gives them.

        :param shapes: Parameter name -> shape
        :param sparsity: ``1 - n / m``, or 0
        :param dense: Names that stay dense
        :return: Parameter name -> sparsity in [0, 1)
        :raises ValueError: if the pattern does not have this sparsity, or fits no layer.
        """
        if sparsity == 0.0:
            return dict.fromkeys(shapes, 0.0)
        if not math.isclose(sparsity, self.sparsity, rel_tol=1e-6):
            raise ValueError(f'The pattern "{self}" has the sparsity {self.sparsity:g}: give that, not {sparsity:g}.')
        kept = {name for name, shape in shapes.items() if name in dense or not self.fits(shape)}
        if len(kept) == len(shapes):
            raise ValueError(f'The pattern "{self}" fits no layer: none has {self.m} inputs or more.')
        return {name: 0.0 if name in kept else 1.0 - self.count(shape) / math.prod(shape) for name, shape in shapes.items()}

    def fits(self, shape: Sequence[int]) -> bool:
        """
        Whether a layer is patterned.

        :param shape: Shape of its weight
        """
        return len(shape) >= 2 and math.prod(shape[1:]) >= self.m

    def count(self, shape: Sequence[int]) -> int:
        """
        Number of active weights.

        :param shape: Shape of a weight that it fits
        """
        groups, rest = divmod(math.prod(shape[1:]), self.m)
        return shape[0] * (groups * self.n + math.ceil(self.n * rest / self.m))

    def best(self, scores: th.Tensor, shape: Sequence[int]) -> th.Tensor:
        """
        Choose the positions of the highest scores within each group; of equal ones, the first.

        :param scores: (numel,) score of every weight, of any device
        :param shape: Shape of the weight, with at least ``m`` inputs
        :return: (active,) flat positions, strictly increasing
        """
        rows = scores.reshape(shape[0], -1)
        rest = rows.shape[1] % self.m
        kept = self._best_of(rows[:, : rows.shape[1] - rest], self.m, self.n)
        if rest:
            kept = th.cat([kept, self._best_of(rows[:, -rest:], rest, math.ceil(self.n * rest / self.m))], dim=1)
        return kept.reshape(-1).nonzero().squeeze(1)

    def _best_of(self, rows: th.Tensor, size: int, count: int) -> th.Tensor:
        """(rows, columns) True for the ``count`` best of every ``size`` columns."""
        groups = rows.reshape(len(rows), -1, size)
        order = groups.argsort(dim=2, descending=True, stable=True)
        kept = th.zeros_like(groups, dtype=th.bool).scatter_(2, order[:, :, :count], True)
        return kept.reshape(len(rows), -1)
