"""Networks that are loaded alone as they were saved alone, with their topologies."""

import functools
import types
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import get_device
from torch import nn

from sb3_sparse.sparsity import Topology
from sb3_sparse.sparsity.constant_units import make_safe
from sb3_sparse.sparsity.layers import sparse_type_of

NetworkT = TypeVar("NetworkT", bound="PrunedNetwork")


class PrunedNetwork(BaseModel):
    """Mixin for SB3 networks: those saved alone (``policy.actor.save(path)``) load with the topologies that they had."""

    @classmethod
    def load(cls: type[NetworkT], path: str, device: th.device | str = "auto") -> NetworkT:
        """
        Load a network that was saved alone.

        :param path: Path to the file
        :param device: Device for the network
        """
        device = get_device(device)
        # As in SB3: spaces are no plain tensors.
        saved = th.load(path, map_location=device, weights_only=False)
        network = cls(**saved["data"])
        _adopt_topologies(network, saved["state_dict"])
        make_safe(network)
        network.load_state_dict(saved["state_dict"])
        return network.to(device)


class Derived(BaseModel):
    """Mixin for the classes that :func:`derived_class` makes: pickle finds them by their stock class, not by name."""

    stock_class: ClassVar[type[BaseModel]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(protocol)
        assert isinstance(reduced, tuple)
        return (_uninitialised, type(self).__bases__, *reduced[2:])


class SparsifiedNetwork(Derived, PrunedNetwork):
    """Mixin for the parts of stock policies that were pruned."""


def derived_class(mixin: type[Derived], stock_class: type[BaseModel]) -> type[Any]:
    """
    Derive the class of what is pruned from a stock one.

    :param mixin: What it is in addition
    :param stock_class: Class of an SB3 network or policy
    """
    return _derived_class((mixin, stock_class))


@functools.cache
def _derived_class(bases: tuple[type[Derived], type[BaseModel]]) -> type[Any]:
    stock_class = bases[1]
    body = {"__module__": __name__, "__doc__": f"Statically sparse {stock_class.__name__}.", "stock_class": stock_class}
    return types.new_class(f"Pruned{stock_class.__name__}", bases, exec_body=lambda namespace: namespace.update(body))


def let_load_alone(network: nn.Module) -> None:
    """
    Make a part of a policy one that can be loaded alone, if it is a network of SB3's own classes; others are left alone.

    :param network: Part of a policy, pruned
    """
    if isinstance(network, BaseModel) and not isinstance(network, PrunedNetwork):
        network.__class__ = derived_class(SparsifiedNetwork, type(network))


def _uninitialised(mixin: type[Derived], stock_class: type[BaseModel]) -> BaseModel:
    derived: Any = derived_class(mixin, stock_class)
    instance: BaseModel = derived.__new__(derived)
    return instance


def _adopt_topologies(network: nn.Module, state_dict: Mapping[str, th.Tensor]) -> None:
    """Make those layers of a dense network sparse that are in the state dict."""
    suffix = ".topology.indices"
    for name in [key.removesuffix(suffix) for key in state_dict if key.endswith(suffix)]:
        layer = network.get_submodule(name)
        sparse_type = sparse_type_of(layer)
        if sparse_type is not None:
            shape = state_dict[f"{name}.topology.weight_shape"].tolist()
            sparse_type.convert(layer, Topology(state_dict[name + suffix], shape))
