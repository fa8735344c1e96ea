"""Actors that act on a CPU in compiled passes (extra ``fast``), on the memory of their parameters."""

import functools
import importlib
import itertools
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.sparsity.products.choice import kernels_are_available

# Of more, torch makes one matrix product.
MOST_OBSERVATIONS = 4
# What an actor makes of its networks.
_ACTOR_METHODS = ("forward", "extract_features", "get_action_dist_params", "_preprocess")


class CompiledActor:
    """
    The networks of an actor as functions of an observation. Whatever writes its parameters and statistics in place is seen by
    the next pass; after modules, tensors or positions of active weights were replaced, the passes are made anew.

    A copy or a pickle of it holds nothing.
    """

    def __init__(self) -> None:
        self._actor: nn.Module | None = None
        self._passes: list[_Pass] = []
        self._contents: list[dict[str, Any]] = []
        self._objects: list[Any] = []
        self._hooks: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledActor, ()

    def heads(self, actor: Any, observations: np.ndarray, number: int) -> list[np.ndarray] | None:
        """
        :param actor: Actor, whose ``acting_networks()`` are a trunk and its heads
        :param observations: (batch, dim) preprocessed observations, float32 and contiguous
        :param number: Number of heads that are wanted, from the first
        :return: What they return, (batch, outputs) each; None where torch has to make the passes
        """
        if not self._is_current(actor):
            self._bind(actor)
        if not self._passes or any(self._hooks) or _is_followed() or is_overridden(actor, "choose", _ACTOR_METHODS):
            return None
        trunk, *heads = self._passes
        features = trunk(observations)
        return [head(features) for head in heads[:number]]

    def _is_current(self, actor: nn.Module) -> bool:
        if self._actor is not actor:
            return False
        present = _values(self._contents)
        if len(present) != len(self._objects) or not all(map(is_, present, self._objects)):
            return False
        return all(made.steps.is_current() for made in self._passes)

    def _bind(self, actor: Any) -> None:
        modules = list(actor.modules())
        self._actor, self._passes = actor, []
        self._contents = [contents for m in modules for contents in (m._modules, m._parameters, m._buffers) if contents]
        self._objects = _values(self._contents)
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        if kernels_are_available() and type(actor.features_extractor) is FlattenExtractor:
            try:
                self._passes = _passes(actor)
            except ValueError:  # there is no rule for a module, or no kernel for a tensor
                self._passes = []


class _Pass:
    """
    One compiled pass.

    :param steps: Its live steps
    :param input_size: Size of the vector that comes in
    """

    def __init__(self, steps: Any, input_size: int):
        self.steps = steps
        program: Any = importlib.import_module("sb3_sparse.networks.compiled_program")
        self._run = program.CompiledProgram(steps.steps, input_size)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """
        :param inputs: (batch, input_size) float32, contiguous
        :return: (batch, outputs)
        """
        self.steps.refresh()
        return self._run(inputs)


def _passes(actor: Any) -> list[_Pass]:
    """Of the trunk, and of every head."""
    live_steps: Any = importlib.import_module("sb3_sparse.networks.live_steps")
    rules = {**live_steps.RULES, ObservationNormalizer: _normalize, **actor.acting_rules}
    trunk, heads = actor.acting_networks()
    steps = [live_steps.LiveSteps(modules, rules) for modules in ([actor.normalizer, trunk], *([head] for head in heads))]
    sizes = [actor.normalizer.dim, *itertools.repeat(actor.size.hidden_dim, len(heads))]
    return [_Pass(*arguments) for arguments in zip(steps, sizes, strict=True)]


def _normalize(steps: Any, normalizer: ObservationNormalizer) -> None:
    var, scale, eps = steps.array(normalizer.var), np.empty(normalizer.dim, np.float32), np.float32(normalizer.eps)
    steps.derive(lambda: np.sqrt(var + eps, out=scale))
    steps.append("standardize", mean=steps.array(normalizer.mean), scale=scale)


def _values(contents: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [value for part in contents for value in part.values()]


def _is_followed() -> bool:
    """Whether somebody listens to all modules, or follows what torch computes."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or th.is_autocast_enabled("cpu")
        or th._C._len_torch_dispatch_stack()
        or th.compiler.is_compiling()
    )


def is_overridden(computing: Any, compiled: str, methods: tuple[str, ...]) -> bool:
    """
    Tell whether an object computes something in a way that its compiled method knows nothing of.

    :param computing: Any object
    :param compiled: Name of its compiled method
    :param methods: Names of the methods of which that is the short cut
    """
    kind: Any = type(computing)
    return not vars(computing).keys().isdisjoint(methods) or _is_overridden(kind, compiled, methods)


@functools.cache
def _is_overridden(kind: type, compiled: str, methods: tuple[str, ...]) -> bool:
    own, *places = (
        next((i for i, c in enumerate(kind.__mro__) if n in vars(c)), len(kind.__mro__)) for n in (compiled, *methods)
    )
    return any(place < own for place in places)
