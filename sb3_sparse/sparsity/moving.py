"""Moving active weights to other positions: the step that dynamic sparse training repeats."""

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_sparse.sparsity.layers import SparseLayer
from sb3_sparse.sparsity.optimizers import optimizers_follow
from sb3_sparse.sparsity.topology import Topology


def drop_and_grow(
    topology: Topology, magnitudes: th.Tensor, grow_scores: th.Tensor, count: int
) -> tuple[th.Tensor, th.Tensor]:
    """
    Drop the active weights of smallest magnitude and grow as many where the scores are highest; the number of active weights
    stays. A weight that was just dropped can grow again, and has not moved then (RigL, Evci et al., 2020, algorithm 1: growth
    excludes what was kept). With an N:M pattern every group grows as many as it dropped.

    Nothing is changed: :func:`move_layers` does that.

    :param topology: Present positions
    :param magnitudes: (active,) what the weakest are dropped by, e.g. absolute values
    :param grow_scores: (numel,) or of the weight's shape; e.g. random numbers (SET) or absolute gradients (RigL)
    :param count: Number of weights to drop
    :return: (active,) new positions, strictly increasing, and (active,) where each of them was among the old ones, -1 for one
        that was not
    :raises ValueError: if the count is negative or more than the active weights.
    """
    if not 0 <= count <= topology.active:
        raise ValueError(f"Between 0 and {topology.active} weights can be dropped, got {count}.")
    old = topology.long_indices()
    kept = old[magnitudes.topk(topology.active - count).indices]
    scores = grow_scores.detach().reshape(-1).to(th.float32, copy=True)
    if topology.pattern is None:
        scores[kept] = -th.inf
        positions = th.cat([kept, scores.topk(count).indices]).sort().values
    else:
        scores[kept] = th.inf
        positions = topology.pattern.best(scores, topology.shape)
    return positions, _sources(topology, positions)


def grow_at(topology: Topology, dropped: th.Tensor, grow_scores: th.Tensor, count: int) -> th.Tensor:
    """
    Add weights where the scores are highest, of those that are not active yet.

    :param topology: Present positions
    :param dropped: Flat positions of active weights that go, and do not grow again
    :param grow_scores: (numel,) or of the weight's shape
    :param count: Number of weights to add
    :return: (active - dropped + count,) new positions, strictly increasing
    """
    old = topology.long_indices()
    scores = grow_scores.detach().reshape(-1).to(th.float32, copy=True)
    scores[old] = -th.inf
    kept = old[~th.isin(old, dropped)]
    return th.cat([kept, scores.topk(count).indices]).sort().values


def remap(values: th.Tensor, sources: th.Tensor) -> th.Tensor:
    """
    Carry what belongs to active weights over to their new positions; what grew starts at 0.

    :param values: (active,) values, or an optimizer's moments of them
    :param sources: (new active,) where each was among the old ones, -1 for one that was not
    :return: (new active,)
    """
    return th.where(sources >= 0, values[sources.clamp(min=0)], th.zeros_like(values[:1]))


@th.no_grad()
def move_layers(layers: Sequence[SparseLayer], indices: th.Tensor, optimizers: Sequence[th.optim.Optimizer]) -> None:
    """
    Move the active weights of layers that move together. Kept weights keep their values and moments, those that grow start
    with 0. If their number changes, layers get new parameters, which optimizers hold from then on with their share of the
    state; otherwise all is written in place. A layer all of whose weights become active turns into the plain one.

    :param layers: A layer and those that follow it (in target networks, or with a tied weight); all with the same positions
    :param indices: Flat row-major positions, strictly increasing
    :param optimizers: Optimizers
    """
    if len(indices) == layers[0].topology.active:
        _move(layers, indices, optimizers)
    else:
        _resize(layers, indices, optimizers)


def _move(layers: Sequence[SparseLayer], indices: th.Tensor, optimizers: Sequence[th.optim.Optimizer]) -> None:
    sources = _sources(layers[0].topology, indices)
    values = [[remap(layer.get_parameter(name), sources) for name in layer.value_names.values()] for layer in layers]
    parameters = {layer.get_parameter(name) for layer in layers for name in layer.value_names.values()}
    for layer, moved in zip(layers, values, strict=True):
        layer.set_topology(indices, *moved)
    for optimizer in optimizers:
        for parameter in parameters & set(optimizer.state):
            parameter.grad = None  # it belongs to the old positions
            for value in optimizer.state[parameter].values():
                if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                    value.copy_(remap(value, sources))


def _resize(layers: Sequence[SparseLayer], indices: th.Tensor, optimizers: Sequence[th.optim.Optimizer]) -> None:
    tied: dict[nn.Parameter, nn.Parameter] = {}
    densified: dict[nn.Parameter, nn.Parameter] = {}
    topologies: dict[Topology, Topology] = {}
    with optimizers_follow(nn.ModuleList(layers), optimizers):
        for layer in layers:
            sparse_type, old = type(layer), layer.topology
            layer.densify(densified)
            if len(indices) < old.numel:
                if old not in topologies:
                    topologies[old] = Topology(indices, old.shape)
                sparse_type.convert(layer, topologies[old], tied)


def _sources(topology: Topology, positions: th.Tensor) -> th.Tensor:
    """(positions,) where each was among the old ones, -1 for one that was not."""
    old = topology.long_indices()
    place = th.full((topology.numel,), -1, dtype=th.int64, device=old.device)
    place[old] = th.arange(topology.active, device=old.device)
    return place[positions]
