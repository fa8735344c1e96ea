"""The plan by which a module is pruned: which layers, and how many weights of each stay."""

from collections.abc import Callable, Iterable

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import Distribution, UnreachableSparsityError, check_sparsity, get_distribution
from sb3_sparse.sparsity.constant_units import make_safe
from sb3_sparse.sparsity.conversion import sparse_layers, submodule, to_dense
from sb3_sparse.sparsity.layers import SparseLayer, prunable_weights, sparse_type_of
from sb3_sparse.sparsity.topology import Topology

SkipEntry = str | nn.Module | type[nn.Module]
Skip = SkipEntry | Iterable[SkipEntry] | Callable[[str, nn.Module], bool]
# Which weights of a layer stay: (layer, shape of its weight, how many) -> positions.
Choose = Callable[[nn.Module, th.Size, int], Topology]
# Parameter names of a prunable weight (of all weights under one mask) -> names of the layers that use it; several, if tied.
Groups = dict[tuple[str, ...], list[str]]

BUDGETS = ("all", "weights")


class PruningPlan:
    """
    Finds what of a module is pruned and computes how many weights stay. Whatever can go wrong goes wrong here, so that several
    plans can be made before the first one is applied.

    :param module: Any module
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, and so is what follows
    :param distribution: Layer-wise allocation
    :param budget: What ``sparsity`` is a fraction of
    :param skip: What stays dense
    :param is_pruned: Whether the module may be pruned already, and is brought to this sparsity from there
    :raises ValueError: as :func:`~sb3_sparse.sparsity.prune`
    """

    def __init__(
        self,
        module: nn.Module,
        sparsity: float,
        *,
        distribution: str | Distribution = "erdos_renyi",
        budget: str = "all",
        skip: Skip = (),
        is_pruned: bool = False,
    ):
        sparsity = check_sparsity(sparsity)
        check_budget(budget)
        distribution = get_distribution(distribution)
        if not is_pruned:
            _refuse_pruned(module)
        self.module = module
        # What a pruned module was before: its layers have the same names, and its weights their whole shapes.
        dense = to_dense(module) if is_pruned else module
        skipped = skipped_modules(module, skip)
        kept = {name for name, layer in module.named_modules(remove_duplicate=False) if layer in skipped}
        layers = _prunable_layers(dense, kept)
        self._groups = _group(dense, layers)
        if sparsity > 0.0:
            self._refuse(dense, layers)
        prunable = {name for names in self._groups for name in names}
        shapes = _budgeted_shapes(dense, prunable, budget)
        layer_sparsity = distribution(shapes, sparsity, dense=[name for name in shapes if name not in prunable])
        self._shapes = {names: th.Size(shapes[names[0]]) for names in self._groups}
        self._active = {
            names: _active_count(names[0], shapes[names[0]], layer_sparsity[names[0]], sparsity) for names in self._groups
        }

    @property
    def counts(self) -> dict[str, int]:
        """Parameter name of each prunable weight -> number of weights that stay active."""
        return {name: count for names, count in self._active.items() for name in names}

    @th.no_grad()
    def apply(self, choose: Choose) -> None:
        """
        Prune the module in place.

        :param choose: Chooses the positions of every layer, asked once for layers that share a weight
        """
        changes: list[tuple[list[nn.Module], Topology | None]] = []
        for names, users in self._groups.items():
            layers, count = [self.module.get_submodule(name) for name in users], self._active[names]
            is_whole = count == self._shapes[names].numel()
            changes.append((layers, None if is_whole else choose(layers[0], self._shapes[names], count)))
        for layers, topology in changes:
            _convert(layers, topology)
        if any(topology is not None for _, topology in changes):
            make_safe(self.module)

    def _refuse(self, dense: nn.Module, layers: dict[str, nn.Module]) -> None:
        _refuse_unready(dense, layers)
        for users in self._groups.values():
            _refuse_foreign_tie(dense, [dense.get_submodule(name) for name in users])
        if not self._groups:
            raise ValueError(f"{type(self.module).__name__} has no layer to prune (linear or 2-d convolution, not skipped).")


def random_positions(generator: th.Generator | None) -> Choose:
    """
    Choose weights at random.

    :param generator: CPU random generator, torch's default one if None
    """
    return lambda layer, shape, count: Topology.random(shape, count, generator)


def largest_magnitudes(layer: nn.Module, shape: th.Size, count: int) -> Topology:
    """
    Choose the weights of largest magnitude. Of a sparse layer, those that are inactive come last.

    :param layer: Plain or sparse layer
    :param shape: Shape of its weight
    :param count: How many stay
    """
    return Topology(_magnitudes(layer).topk(count).indices.sort().values, shape)


