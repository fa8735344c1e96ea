"""The optimizers of networks, and how they follow what is pruned."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.sparsity.layers import SparseLayer, sparse_type_of
from sb3_sparse.sparsity.topology import Topology


def optimizers_of(policy: nn.Module) -> list[th.optim.Optimizer]:
    """
    Find the optimizers that a policy's networks have as attributes.

    :param policy: Any SB3 policy
    """
    attributes = [value for module in policy.modules() for value in vars(module).values()]
    return [value for value in attributes if isinstance(value, th.optim.Optimizer)]


@contextmanager
def optimizers_follow(module: nn.Module, optimizers: Iterable[th.optim.Optimizer]) -> Iterator[None]:
    """
    Let optimizers hold the parameters that replace the pruned ones, in place and with their share of any moments.

    :param module: Module whose layers are pruned within the context
    :param optimizers: Optimizers
    """
    before = _weights_of(module)
    places = {id(parameter): place for place, (parameter, _) in before.items()}
    yield
    after = _weights_of(module)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [_successor(p, places, before, after, optimizer) for p in group["params"]]


_Weights = dict[tuple[str, str], tuple[nn.Parameter, Topology | None]]


def _weights_of(module: nn.Module) -> _Weights:
    """Layer and name of its dense weight -> the parameter that holds it, and where its entries sit."""
    found: _Weights = {}
    for name, layer in module.named_modules():
        if isinstance(layer, SparseLayer):
            for weight, values in layer.value_names.items():
                found[name, weight] = (layer.get_parameter(values), layer.topology)
        elif (sparse_type := sparse_type_of(layer)) is not None:
            for weight in sparse_type.value_names:
                found[name, weight] = (layer.get_parameter(weight), None)
    return found


def _successor(
    parameter: th.Tensor,
    places: Mapping[int, tuple[str, str]],
    before: _Weights,
    after: _Weights,
    optimizer: th.optim.Optimizer,
) -> th.Tensor:
    place = places.get(id(parameter))
    if place is None or after[place][0] is parameter:
        return parameter
    (_, old), (successor, new) = before[place], after[place]
    state = optimizer.state.pop(parameter, None)
    if state:
        optimizer.state[successor] = {key: _moved(value, parameter, old, new) for key, value in state.items()}
    return successor


def _moved(value: Any, parameter: th.Tensor, old: Topology | None, new: Topology | None) -> Any:
    if not isinstance(value, th.Tensor) or value.shape != parameter.shape:
        return value
    dense = value if old is None else old.scatter(value)
    return dense if new is None else new.gather(dense)
