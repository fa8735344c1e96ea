"""Writing a policy down as steps on one vector, in which only active weights are left."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_sparse.algorithms.acting_networks import ONLY_DENSE
from sb3_sparse.common import SparseSimBaExtractor
from sb3_sparse.crossq.encoder import RenormEncoder
from sb3_sparse.deployment.action_choices import BestAction, BestOfEach, Clipped, PositiveLogits, Rescaled
from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy, FixedNormalization
from sb3_sparse.deployment.runtime import Step
from sb3_sparse.der.acting_network import Dueling, Expectation
from sb3_sparse.networks import BroNetBlock, BroNetEncoder, DeferredNormalizer, RunningNormalizer, SimBaEncoder
from sb3_sparse.networks.simba import HeadedEncoder, SimBaBlock
from sb3_sparse.stream_ac.observation_statistics import EPS as STATISTICS_EPS
from sb3_sparse.stream_ac.observation_statistics import ObservationStatistics

# A weight of lower density is stored as compressed rows: 4 bytes of value and 2 of column against 4.
MAX_DENSITY = 0.6

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
}


def step_list(policy: DeterministicPolicy) -> list[Step]:
    """
    Write down what a policy computes.

    :param policy: Policy whose networks are linear layers, layer normalisations and activations
    :raises ValueError: if it has anything else.
    """
    if policy.has_images:
        raise ValueError(f"The policy looks at images. {ONLY_DENSE}")
    before = [*_fixed_normalization(policy), *_one_hot(policy)]
    return [*before, *_chain(*policy.network.parts()), *_choice(policy.choice)]


def _choice(choice: nn.Module) -> list[Step]:
    if isinstance(choice, Clipped):
        return [Step("clip", {"low": _array(choice.low).ravel(), "high": _array(choice.high).ravel()})]
    if isinstance(choice, Rescaled):
        half_range = 0.5 * (choice.high - choice.low)
        return [Step("affine", {"scale": _array(half_range).ravel(), "offset": _array(choice.low + half_range).ravel()})]
    if isinstance(choice, BestAction):
        return [Step("argmax", {})]
    if isinstance(choice, BestOfEach):
        return [Step("argmax_of_each", {"sizes": np.array(choice.sizes, np.int32)})]
    assert isinstance(choice, PositiveLogits)  # there is no other
    return [Step("is_positive", {})]


def steps_of(module: nn.Module) -> list[Step]:
    """
    Write down what a module computes.

    :param module: Dense module: linear layers, layer normalisations and activations, one after the other or SimBa's
    :raises ValueError: if it has anything else.
    """
    if type(module) in ACTIVATIONS:
        return [Step(ACTIVATIONS[type(module)], {})]
    for kind, rule in _RULES.items():
        if isinstance(module, kind):
            return rule(module)
    known = ", ".join(sorted(kind.__name__ for kind in (*_RULES, *ACTIVATIONS)))
    raise ValueError(f"The policy has a {type(module).__name__}, and known are {known}. {ONLY_DENSE}")


def _chain(*modules: nn.Module) -> list[Step]:
    return [step for module in modules for step in steps_of(module)]


def _linear(layer: nn.Linear) -> list[Step]:
    weight = _array(layer.weight)
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else _array(layer.bias)
    rows, columns = np.nonzero(weight)
    if len(rows) > MAX_DENSITY * weight.size or weight.shape[1] >= 2**16:  # how many a row has takes as much as a column
        return [Step("dense", {"weight": weight, "bias": bias})]
    starts = np.searchsorted(rows, np.arange(len(weight) + 1)).astype(np.int32)
    arrays = {"values": weight[rows, columns], "columns": columns.astype(np.uint16), "starts": starts, "bias": bias}
    return [Step("sparse", arrays)]


def _layer_norm(layer: nn.LayerNorm) -> list[Step]:
    if len(layer.normalized_shape) != 1:
        raise ValueError(f"The policy normalises over {layer.normalized_shape}, not over a vector. {ONLY_DENSE}")
    size = layer.normalized_shape[0]
    weight = np.ones(size, np.float32) if layer.weight is None else _array(layer.weight)
    bias = np.zeros(size, np.float32) if layer.bias is None else _array(layer.bias)
    return [Step("layer_norm", {"weight": weight, "bias": bias, "eps": np.array([layer.eps], np.float32)})]


def _running(normalizer: RunningNormalizer) -> list[Step]:
    return [Step("standardize", {"mean": _array(normalizer.mean), "scale": _array(normalizer.std)})]


def _deferred(normalizer: DeferredNormalizer) -> list[Step]:
    scale = th.sqrt(normalizer.running_var + normalizer.eps)
    return [Step("standardize", {"mean": _array(normalizer.running_mean), "scale": _array(scale)})]


def _statistics(normalizer: ObservationStatistics) -> list[Step]:
    rest = normalizer.dim - normalizer.normalized_dim
    mean, scale = normalizer.mean, th.sqrt(normalizer.var + STATISTICS_EPS)
    padded = [th.cat([part, part.new_full((rest,), value)]) for part, value in ((mean, 0.0), (scale, 1.0))]
    return [Step("standardize", {"mean": _array(padded[0]), "scale": _array(padded[1])})]


def _renormalize(layer: Any) -> list[Step]:
    arrays = {"mean": _array(layer.ra_mean), "scale": _array(th.sqrt(layer.ra_var + layer.eps))}
    scaled = Step("affine", {"scale": _array(layer.scale), "offset": _array(layer.bias)})
    return [Step("standardize", arrays), *([scaled] if layer.affine else [])]


def _gelu(module: nn.GELU) -> list[Step]:
    return [Step("gelu" if module.approximate == "none" else "gelu_tanh", {})]


def _fixed_normalization(policy: DeterministicPolicy) -> list[Step]:
    preparations: Any = policy.preparations
    normalizations = [preparation.normalization for preparation in preparations]
    if not any(normalizations):
        return []
    sizes = [math.prod(space.shape or ()) for space in policy.entries.values()]
    parts = [_moments(part, size) for part, size in zip(normalizations, sizes, strict=True)]
    mean, scale, bound = (np.concatenate(arrays).astype(np.float32) for arrays in zip(*parts, strict=True))
    return [Step("standardize", {"mean": mean, "scale": scale}), Step("clip", {"low": -bound, "high": bound})]


def _moments(normalization: FixedNormalization | None, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and largest absolute value of an entry; those of one that stays as it is."""
    if normalization is None:
        return np.zeros(size), np.ones(size), np.full(size, np.inf)
    scale = np.sqrt(_array(normalization.var).ravel() + np.float32(normalization.epsilon))
    return _array(normalization.mean).ravel(), scale, np.full(size, normalization.clip)


