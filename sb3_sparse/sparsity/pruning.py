"""One-shot random pruning of any torch module, and the way back."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import Distribution, check_sparsity, get_distribution
from sb3_sparse.sparsity.layers import SparseLayer, sparse_type_of
from sb3_sparse.sparsity.topology import Topology

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Skip = Iterable[str | nn.Module | type[nn.Module]] | Callable[[str, nn.Module], bool]

BUDGETS = ("all", "weights")


def prune(
    module: ModuleT,
    sparsity: float,
    *,
    distribution: str | Distribution = "erdos_renyi",
    budget: str = "all",
    generator: th.Generator | None = None,
    skip: Skip = (),
) -> ModuleT:
    """
    Prune a module at random, once and in place (paper, section 2.2: static sparse training by one-shot random pruning).

    Every linear and two-dimensional convolutional layer (and whatever :func:`register_sparse_layer` added) becomes a layer
    whose active weights alone are parameters. The kept weights are not rescaled. A layer that is allotted density 1 stays as
    it is, so with ``sparsity=0`` nothing changes at all. Layers used at several places and layers with a tied weight count
    once and stay tied. Optimizers made before hold the old parameters: make them anew.

    Deviation: the paper's code draws each weight's mask as an independent Bernoulli; here every layer has the exact number,
    ``round((1 - layer sparsity) * size)``.

    :param module: Any module
    :param sparsity: Fraction of the budget's parameters to remove, in [0, 1)
    :param distribution: Layer-wise allocation: "erdos_renyi", "uniform", or a function with the signature of
        :func:`erdos_renyi`
    :param budget: What ``sparsity`` is a fraction of: "all" parameters of the module as in the paper's code (biases,
        normalisation and layers that cannot be pruned stay dense, the others make up for it) or the prunable "weights" only
    :param generator: CPU random generator for the masks, whatever device the module lives on; torch's default one if None
    :param skip: What stays dense: names of submodules (with all below them), modules, types, or a predicate of
        (name, module)
    :return: The same module
    :raises ValueError: if the sparsity cannot be reached, would leave a layer without any weight, or the module was pruned
        before. Nothing has changed then.
    """
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"Masks are drawn on the CPU, to be the same on every device; got a generator on {generator.device}.")
    active = allocate(module, sparsity, distribution=distribution, budget=budget, skip=skip)
    for name, layers in _prunable_weights(module, skip).items():
        shape = layers[0].weight.shape  # type: ignore[union-attr]
        if active[name] < shape.numel():  # type: ignore[operator]
            _convert(layers, Topology.random(shape, active[name], generator))  # type: ignore[arg-type]
    return module


def allocate(
    module: nn.Module,
    sparsity: float,
    *,
    distribution: str | Distribution = "erdos_renyi",
    budget: str = "all",
    skip: Skip = (),
) -> dict[str, int]:
    """
    Compute how many weights :func:`prune` would keep, without changing anything.

    :param module: Any module that was not pruned
    :param sparsity: As for :func:`prune`
    :param distribution: As for :func:`prune`
    :param budget: As for :func:`prune`
    :param skip: As for :func:`prune`
    :return: Parameter name of each prunable weight -> number of weights that stay active
    :raises ValueError: as :func:`prune`
    """
    sparsity = check_sparsity(sparsity)
    check_budget(budget)
    distribution = get_distribution(distribution)
    _refuse_pruned(module)
    groups = _prunable_weights(module, skip)
    if not groups and sparsity > 0.0:
        raise ValueError(f"{type(module).__name__} has no layer to prune (linear or 2-d convolution, not skipped).")
    shapes = _budgeted_shapes(module, groups, budget)
    layer_sparsity = distribution(shapes, sparsity, dense=[name for name in shapes if name not in groups])
    return {name: _active_count(name, shapes[name], layer_sparsity[name], sparsity) for name in groups}


def check_budget(budget: str) -> None:
    """
    Validate a budget.

    :param budget: "all" or "weights"
    :raises ValueError: if it is neither.
    """
    if budget not in BUDGETS:
        raise ValueError(f"Unknown budget {budget!r}: choose one of {', '.join(map(repr, BUDGETS))}.")


def to_dense(module: ModuleT) -> ModuleT:
    """
    Copy a pruned module into plain torch layers with explicit zeros.

    :param module: Any module; it is not changed
    :return: A copy without any layer of this package, whose ``state_dict`` fits the module before it was pruned
    """
    dense = copy.deepcopy(module)
    weights: dict[int, nn.Parameter] = {}
    for layer in list(dense.modules()):
        if isinstance(layer, SparseLayer):
            key = id(layer.values)
            layer.densify(weights.get(key))
            weights[key] = layer.weight  # type: ignore[assignment]
    return dense


def share_topology(source: nn.Module, target: nn.Module) -> None:
    """
    Prune ``target`` in place exactly as ``source`` is: corresponding layers share one topology (as a module), not the values.

    :param source: Pruned module
    :param target: Unpruned module of the same structure, e.g. a target network
    """
    sparse = {name: layer for name, layer in source.named_modules() if isinstance(layer, SparseLayer)}
    for name, layer in sparse.items():
        counterpart = target.get_submodule(name)
        if counterpart is not layer and not isinstance(counterpart, SparseLayer):
            type(layer).convert(counterpart, layer.topology)


def sparse_layers(module: nn.Module) -> Iterator[tuple[str, SparseLayer]]:
    """
    Iterate over the sparse layers of a module, each once.

    :param module: Any module
    :return: Pairs of name and layer
    """
    for name, layer in module.named_modules():
        if isinstance(layer, SparseLayer):
            yield name, layer


def _refuse_pruned(module: nn.Module) -> None:
    for name, _ in sparse_layers(module):
        raise ValueError(
            f"{type(module).__name__} is pruned already (layer {name or 'itself'!r}); pruning happens once. "
            "Prune a fresh module, or to_dense(module)."
        )


def _prunable_weights(module: nn.Module, skip: Skip) -> dict[str, list[nn.Module]]:
    """Map each prunable weight's parameter name to the layers that use it (several, if it is tied)."""
    skipped = _skipped(module, skip)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups: dict[str, list[nn.Module]] = {}
    for name, layer in module.named_modules():
        if sparse_type_of(layer) is not None and layer not in skipped:
            groups.setdefault(names[id(_own_weight(name, layer))], []).append(layer)
    for name, layers in groups.items():
        _refuse_foreign_tie(module, name, layers)
    return groups


