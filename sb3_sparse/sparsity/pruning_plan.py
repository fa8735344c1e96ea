"""The plan by which a module is pruned: which layers, and how many weights of each stay."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import Distribution, UnreachableSparsityError, check_sparsity, get_distribution
from sb3_sparse.sparsity.constant_units import make_safe
from sb3_sparse.sparsity.conversion import to_dense
from sb3_sparse.sparsity.layers import SparseLayer, sparse_type_of
from sb3_sparse.sparsity.patterns import Pattern
from sb3_sparse.sparsity.prunable import (
    Groups,
    Skip,
    grouped,
    prunable_layers,
    refuse_foreign_tie,
    refuse_pruned,
    refuse_unready,
    skipped_modules,
)
from sb3_sparse.sparsity.topology import Topology

BUDGETS = ("all", "weights")


@dataclass(frozen=True)
class PlannedWeight:
    """
    A weight, or several under one mask, of which a part stays.

    :param names: Its name among the parameters of the dense module; several under one mask
    :param users: Names of the layers that use it; several, if it is tied
    :param layers: These layers, as they are before
    :param shape: Its shape
    :param count: How many of its entries stay
    :param pattern: What the positions have to keep to, if anything
    """

    names: tuple[str, ...]
    users: tuple[str, ...]
    layers: tuple[nn.Module, ...]
    shape: th.Size
    count: int
    pattern: Pattern | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it stays, so that its layer stays dense."""
        return self.count == self.shape.numel()

    @property
    def active(self) -> int:
        """How many of its entries are active before."""
        layer = self.layers[0]
        return layer.topology.active if isinstance(layer, SparseLayer) else self.shape.numel()


# Which entries of the weights of a module stay: a topology each, None where all of them do.
Choose = Callable[[Sequence[PlannedWeight]], Sequence[Topology | None]]


