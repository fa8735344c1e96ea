"""What the programs of a model hold on to, and whether it is still what the model has."""

import itertools
from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.sparsity import SparseLayer, Topology


_OF_TORCH = vars(nn.Module()).keys()
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def all_optimizers(model: OffPolicyAlgorithm) -> list[th.optim.Optimizer]:
    """
    Find the optimizers of an update: those of the policy's networks, and those that the model has itself (a temperature's).

    :param model: Model
    """
    return [*optimizers_of(model.policy), *_attributes(model, th.optim.Optimizer)]


class HeldObjects:
    """
    All objects that the programs of a model hold on to. While these are the same, so is what programs read; keeping them makes
    sure that no other object takes the identity of one that is gone.

    :param model: Model
    """

    def __init__(self, model: OffPolicyAlgorithm):
        modules = list(model.policy.modules())
        self._contents = [
            contents for module in modules for contents in (module._modules, module._parameters, module._buffers) if contents
        ]
        # Where optimizers may be: what torch itself has in every module takes long to look through.
        self._attributes = [vars(module) for module in modules]
        self._names = [[name for name in attributes if name not in _OF_TORCH] for attributes in self._attributes]
        self._hooks = [vars(module)[name] for module in modules for name in _HOOKS]
        self._parameters = list(model.policy.parameters())
        self._topologies = [module for module in modules if isinstance(module, Topology)]
        self._layers = [module for module in modules if isinstance(module, SparseLayer)]
        self.optimizers = self._optimizers(model)
        self._objects, self._states = self._present(model, self.optimizers), self._state(self.optimizers)

    def are_valid(self, model: OffPolicyAlgorithm) -> bool:
        """
        Tell whether nothing was replaced, moved to another device, frozen, given other hyperparameters, or a number of hooks.

        :param model: The same model
        """
        optimizers = self._optimizers(model)
        present = self._present(model, optimizers)
        if len(present) != len(self._objects) or self._state(optimizers) != self._states:
            return False
        return all(map(is_, present, self._objects))

    def _optimizers(self, model: OffPolicyAlgorithm) -> list[th.optim.Optimizer]:
        """What :func:`all_optimizers` finds, while modules have the attributes that they had."""
        found = [attributes.get(n) for attributes, names in zip(self._attributes, self._names, strict=True) for n in names]
        own = [value for value in found if isinstance(value, th.optim.Optimizer)]
        return [*own, *_attributes(model, th.optim.Optimizer)]

    def _present(self, model: OffPolicyAlgorithm, optimizers: Iterable[th.optim.Optimizer]) -> list[Any]:
        contents = itertools.chain.from_iterable(contents.values() for contents in self._contents)
        parts = itertools.chain.from_iterable(map(_parts, optimizers))
        own = _attributes(model, th.Tensor)
        return [model.policy, model.replay_buffer, model._vec_normalize_env, *parts, *own, *contents]

    def _state(self, optimizers: Iterable[th.optim.Optimizer]) -> list[Any]:
        versions = [-1 if topology.indices.is_inference() else topology.indices._version for topology in self._topologies]
        # Moving a module to another device gives its parameters other memory, but not other objects.
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        records = [layer.records_dense_gradient for layer in self._layers]
        trained = [parameter.requires_grad for parameter in self._parameters]
        numbers = map(len, self._attributes)  # there is no other optimizer without another attribute
        return [*versions, *addresses, *records, *trained, *numbers, sum(map(len, self._hooks)), *_hyperparameters(optimizers)]


def _attributes(model: OffPolicyAlgorithm, kind: type) -> list[Any]:
    return [value for value in vars(model).values() if isinstance(value, kind)]


def _hyperparameters(optimizers: Iterable[th.optim.Optimizer]) -> list[Any]:
    """Those of optimizers but for learning rates, which are live."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [value for group in groups for key, value in group.items() if key not in ("params", "lr")]


def _parts(optimizer: th.optim.Optimizer) -> Iterator[Any]:
    """An optimizer, its parameters, and the tensors of its state."""
    yield optimizer
    for group in optimizer.param_groups:
        yield group
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, th.Tensor))
