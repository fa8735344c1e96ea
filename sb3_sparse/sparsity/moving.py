"""Moving active weights to other positions: the step that dynamic sparse training repeats."""

import torch as th

from sb3_sparse.sparsity.topology import Topology


def drop_and_grow(
    topology: Topology, magnitudes: th.Tensor, grow_scores: th.Tensor, count: int
) -> tuple[th.Tensor, th.Tensor]:
    """
    Drop the active weights of smallest magnitude and grow as many where the scores are highest; the number of active weights
    stays. A weight that was just dropped can grow again, and has not moved then (RigL, Evci et al., 2020, algorithm 1: growth
    excludes what was kept).

    Nothing is changed: remap whatever belongs to the old positions with :func:`remap`, then call ``set_topology`` on every
    layer that shares the topology.

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
    scores[kept] = -th.inf
    positions = th.cat([kept, scores.topk(count).indices]).sort().values
    place = th.full((topology.numel,), -1, dtype=th.int64, device=old.device)
    place[old] = th.arange(topology.active, device=old.device)
    return positions, place[positions]


def remap(values: th.Tensor, sources: th.Tensor) -> th.Tensor:
    """
    Carry what belongs to active weights over to their new positions; what grew starts at 0.

    :param values: (active,) values, or an optimizer's moments of them
    :param sources: Second result of :func:`drop_and_grow`
    :return: (active,)
    """
    return th.where(sources >= 0, values[sources.clamp(min=0)], th.zeros_like(values))
