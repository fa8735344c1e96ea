"""Sparsities at which networks of different sizes have equally many learnable parameters (paper, section 3.1)."""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from torch import nn

import sb3_sparse.envs  # noqa: F401, registers the DeepMind Control Suite
from sb3_sparse.common.architecture import SimBaSize, simba_sizes
from sb3_sparse.networks import SimBaEncoder
from sb3_sparse.sparsity import allocate

# Algorithm -> output layers of the actor, and number of critics. The paper solves for equal parameters with the first two.
_HEADS = {"sac": (2, 1), "ddpg": (1, 1), "td3": (1, 2)}
_SIZES = ("width_scale", "depth_scale")
# Sparsities are rounded to this, which is a hundredth of a percent of the parameters.
_DIGITS = 6


def equal_sparsity(algorithm: str, task: str, policy: Mapping[str, Any], anchor: Mapping[str, float]) -> float:
    """
    Solve for the sparsity at which a network has as many learnable parameters as a dense anchor.

    The same sparsity holds for actor and critic, as everywhere in the paper; the numbers of both together are equal.

    :param algorithm: The zoo's name of the algorithm
    :param task: Environment id, whose observations and actions the networks are built for
    :param policy: Size of the network, and how it is pruned
    :param anchor: Size of the dense network: ``width_scale``, ``depth_scale``
    :return: Sparsity; 0 for the anchor's own size
    :raises ValueError: if the network is smaller than the anchor, or the algorithm has no such network.
    """
    if algorithm not in _HEADS:
        raise ValueError(f"equal_parameters is for {', '.join(_HEADS)}, not for {algorithm!r}: give a sparsity.")
    if not isinstance(anchor, Mapping) or set(anchor) - set(_SIZES):
        raise ValueError(f"equal_parameters names the anchor's width_scale and depth_scale, got {anchor!r}.")
    sizes = {key: policy[key] for key in _SIZES if key in policy}
    kept = learnable_parameters(algorithm, task, anchor, 0.0)
    total = learnable_parameters(algorithm, task, sizes, 0.0)
    if total < kept:
        raise ValueError(
            f"equal_parameters: a network with {dict(sizes)} has {total:,} parameters, fewer than the anchor's {kept:,}."
        )
    pruning = {key: policy[key] for key in ("distribution", "budget") if key in policy}
    low, high = 0.0, 1.0
    while high - low > 10.0**-_DIGITS / 4:
        middle = (low + high) / 2
        if _fits(algorithm, task, sizes, middle, kept, pruning):
            low = middle
        else:
            high = middle
    return round(low, _DIGITS)


def _fits(algorithm: str, task: str, sizes: Mapping[str, float], sparsity: float, kept: int, pruning: Any) -> bool:
    """Whether a network has at least so many parameters at a sparsity."""
    try:
        return learnable_parameters(algorithm, task, sizes, sparsity, **pruning) >= kept
    except ValueError:  # what has to stay dense is more than this sparsity leaves
        return False


def learnable_parameters(algorithm: str, task: str, sizes: Mapping[str, float], sparsity: float, **pruning: str) -> int:
    """
    Learnable parameters of actor and critic, without building them.

    :param algorithm: The zoo's name of the algorithm
    :param task: Environment id
    :param sizes: ``width_scale``, ``depth_scale``
    :param sparsity: Sparsity of both
    :param pruning: ``distribution``, ``budget``
    """
    count = 0
    for network, copies in _networks(algorithm, task, json.dumps(dict(sizes), sort_keys=True)):
        active = allocate(network, sparsity, **pruning)  # type: ignore[arg-type]
        count += copies * sum(active.get(name, parameter.numel()) for name, parameter in network.named_parameters())
    return count


@functools.lru_cache(maxsize=64)
def _networks(algorithm: str, task: str, sizes: str) -> tuple[tuple[nn.Module, int], tuple[nn.Module, int]]:
    """Actor and critic on torch's meta device, which has shapes and no data, and how many of each there are."""
    observations, actions = _dimensions(task)
    actor, critic = simba_sizes(**{"width_scale": 1.0, "depth_scale": 1.0, **json.loads(sizes)})
    heads, critics = _HEADS[algorithm]
    return (_network(observations, actor, heads, actions), 1), (_network(observations + actions, critic, 1, 1), critics)


def _network(inputs: int, size: SimBaSize, heads: int, outputs: int) -> nn.Module:
    with th.device("meta"):
        encoder = SimBaEncoder(inputs, size.hidden_dim, size.num_blocks)
        return nn.ModuleList([encoder, *(nn.Linear(size.hidden_dim, outputs) for _ in range(heads))])


@functools.lru_cache(maxsize=64)
def _dimensions(task: str) -> tuple[int, int]:
    env = gym.make(task)
    observations, actions = spaces.flatdim(env.observation_space), math.prod(env.action_space.shape or ())
    env.close()
    return observations, actions