class PruningPlan:
    """
    Finds what of a module is pruned and computes how many weights stay. Whatever can go wrong goes wrong here, so that several
    plans can be made before the first one is applied.

    :param module: Any module
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, and so is what follows; None leaves to what chooses the
        positions how many stay
    :param distribution: Layer-wise allocation
    :param budget: What ``sparsity`` is a fraction of
    :param skip: What stays dense
    :param is_pruned: Whether the module may be pruned already, and is brought to this sparsity from there
    :raises ValueError: as :func:`~sb3_sparse.sparsity.prune`
    """

    def __init__(
        self,
        module: nn.Module,
        sparsity: float | None,
        *,
        distribution: str | Distribution = "erdos_renyi",
        budget: str = "all",
        skip: Skip = (),
        is_pruned: bool = False,
    ):
        sparsity = None if sparsity is None else check_sparsity(sparsity)
        check_budget(budget)
        distribution = get_distribution(distribution)
        if not is_pruned:
            refuse_pruned(module)
        self.module = module
        # What a pruned module was before: its layers have the same names, and its weights their whole shapes.
        dense = to_dense(module) if is_pruned else module
        skipped = skipped_modules(module, skip)
        kept = {name for name, layer in module.named_modules(remove_duplicate=False) if layer in skipped}
        layers = prunable_layers(dense, kept)
        groups = grouped(dense, layers)
        if sparsity != 0.0:
            self._refuse(dense, layers, groups)
        if sparsity and not is_pruned:
            _say_what_stays_dense(module, skipped)
        prunable = {name for names in groups for name in names}
        shapes = _budgeted_shapes(dense, prunable, budget)
        pattern = distribution if isinstance(distribution, Pattern) else None
        if pattern is not None:
            prunable -= {name for names, users in groups.items() if not _has_rows(dense, users) for name in names}
        layer_sparsity = (
            dict.fromkeys(shapes, 0.0)
            if sparsity is None
            else distribution(shapes, sparsity, dense=[name for name in shapes if name not in prunable])
        )
        self.weights = [
            PlannedWeight(
                names,
                tuple(users),
                tuple(module.get_submodule(user) for user in users),
                th.Size(shapes[names[0]]),
                _active_count(names[0], shapes[names[0]], layer_sparsity[names[0]], sparsity or 0.0),
                pattern,
            )
            for names, users in groups.items()
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Parameter name of each prunable weight -> number of weights that stay active."""
        return {name: weight.count for weight in self.weights for name in weight.names}

    @th.no_grad()
    def apply(self, choose: Choose) -> None:
        """
        Prune the module in place.

        :param choose: Chooses the positions
        """
        topologies = [_unless_whole(topology) for topology in choose(self.weights)]
        for weight, topology in zip(self.weights, topologies, strict=True):
            _convert(weight.layers, topology)
        if any(topology is not None for topology in topologies):
            make_safe(self.module)

    def _refuse(self, dense: nn.Module, layers: dict[str, nn.Module], groups: Groups) -> None:
        refuse_unready(dense, layers)
        for users in groups.values():
            refuse_foreign_tie(dense, [dense.get_submodule(name) for name in users])
        if not groups:
            raise ValueError(f"{type(self.module).__name__} has no layer to prune (linear or convolutional, not skipped).")


def check_budget(budget: str) -> None:
    """
    Validate a budget.

    :param budget: "all" or "weights"
    :raises ValueError: if it is neither.
    """
    if budget not in BUDGETS:
        raise ValueError(f"Unknown budget {budget!r}: choose one of {', '.join(map(repr, BUDGETS))}.")


def budgeted_sparsity(module: nn.Module, budget: str, skip: Skip = ()) -> float:
    """
    How sparse a module is now.

    :param module: Any module
    :param budget: What the sparsity is a fraction of
    :param skip: What stays dense
    """
    plan = PruningPlan(module, 0.0, skip=skip, is_pruned=True)
    total = sum(len(weight.names) * weight.shape.numel() for weight in plan.weights)
    active = sum(len(weight.names) * weight.active for weight in plan.weights)
    other = sum(p.numel() for p in module.parameters()) - active if budget == "all" else 0
    return 1.0 - (active + other) / (total + other) if total else 0.0


def _has_rows(dense: nn.Module, users: Sequence[str]) -> bool:
    sparse_type = sparse_type_of(dense.get_submodule(users[0]))
    assert sparse_type is not None
    return sparse_type.has_rows


def _say_what_stays_dense(module: nn.Module, skipped: set[nn.Module]) -> None:
    """Recurrent and attention layers, which people expect to be pruned."""
    kinds = (nn.RNNBase, nn.MultiheadAttention)
    left = [
        f"{name or 'the module'} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if isinstance(layer, kinds) and layer not in skipped
    ]
    if left:
        warnings.warn(f"These layers stay dense, as they cannot be pruned: {', '.join(left)}.", stacklevel=4)


def _budgeted_shapes(module: nn.Module, prunable: set[str], budget: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if name in prunable or (budget == "all" and not nn.parameter.is_lazy(parameter))
    }


def _active_count(name: str, shape: tuple[int, ...], layer_sparsity: float, sparsity: float) -> int:
    size = th.Size(shape).numel()
    if not 0.0 <= layer_sparsity <= 1.0:
        raise ValueError(f"The distribution gave {name!r} the sparsity {layer_sparsity}: it must lie in [0, 1].")
    active = round((1.0 - layer_sparsity) * size)
    if active < 1 <= size:
        raise UnreachableSparsityError(
            f"At sparsity {sparsity:g}, {name!r} of shape {shape} would keep no weight at all (layer sparsity "
            f"{layer_sparsity:.6f}): choose a lower sparsity, a larger network, or skip that layer."
        )
    return active


def _unless_whole(topology: Topology | None) -> Topology | None:
    return None if topology is None or topology.active == topology.numel else topology


def _convert(layers: Sequence[nn.Module], topology: Topology | None) -> None:
    """Give layers that share a weight the positions, or make them plain where all weights stay."""
    tied: dict[nn.Parameter, nn.Parameter] = {}
    densified: dict[nn.Parameter, nn.Parameter] = {}
    for layer in layers:
        if isinstance(layer, SparseLayer):
            layer.densify(densified)
        if topology is not None:
            sparse_type = sparse_type_of(layer)
            assert sparse_type is not None
            sparse_type.convert(layer, topology, tied)
