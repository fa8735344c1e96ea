"""What of a module can be pruned, and what of it is to stay dense."""

from collections.abc import Callable, Iterable

from torch import nn

from sb3_sparse.sparsity import convolutions  # noqa: F401  registers them
from sb3_sparse.sparsity.conversion import sparse_layers, submodule
from sb3_sparse.sparsity.layers import prunable_weights, sparse_type_of

SkipEntry = str | nn.Module | type[nn.Module]
Skip = SkipEntry | Iterable[SkipEntry] | Callable[[str, nn.Module], bool]
# Parameter names of a prunable weight (of all weights under one mask) -> names of the layers that use it; several, if tied.
Groups = dict[tuple[str, ...], list[str]]


def refuse_pruned(module: nn.Module) -> None:
    """
    :param module: Any module
    :raises ValueError: if it was pruned before.
    """
    for name, _ in sparse_layers(module):
        raise ValueError(
            f"{type(module).__name__} is pruned already (layer {name or 'itself'!r}); pruning happens once. "
            "Prune a fresh module, or to_dense(module)."
        )


def prunable_layers(module: nn.Module, kept: set[str]) -> dict[str, nn.Module]:
    """
    Find the layers of a dense module that can be pruned.

    :param module: Dense module
    :param kept: Names of what stays dense
    :return: Name -> layer
    """
    skipped = {layer for name, layer in module.named_modules(remove_duplicate=False) if name in kept}
    return {
        name: layer for name, layer in module.named_modules() if sparse_type_of(layer) is not None and layer not in skipped
    }


def grouped(module: nn.Module, layers: dict[str, nn.Module]) -> Groups:
    """
    Find which weights are under one mask, and which layers share them.

    :param module: Dense module
    :param layers: Its layers that can be pruned
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups: Groups = {}
    for user, layer in layers.items():
        weights = prunable_weights(layer)
        if all(weight is not None for weight in weights):
            groups.setdefault(tuple(names[id(weight)] for weight in weights), []).append(user)
    return groups


def refuse_unready(module: nn.Module, layers: dict[str, nn.Module]) -> None:
    """
    Refuse weights that are not there yet or are computed by something else.

    :param module: Dense module
    :param layers: Its layers that can be pruned
    :raises ValueError: if there are any.
    """
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"Parameter {name!r} is not initialised yet: run one forward pass first.")
    for name, layer in layers.items():
        if any(weight is None for weight in prunable_weights(layer)):
            raise ValueError(
                f"The weight of layer {name!r} is computed by something else: skip that layer, or prune before anything else "
                "wraps its weight."
            )


def refuse_foreign_tie(module: nn.Module, layers: list[nn.Module]) -> None:
    """
    Refuse weights that are also used by something which is not pruned along, or is pruned in another way.

    :param module: Dense module
    :param layers: Those of its layers that share the weights
    :raises ValueError: if there are any.
    """
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