def _own_weight(name: str, layer: nn.Module) -> nn.Parameter:
    weight = layer._parameters.get("weight")
    if weight is None or nn.parameter.is_lazy(weight):
        state = "not initialised yet (run one forward pass first)" if weight is not None else "computed by something else"
        raise ValueError(
            f"The weight of layer {name!r} is {state}: skip that layer, or prune before anything else wraps its weight."
        )
    return weight


def _refuse_foreign_tie(module: nn.Module, weight_name: str, layers: list[nn.Module]) -> None:
    weight = layers[0]._parameters["weight"]
    for name, owner in module.named_modules():
        for key, parameter in owner._parameters.items():
            if parameter is weight and not (key == "weight" and any(owner is layer for layer in layers)):
                raise ValueError(
                    f"Weight {weight_name!r} is also {key!r} of {name!r} ({type(owner).__name__}), which is not pruned along: "
                    "skip both or untie them."
                )
    if len({type(layer) for layer in layers}) > 1:
        raise ValueError(f"Weight {weight_name!r} is tied between layers of different types: skip or untie them.")


def _skipped(module: nn.Module, skip: Skip) -> set[nn.Module]:
    if callable(skip):
        return {layer for name, layer in module.named_modules() if skip(name, layer)}
    if isinstance(skip, str):
        skip = (skip,)
    skipped: set[nn.Module] = set()
    for entry in skip:
        skipped |= _matching(module, entry)
    return skipped


def _matching(module: nn.Module, entry: str | nn.Module | type[nn.Module]) -> set[nn.Module]:
    if isinstance(entry, nn.Module):
        return set(entry.modules())
    if isinstance(entry, str):
        try:
            return set(module.get_submodule(entry).modules())
        except AttributeError:
            raise ValueError(f"skip names {entry!r}, but {type(module).__name__} has no such submodule.") from None
    return {inner for layer in module.modules() if isinstance(layer, entry) for inner in layer.modules()}


def _budgeted_shapes(module: nn.Module, groups: dict[str, list[nn.Module]], budget: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if name in groups or (budget == "all" and not nn.parameter.is_lazy(parameter))
    }


def _active_count(name: str, shape: tuple[int, ...], layer_sparsity: float, sparsity: float) -> int:
    size = th.Size(shape).numel()
    active = round((1.0 - layer_sparsity) * size)
    if active < 1:
        raise ValueError(
            f"At sparsity {sparsity:g}, {name!r} of shape {shape} would keep no weight at all (layer sparsity "
            f"{layer_sparsity:.6f}): choose a lower sparsity, a larger network, or skip that layer."
        )
    return active


def _convert(layers: list[nn.Module], topology: Topology) -> None:
    values: nn.Parameter | None = None
    for layer in layers:
        sparse_type = sparse_type_of(layer)
        assert sparse_type is not None
        values = sparse_type.convert(layer, topology, values).values