def _magnitudes(layer: nn.Module) -> th.Tensor:
    """(numel,) absolute values of the first weight, -1 where it is inactive."""
    if not isinstance(layer, SparseLayer):
        (weight, *_) = prunable_weights(layer)
        assert weight is not None
        return weight.abs().reshape(-1)
    magnitudes = layer.values.new_full((layer.topology.numel,), -1.0)
    magnitudes[layer.topology.long_indices()] = layer.values.abs()
    return magnitudes


def check_budget(budget: str) -> None:
    """
    Validate a budget.

    :param budget: "all" or "weights"
    :raises ValueError: if it is neither.
    """
    if budget not in BUDGETS:
        raise ValueError(f"Unknown budget {budget!r}: choose one of {', '.join(map(repr, BUDGETS))}.")


def _refuse_pruned(module: nn.Module) -> None:
    for name, _ in sparse_layers(module):
        raise ValueError(
            f"{type(module).__name__} is pruned already (layer {name or 'itself'!r}); pruning happens once. "
            "Prune a fresh module, or to_dense(module)."
        )


def _prunable_layers(module: nn.Module, kept: set[str]) -> dict[str, nn.Module]:
    skipped = {layer for name, layer in module.named_modules(remove_duplicate=False) if name in kept}
    return {
        name: layer for name, layer in module.named_modules() if sparse_type_of(layer) is not None and layer not in skipped
    }


def _group(module: nn.Module, layers: dict[str, nn.Module]) -> Groups:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups: Groups = {}
    for user, layer in layers.items():
        weights = prunable_weights(layer)
        if all(weight is not None for weight in weights):
            groups.setdefault(tuple(names[id(weight)] for weight in weights), []).append(user)
    return groups


def _refuse_unready(module: nn.Module, layers: dict[str, nn.Module]) -> None:
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"Parameter {name!r} is not initialised yet: run one forward pass first.")
    for name, layer in layers.items():
        if any(weight is None for weight in prunable_weights(layer)):
            raise ValueError(
                f"The weight of layer {name!r} is computed by something else: skip that layer, or prune before anything else "
                "wraps its weight."
            )


def _refuse_foreign_tie(module: nn.Module, layers: list[nn.Module]) -> None:
    """Refuse weights that are also used by something which is not pruned along, or is pruned in another way."""
    weights = {id(weight) for weight in prunable_weights(layers[0])}
    users = [
        (name, owner)
        for name, owner in module.named_modules()
        if any(id(parameter) in weights for parameter in owner._parameters.values())
    ]
    pruned = [f"{name!r} ({type(owner).__name__})" for name, owner in users if owner in layers]
    for name, owner in users:
        if owner not in layers or any(
            id(parameter) in weights and key not in sparse_type_of(owner).value_names  # type: ignore[union-attr]
            for key, parameter in owner._parameters.items()
        ):
            raise ValueError(
                f"The weight of {', '.join(pruned)} is tied to {name!r} ({type(owner).__name__}), which is not pruned along: "
                "skip the former or untie them."
            )
    if len({type(layer) for layer in layers}) > 1:
        raise ValueError(f"The weight of {', '.join(pruned)} is tied between layers of different types: skip or untie them.")


def skipped_modules(module: nn.Module, skip: Skip) -> set[nn.Module]:
    """
    Find what stays dense.

    :param module: Any module
    :param skip: See :func:`~sb3_sparse.sparsity.prune`
    :raises ValueError: if a submodule is named that there is not.
    """
    if isinstance(skip, str | nn.Module | type):
        skip = (skip,)
    if callable(skip):
        return {layer for name, layer in module.named_modules(remove_duplicate=False) if skip(name, layer)}
    skipped: set[nn.Module] = set()
    for entry in skip:
        skipped |= _matching(module, entry)
    return skipped


def _matching(module: nn.Module, entry: SkipEntry) -> set[nn.Module]:
    if isinstance(entry, nn.Module):
        return set(entry.modules())
    if isinstance(entry, str):
        found = submodule(module, entry)
        if found is None:
            raise ValueError(f"skip names {entry!r}, but {type(module).__name__} has no such submodule.")
        return set(found.modules())
    return {inner for layer in module.modules() if isinstance(layer, entry) for inner in layer.modules()}


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


def _convert(layers: list[nn.Module], topology: Topology | None) -> None:
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
