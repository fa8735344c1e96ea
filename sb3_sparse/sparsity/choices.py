"""Which weights stay: at random, by a score, or as a mask says."""

from collections.abc import Mapping, Sequence

import torch as th
from torch import nn

from sb3_sparse.sparsity.layers import SparseLayer, prunable_weights
from sb3_sparse.sparsity.pruning_plan import Choose, PlannedWeight
from sb3_sparse.sparsity.topology import Topology

SCOPES = ("layer", "global")


def random_positions(generator: th.Generator | None) -> Choose:
    """
    Choose weights at random.

    :param generator: CPU random generator, torch's default one if None
    """

    def draw(weight: PlannedWeight) -> Topology | None:
        if weight.is_whole:
            return None
        if weight.pattern is None:
            return Topology.random(weight.shape, weight.count, generator)
        scores = th.rand(weight.shape.numel(), generator=generator, device="cpu")
        return Topology(weight.pattern.best(scores, weight.shape), weight.shape, weight.pattern)

    return lambda weights: [draw(weight) for weight in weights]


def random_numbers(active: Mapping[nn.Module, int], generator: th.Generator | None) -> Choose:
    """
    Choose as many weights as are given, at random; what is not named stays whole.

    :param active: Layer -> number of weights that stay
    :param generator: CPU random generator, torch's default one if None
    """

    def draw(weight: PlannedWeight) -> Topology | None:
        count = next((active[layer] for layer in weight.layers if layer in active), None)
        return None if count is None else Topology.random(weight.shape, count, generator)

    return lambda weights: [draw(weight) for weight in weights]


def largest_magnitudes(scope: str = "layer") -> Choose:
    """
    Choose the weights of largest magnitude. Of a sparse layer, those that are inactive come last.

    :param scope: See :func:`highest_scores`
    """
    return lambda weights: _highest(weights, [_magnitudes(weight.layers[0]) for weight in weights], scope)


def highest_scores(scores: Mapping[str, th.Tensor], scope: str = "layer") -> Choose:
    """
    Choose the weights of highest score; of equal ones, the first.

    :param scores: Name of a weight, or of its layer -> score of every entry; of several weights under one mask, those of the
        first that has any count
    :param scope: "layer": as many of every layer as it is allotted; "global": as many in all, wherever the scores are highest,
        but of every layer at least as many as the smaller of its numbers of inputs and outputs (or as it is allotted, if that
        is less)
    :raises ValueError: if a weight has no scores, they have another shape, or one is not a number; or a name is unknown.
    """
    return lambda weights: _highest(weights, _checked(scores, weights), scope)


def given_masks(masks: Mapping[str, th.Tensor]) -> Choose:
    """
    Choose what masks say; weights without one stay whole.

    :param masks: Name of a weight, or of its layer -> mask of the weight's shape, True (or 1) where an entry stays
    :raises ValueError: if a mask has another shape or other entries or keeps nothing, weights under one mask have different
        ones, or a name is unknown.
    """
    return lambda weights: _given(masks, weights)


def _highest(weights: Sequence[PlannedWeight], scores: Sequence[th.Tensor], scope: str) -> list[Topology | None]:
    counts = [weight.count for weight in weights] if scope == "layer" else _global_counts(weights, scores)
    return [_best(weight, count, flat) for weight, count, flat in zip(weights, counts, scores, strict=True)]


def _best(weight: PlannedWeight, count: int, scores: th.Tensor) -> Topology | None:
    if count == weight.shape.numel():
        return None
    if weight.pattern is not None:
        return Topology(weight.pattern.best(scores, weight.shape), weight.shape, weight.pattern)
    return Topology(_first_highest(scores, count), weight.shape)


