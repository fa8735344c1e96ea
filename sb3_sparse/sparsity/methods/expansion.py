"""Expansion from sparse towards dense."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch as th

from sb3_sparse.sparsity.allocation import check_sparsity
from sb3_sparse.sparsity.layers import SparseLayer
from sb3_sparse.sparsity.methods.method import Part, TopologyMethod, require_sparse
from sb3_sparse.sparsity.moving import grow_at, move_layers
from sb3_sparse.sparsity.shares import integer_shares

# Layer by layer: active weights at the schedule's start and at its end.
Goals = Sequence[tuple[float, int]]


@dataclass(frozen=True)
class Expansion(TopologyMethod):
    """
    Grows weights where the gradient of the loss is largest and prunes those of dormant units (Neuroplastic Expansion, Liu et
    al., 2025), from the sparsity that the model has to ``final_sparsity``, which is reached at ``end``.

    Every layer comes to the same density, but for those that are denser already. The rate of growth falls as
    ``1 + cos(pi t)``. What grows starts at 0. Of the weights that a change grows, at most the fraction ``omega`` makes up for
    weights into dormant units, drawn at random if there are more. Further arguments: :class:`TopologyMethod`.

    Deviations: a unit is dormant where no gradient reaches any of its weights, inactive ones included. With ReLU these are
    the units that are off for the whole batch (the publication's threshold 0), and those that nothing listens to; its
    published code looks up activations that it does not find, and prunes by magnitude. Experience review, which is about
    replay and not about masks, is left out.

    :param final_sparsity: Fraction of the weights of the layers that are sparse at first which is inactive at the end, in
        (0, 1)
    :param omega: Most of the grown weights that may make up for pruned ones, in [0, 1)
    :param batch_size: Transitions for the gradient
    """

    final_sparsity: float
    omega: float = 0.4
    batch_size: int = 256
    name = "expansion"
    uses_gradients = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not check_sparsity(self.final_sparsity, "final_sparsity") > 0.0:
            raise ValueError("final_sparsity must be more than 0 for expansion: a layer without inactive weights is dense.")
        if not 0.0 <= self.omega < 1.0:
            raise ValueError(f"omega must lie in [0, 1), got {self.omega!r}.")

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        require_sparse(self, part)
        part.require_resizing()
        part.require_loss()
        self.initial(part, 0.0)

    def initial(self, part: Part, progress: float) -> Goals:
        """Active weights that the schedule starts from; a model that goes on within it has come some of the way already."""
        active, last = [topology.active for topology in part.topologies()], self._last(part)
        come = _course(progress)
        if come in (0.0, 1.0):
            return list(zip(active, last, strict=True))
        return [((n - goal * come) / (1 - come), goal) for n, goal in zip(active, last, strict=True)]

    def change(self, part: Part, progress: float, initial: Goals) -> Mapping[str, float]:
        """See :meth:`TopologyMethod.change`."""
        gradients, generator = part.gradients(self.batch_size), part.generator()
        grown = pruned = 0
        for (topology, layers), (first, last) in zip(part.topologies().items(), initial, strict=True):
            if topology not in gradients:
                continue
            goal = round(first + (last - first) * _course(progress))
            net = max(0, goal - topology.active)
            dropped = dormant_weights(layers[0], gradients[topology], int(net * self.omega / (1 - self.omega)), generator)
            grown, pruned = grown + net + len(dropped), pruned + len(dropped)
            indices = grow_at(topology, dropped, gradients[topology].abs(), net + len(dropped))
            move_layers(layers, indices, part.optimizers())
        part.note_numbers()
        return {"grown": grown, "pruned": pruned}

    def is_complete(self, part: Part, initial: Goals) -> bool:
        """See :meth:`TopologyMethod.is_complete`."""
        return all(topology.active >= last for topology, (_, last) in zip(part.topologies(), initial, strict=True))

    def _last(self, part: Part) -> list[int]:
        """Active weights of every layer at the end."""
        active, sizes = [[t.active for t in part.topologies()], [t.numel for t in part.topologies()]]
        total = round((1.0 - self.final_sparsity) * sum(sizes))
        if total < sum(active):
            raise ValueError(
                f"final_sparsity={self.final_sparsity:g} is more than the sparse layers of {part.name} have now, "
                f'{1.0 - sum(active) / sum(sizes):.4f}: expansion adds weights; use "pruning" to remove some.'
            )
        return _levelled(active, sizes, min(total, sum(sizes) - len(sizes)))


def _course(progress: float) -> float:
    """Share of the way that is behind, at a speed that falls as 1 + cos(pi t)."""
    return progress + math.sin(math.pi * progress) / math.pi


def dormant_weights(layer: SparseLayer, gradient: th.Tensor, limit: int, generator: th.Generator) -> th.Tensor:
    """
    Choose active weights into dormant units, at random if there are more than the limit; not all of a layer.

    :param layer: Layer
    :param gradient: Gradient of all weights, of the weight's shape
    :param limit: Most weights to choose
    :param generator: CPU random generator
    :return: (up to ``limit``,) flat positions
    """
    is_dormant = (layer.by_unit(gradient) == 0).all(dim=1)
    active = layer.topology.long_indices()
    found = active[is_dormant[layer.units(active)]]
    limit = min(limit, len(active) - 1)
    if len(found) <= limit:
        return found
    return found[th.randperm(len(found), generator=generator, device="cpu")[:limit].to(found.device)]


def _levelled(active: Sequence[int], sizes: Sequence[int], total: int) -> list[int]:
    """Numbers that sum up to the total, of one density but for layers that are denser already; no layer becomes whole."""
    raised = set(range(len(sizes)))
    while True:
        left = total - sum(n for i, n in enumerate(active) if i not in raised)
        shares = integer_shares(left, [sizes[i] for i in sorted(raised)], [sizes[i] - 1 for i in sorted(raised)])
        goals = dict(zip(sorted(raised), shares, strict=True))
        above = {i for i, goal in goals.items() if active[i] > goal}
        if not above:
            return [goals.get(i, n) for i, n in enumerate(active)]
        raised -= above
