"""From sparse layers to plain ones, and the same positions in another module."""

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import nn

from sb3_sparse.sparsity.constant_units import make_plain
from sb3_sparse.sparsity.layers import SparseLayer, prunable_weights, sparse_type_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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


def follow_topology(source: nn.Module, target: nn.Module) -> None:
    """
    Prune ``target`` in place exactly as ``source`` is, whatever it was before; see :func:`share_topology`.

    :param source: Pruned module
    :param target: Module of the same structure, e.g. a target network
    """
    own = {layer for _, layer in sparse_layers(source)}
    densified: dict[nn.Parameter, nn.Parameter] = {}
    for _, layer in list(sparse_layers(target)):
        if layer not in own:
            layer.densify(densified)
    share_topology(source, target)


def _counterpart(target: nn.Module, name: str, layer: SparseLayer) -> nn.Module:
    """The layer of the same name, if it can take the topology or has it already."""
    counterpart = submodule(target, name)
    if counterpart is None:
        raise ValueError(f"The target has no layer {name!r}: its structure must be that of the source.")
    if isinstance(counterpart, SparseLayer):
        if counterpart.topology is not layer.topology:
            raise ValueError(
                f"Layer {name!r} of the target is pruned already, with a topology of its own: give a dense target."
            )
    elif sparse_type_of(counterpart) is not type(layer):
        given = type(counterpart).__name__
        raise ValueError(f"Layer {name!r} of the target is a {given}, where the source has a {layer.dense_type.__name__}.")
    else:
        for weight in prunable_weights(counterpart):
            if weight is None or weight.shape != layer.topology.shape or weight.device != layer.indices.device:
                given = "computed by something else" if weight is None else f"{tuple(weight.shape)} on {weight.device}"
                expected = f"{tuple(layer.topology.shape)} on {layer.indices.device}"
                raise ValueError(f"The weight of layer {name!r} is {given} in the target, but {expected} in the source.")
    return counterpart


def submodule(module: nn.Module, name: str) -> nn.Module | None:
    """
    :param module: Any module
    :param name: Name of one within it
    :return: That, if there is one
    """
    return dict(module.named_modules(remove_duplicate=False)).get(name)


def sparse_layers(module: nn.Module) -> Iterator[tuple[str, SparseLayer]]:
    """
    Iterate over the sparse layers of a module, each once.

    :param module: Any module
    :return: Pairs of name and layer
    """
    for name, layer in module.named_modules():
        if isinstance(layer, SparseLayer):
            yield name, layer