def _global_counts(weights: Sequence[PlannedWeight], scores: Sequence[th.Tensor]) -> list[int]:
    """How many weights of each layer are among the best of all; the floors are taken from the weakest of other layers."""
    floors = [min(weight.shape[0], weight.shape.numel() // weight.shape[0], weight.count) for weight in weights]
    ranked = [flat.sort(descending=True, stable=True).values for flat in scores]
    free = th.cat([flat[floor:] for flat, floor in zip(ranked, floors, strict=True)])
    owners = th.cat([th.full((len(flat) - floor,), i) for i, (flat, floor) in enumerate(zip(ranked, floors, strict=True))])
    left = sum(weight.count for weight in weights) - sum(floors)
    chosen = owners[_first_highest(free, left).cpu()].bincount(minlength=len(floors))
    return [floor + int(more) for floor, more in zip(floors, chosen, strict=True)]


def _first_highest(scores: th.Tensor, count: int) -> th.Tensor:
    """(count,) positions of the highest scores, in order; of equal ones the first. It takes no sorting."""
    if count == 0:
        return scores.new_zeros(0, dtype=th.int64)
    least = scores.kthvalue(len(scores) - count + 1).values
    kept = scores > least
    kept[(scores == least).nonzero().squeeze(1)[: count - int(kept.sum())]] = True
    return kept.nonzero().squeeze(1)


def _magnitudes(layer: nn.Module) -> th.Tensor:
    """(numel,) absolute values of the first weight, -1 where it is inactive."""
    if not isinstance(layer, SparseLayer):
        (weight, *_) = prunable_weights(layer)
        assert weight is not None
        return weight.detach().abs().reshape(-1)
    magnitudes = layer.values.new_full((layer.topology.numel,), -1.0)
    magnitudes[layer.topology.long_indices()] = layer.values.abs()
    return magnitudes


def _checked(scores: Mapping[str, th.Tensor], weights: Sequence[PlannedWeight]) -> list[th.Tensor]:
    _refuse_unknown(scores, weights, "scores")
    found = []
    for weight in weights:
        given = _entries(scores, weight)
        if not given:
            raise ValueError(f"There are no scores for {weight.names[0]!r}: give some, or skip its layer.")
        name, score = next(iter(given.items()))
        if score.shape != weight.shape:
            raise ValueError(f"The scores of {name!r} have shape {tuple(score.shape)}, its weight has {tuple(weight.shape)}.")
        if score.isnan().any():
            raise ValueError(f"{int(score.isnan().sum())} of the scores of {name!r} are NaN: is the loss a finite number?")
        found.append(score.detach().reshape(-1))
    return found


def _given(masks: Mapping[str, th.Tensor], weights: Sequence[PlannedWeight]) -> list[Topology | None]:
    _refuse_unknown(masks, weights, "masks")
    topologies: list[Topology | None] = []
    for weight in weights:
        given = _entries(masks, weight)
        found = [_positions(name, mask, weight.shape) for name, mask in given.items()]
        if any(not th.equal(found[0], positions) for positions in found):
            raise ValueError(f"{', '.join(map(repr, given))} are pruned together: their masks must be equal.")
        topologies.append(Topology(found[0], weight.shape) if found else None)
    return topologies


def _positions(name: str, mask: th.Tensor, shape: th.Size) -> th.Tensor:
    if mask.shape != shape:
        raise ValueError(f"The mask of {name!r} has shape {tuple(mask.shape)}, its weight has {tuple(shape)}.")
    if mask.dtype != th.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"The mask of {name!r} has entries other than 0 and 1, or True and False.")
    if not mask.any():
        raise ValueError(f"The mask of {name!r} keeps no weight at all: a layer needs one at least.")
    return mask.reshape(-1).nonzero().squeeze(1)


def _entries(given: Mapping[str, th.Tensor], weight: PlannedWeight) -> dict[str, th.Tensor]:
    return {name: given[name] for name in (*weight.names, *weight.users) if name in given}


def _refuse_unknown(given: Mapping[str, th.Tensor], weights: Sequence[PlannedWeight], what: str) -> None:
    known = {name for weight in weights for name in (*weight.names, *weight.users)}
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join(repr(name) for weight in weights for name in weight.names)
        raise ValueError(f"There are {what} for {unknown[0]!r}, which is no weight to prune: these are {names}.")
