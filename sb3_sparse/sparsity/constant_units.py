"""Layers to which units that are constant over a batch, as units without inputs are, must not do harm."""

from typing import TypeVar

from torch import nn

LayerT = TypeVar("LayerT", bound=type[nn.Module])

_SAFE: dict[type[nn.Module], type[nn.Module]] = {}


def register_safe_layer(safe_type: LayerT) -> LayerT:
    """
    Let ``prune`` turn layers of exactly the first base of ``safe_type`` into it, in place.

    :param safe_type: Subclass of a layer without parameters or buffers of its own
    :return: The same class, so that this can be used as a decorator.
    """
    _SAFE[safe_type.__bases__[0]] = safe_type
    return safe_type


def make_safe(module: nn.Module) -> None:
    """
    Let the layers of a module take constant units.

    :param module: Module that was pruned
    """
    for layer in module.modules():
        layer.__class__ = _SAFE.get(type(layer), type(layer))


def is_safe(layer: nn.Module) -> bool:
    """
    Tell whether a layer is one that would have done harm.

    :param layer: Layer of a module that was pruned
    """
    return type(layer) in _SAFE.values()


def make_plain(module: nn.Module) -> None:
    """
    Inverse of :func:`make_safe`.

    :param module: Any module
    """
    plain = {safe: unsafe for unsafe, safe in _SAFE.items()}
    for layer in module.modules():
        layer.__class__ = plain.get(type(layer), type(layer))
