"""One-shot random pruning of any torch module, and the way back."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import Distribution, UnreachableSparsityError, check_sparsity, get_distribution
from sb3_sparse.sparsity.constant_units import make_plain, make_safe
from sb3_sparse.sparsity.layers import SparseLayer, sparse_type_of
from sb3_sparse.sparsity.topology import Topology

ModuleT = TypeVar("ModuleT", bound=nn.Module)
SkipEntry = str | nn.Module | type[nn.Module]
Skip = SkipEntry | Iterable[SkipEntry] | Callable[[str, nn.Module], bool]
# Parameter names of a prunable weight (of all weights under one mask) -> the layers that use it; several, if it is tied.
Groups = dict[tuple[str, ...], list[nn.Module]]

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
    :param sparsity: Fraction of the budget's parameters to remove, in [0, 1) (of every layer with distribution "uniform")
    :param distribution: Layer-wise allocation: "erdos_renyi", "uniform", or a function with the signature of
        :func:`erdos_renyi`
    :param budget: What ``sparsity`` is a fraction of: "all" parameters of the module as in the paper's code (biases,
        normalisation and layers that cannot be pruned stay dense, the others make up for it) or the prunable "weights" only
    :param generator: CPU random generator for the masks, whatever device the module lives on; torch's default one if None
    :param skip: What stays dense: names of submodules, modules or types, each with all below it; or a predicate of
        (name, module), which is asked about every layer by itself
    :return: The same module
    :raises ValueError: if the sparsity cannot be reached, would leave a layer without any weight, or the module was pruned
        before. Nothing has changed then.
    """
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"Masks are drawn on the CPU, to be the same on every device; got a generator on {generator.device}.")
    groups, active = _plan(module, sparsity, distribution, budget, skip)
    drawn: list[tuple[list[nn.Module], Topology]] = []
    for names, layers in groups.items():
        shape = module.get_parameter(names[0]).shape
        if active[names[0]] < shape.numel():
            drawn.append((layers, Topology.random(shape, active[names[0]], generator)))
    for layers, topology in drawn:
        _convert(layers, topology)
    if drawn:
        make_safe(module)
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
    return _plan(module, sparsity, distribution, budget, skip)[1]


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
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for _, layer in list(sparse_layers(dense)):
        layer.densify(tied)
    make_plain(dense)
    return dense


def share_topology(source: nn.Module, target: nn.Module) -> None:
    """
    Prune ``target`` in place exactly as ``source`` is: corresponding layers share one topology (as a module), not the values.

    :param source: Pruned module
    :param target: Unpruned module of the same structure on the same device, e.g. a target network; it may contain layers of
        the source itself
    :raises ValueError: if a layer does not correspond or was pruned by itself. Nothing has changed then.
    """
    pairs = [(layer, _counterpart(target, name, layer)) for name, layer in sparse_layers(source)]
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for layer, counterpart in pairs:
        if not isinstance(counterpart, SparseLayer):
            type(layer).convert(counterpart, layer.topology, tied)


def _counterpart(target: nn.Module, name: str, layer: SparseLayer) -> nn.Module:
    """The layer of the same name, if it can take the topology or has it already."""
    try:
        counterpart = target.get_submodule(name)
    except AttributeError:
        raise ValueError(f"The target has no layer {name!r}: its structure must be that of the source.") from None
    if isinstance(counterpart, SparseLayer):
        if counterpart.topology is not layer.topology:
            raise ValueError(
                f"Layer {name!r} of the target is pruned already, with a topology of its own: give a dense target."
            )
    elif sparse_type_of(counterpart) is not type(layer):
        given = type(counterpart).__name__
        raise ValueError(f"Layer {name!r} of the target is a {given}, where the source has a {layer.dense_type.__name__}.")
    else:
        for weight in _weights(counterpart):
            if weight is None or weight.shape != layer.topology.shape or weight.device != layer.indices.device:
                given = "computed by something else" if weight is None else f"{tuple(weight.shape)} on {weight.device}"
                expected = f"{tuple(layer.topology.shape)} on {layer.indices.device}"
                raise ValueError(f"The weight of layer {name!r} is {given} in the target, but {expected} in the source.")
    return counterpart


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


def _plan(
    module: nn.Module, sparsity: float, distribution: str | Distribution, budget: str, skip: Skip
) -> tuple[Groups, dict[str, int]]:
    """Find what is pruned and compute how many weights stay active; whatever can go wrong goes wrong here."""
    sparsity = check_sparsity(sparsity)
    check_budget(budget)
    distribution = get_distribution(distribution)
    _refuse_pruned(module)
    layers = _prunable_layers(module, skip)
    groups = _group(module, layers)
    if sparsity > 0.0:
        _refuse_unready(module, layers)
        for users in groups.values():
            _refuse_foreign_tie(module, users)
        if not groups:
            raise ValueError(f"{type(module).__name__} has no layer to prune (linear or 2-d convolution, not skipped).")
    prunable = {name for names in groups for name in names}
    shapes = _budgeted_shapes(module, prunable, budget)
    layer_sparsity = distribution(shapes, sparsity, dense=[name for name in shapes if name not in prunable])
    active = {names[0]: _active_count(names[0], shapes[names[0]], layer_sparsity[names[0]], sparsity) for names in groups}
    return groups, {name: active[names[0]] for names in groups for name in names}


def _prunable_layers(module: nn.Module, skip: Skip) -> dict[str, nn.Module]:
    skipped = _skipped(module, skip)
    return {
        name: layer for name, layer in module.named_modules() if sparse_type_of(layer) is not None and layer not in skipped
    }


def _weights(layer: nn.Module) -> list[nn.Parameter | None]:
    """The weights of a prunable layer; None for one that something else computes, as the old spectral norm does."""
    sparse_type = sparse_type_of(layer)
    assert sparse_type is not None
    return [layer._parameters.get(name) for name in sparse_type.value_names]


def _group(module: nn.Module, layers: dict[str, nn.Module]) -> Groups:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups: Groups = {}
    for layer in layers.values():
        weights = _weights(layer)
        if all(weight is not None for weight in weights):
            groups.setdefault(tuple(names[id(weight)] for weight in weights), []).append(layer)
    return groups


def _refuse_unready(module: nn.Module, layers: dict[str, nn.Module]) -> None:
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"Parameter {name!r} is not initialised yet: run one forward pass first.")
    for name, layer in layers.items():
        if any(weight is None for weight in _weights(layer)):
            raise ValueError(
                f"The weight of layer {name!r} is computed by something else: skip that layer, or prune before anything else "
                "wraps its weight."
            )


def _refuse_foreign_tie(module: nn.Module, layers: list[nn.Module]) -> None:
    """Refuse weights that are also used by something which is not pruned along, or is pruned in another way."""
    weights = {id(weight) for weight in _weights(layers[0])}
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


def _skipped(module: nn.Module, skip: Skip) -> set[nn.Module]:
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
        try:
            return set(module.get_submodule(entry).modules())
        except AttributeError:
            raise ValueError(f"skip names {entry!r}, but {type(module).__name__} has no such submodule.") from None
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


def _convert(layers: list[nn.Module], topology: Topology) -> None:
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for layer in layers:
        sparse_type = sparse_type_of(layer)
        assert sparse_type is not None
        sparse_type.convert(layer, topology, tied)
