"""One-shot revival of pruned weights where a layer lacks connections."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_sparse.sparsity.conversion import sparse_layers
from sb3_sparse.sparsity.layers import SparseLayer
from sb3_sparse.sparsity.methods.method import Part, TopologyMethod, require_sparse
from sb3_sparse.sparsity.moving import grow_at, move_layers
from sb3_sparse.sparsity.shares import integer_shares
from sb3_sparse.sparsity.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Revival(TopologyMethod):
    """
    Revives pruned weights once, at the first change; the mask stays afterwards (Topology-Aware Revival, arXiv 2602.04166).
    Positions are drawn at random; how many of each layer says :func:`revival_numbers`. For a sparsity S in the end, start from
    ``1 - (1 - S) / (1 + reserve)``. Further arguments: :class:`TopologyMethod`.

    Deviation: revived weights start at 0, like all that grows here, and not at what they were initialised with.

    :param reserve: Revived weights, as a fraction of the active ones
    """

    reserve: float = 0.05
    name = "revival"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reserve(self.reserve)

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        require_sparse(self, part)
        part.require_resizing()

    def initial(self, part: Part, progress: float) -> int:
        """Number of active weights."""
        return _active(part.topologies())

    def change(self, part: Part, progress: float, initial: int) -> Mapping[str, float] | None:
        """See :meth:`TopologyMethod.change`."""
        if _active(part.topologies()) != initial:
            return None
        revived = _revive(part.topologies(), self.reserve, part.generator(), part.optimizers())
        part.note_numbers()
        return {"revived": revived}


def revive(
    module: nn.Module,
    reserve: float = 0.05,
    *,
    generator: th.Generator | None = None,
    optimizers: Sequence[th.optim.Optimizer] = (),
) -> nn.Module:
    """
    Revive pruned weights of a module in place, as :class:`Revival` does.

    :param module: Pruned module; layers with an N:M pattern are refused
    :param reserve: Revived weights, as a fraction of the active ones
    :param generator: CPU random generator, torch's default one if None
    :param optimizers: Optimizers that hold its parameters already
    :return: The same module
    :raises ValueError: if no layer is sparse or one has a pattern, or the reserve is not positive.
    """
    check_reserve(reserve)
    topologies: dict[Topology, list[SparseLayer]] = {}
    for _, layer in sparse_layers(module):
        topologies.setdefault(layer.topology, []).append(layer)
    if not topologies or any(topology.pattern is not None for topology in topologies):
        raise ValueError(f"{type(module).__name__} has no sparse layer, or one whose N:M pattern fixes its number of weights.")
    _revive(topologies, reserve, generator, list(optimizers))
    return module


def check_reserve(reserve: float) -> None:
    """
    Validate a reserve.

    :param reserve: Fraction of the active weights
    :raises ValueError: if it is not positive.
    """
    if not reserve > 0.0:
        raise ValueError(f"reserve must be positive, a fraction of the active weights such as 0.05; got {reserve!r}.")


def revival_numbers(shapes: Sequence[Sequence[int]], active: Sequence[int], revived: int) -> list[int]:
    """
    How many weights each layer gets. A layer of N inputs and outputs together is connected above ``N ln(N) / 2`` edges (Erdos
    and Renyi, 1960); what a layer lacks of that counts. If there is more to give than all lack, the rest is spread in
    proportion to these thresholds. The publication's exact rule is not known.

    :param shapes: Shape of every layer's weight
    :param active: Its active weights
    :param revived: Number to give in all
    :return: Number for each layer
    """
    sizes = [math.prod(shape) for shape in shapes]
    units = [shape[0] + size // shape[0] for shape, size in zip(shapes, sizes, strict=True)]
    thresholds = [n * math.log(n) / 2 for n in units]
    free = [size - n for size, n in zip(sizes, active, strict=True)]
    gaps = [max(0, min(size, math.ceil(t)) - n) for size, t, n in zip(sizes, thresholds, active, strict=True)]
    numbers = integer_shares(min(revived, sum(gaps)), gaps, gaps) if any(gaps) else [0] * len(gaps)
    more = min(revived, sum(free)) - sum(numbers)
    rest = integer_shares(more, thresholds, [f - n for f, n in zip(free, numbers, strict=True)])
    return [n + extra for n, extra in zip(numbers, rest, strict=True)]


def _active(topologies: Mapping[Topology, object]) -> int:
    return sum(topology.active for topology in topologies)


def _revive(
    topologies: Mapping[Topology, list[SparseLayer]],
    reserve: float,
    generator: th.Generator | None,
    optimizers: list[th.optim.Optimizer],
) -> int:
    found = list(topologies)
    shapes, active = [topology.shape for topology in found], [topology.active for topology in found]
    numbers = revival_numbers(shapes, active, round(reserve * sum(active)))
    for (topology, layers), number in zip(topologies.items(), numbers, strict=True):
        scores = th.rand(topology.numel, generator=generator, device="cpu").to(topology.indices.device)
        nothing = topology.long_indices()[:0]
        move_layers(layers, grow_at(topology, nothing, scores, number), optimizers)
    return sum(numbers)