def _one_hot(policy: DeterministicPolicy) -> list[Step]:
    sizes = np.concatenate([_numbers_of_values(space) for space in policy.entries.values()])
    return [Step("one_hot", {"sizes": sizes.astype(np.int32)})] if sizes.any() else []


def _numbers_of_values(space: spaces.Space) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return np.array([space.n])
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.ravel()
    return np.zeros(math.prod(space.shape or ()))


def _array(tensor: th.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().numpy())


_RULES: dict[type[nn.Module], Callable[[Any], list[Step]]] = {
    nn.Sequential: lambda module: _chain(*module),
    HeadedEncoder: lambda module: _chain(*module),
    nn.Linear: _linear,
    BatchRenorm1d: _renormalize,
    Dueling: lambda module: [Step("dueling", {"atoms": np.array([module.atoms], np.int32)})],
    Expectation: lambda module: [Step("expectation", {"support": _array(module.support)})],
    nn.GELU: _gelu,
    nn.ELU: lambda module: [Step("elu", {"alpha": np.array([module.alpha], np.float32)})],
    nn.LayerNorm: _layer_norm,
    # Nothing happens to a vector here, or nothing when a policy acts. Dictionaries are one vector already.
    FlattenExtractor: lambda module: [],
    CombinedExtractor: lambda module: _chain(*module.extractors.values()),
    nn.Flatten: lambda module: [],
    nn.Identity: lambda module: [],
    nn.Dropout: lambda module: [],
    SparseSimBaExtractor: lambda module: _chain(module.normalizer, module.encoder),
    DeferredNormalizer: _deferred,
    RunningNormalizer: _running,
    ObservationStatistics: _statistics,
    nn.LeakyReLU: lambda module: [Step("leaky_relu", {"slope": np.array([module.negative_slope], np.float32)})],
    nn.Hardtanh: lambda module: [
        Step("hardtanh", {"min": np.array([module.min_val], np.float32), "max": np.array([module.max_val], np.float32)})
    ],
    RenormEncoder: lambda module: _chain(module.input_norm, module.projection, module.blocks, module.norm),
    SimBaEncoder: lambda module: _chain(module.projection, module.blocks, module.norm),
    SimBaBlock: lambda module: [
        Step("save", {}),
        *_chain(module.norm, module.expand, module.activation, module.contract),
        Step("add", {}),
    ],
    BroNetEncoder: lambda module: _chain(module.projection, module.norm, module.activation, module.blocks),
    BroNetBlock: lambda module: [
        Step("save", {}),
        *_chain(module.expand, module.norm1, module.activation, module.contract, module.norm2),
        Step("add", {}),
    ],
}
