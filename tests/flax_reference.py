"""What the reference implementation (flax) computed, and how its parameters are named here."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.networks import SimBaCritic
from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.sac.policies import SimBaActor
from sb3_sparse.sparsity import SparseLinear, Topology
from sb3_sparse.td3.policies import SimBaDeterministicActor

# Where encoder and heads sit in the networks of this package.
PREFIXES: dict[type[nn.Module], tuple[str, list[str]]] = {
    SimBaActor: ("latent_pi", ["mu", "log_std"]),
    SimBaDeterministicActor: ("mu.encoder", ["mu.head"]),
    SimBaCritic: ("qf0.encoder", ["qf0.head"]),
}


def read(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "data" / name).read_text())


def build(network_class: type[nn.Module], obs_dim: int, action_dim: int, size: SimBaSize) -> Any:
    observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,))
    extractor = FlattenExtractor(observation_space)
    return network_class(
        observation_space=observation_space,
        action_space=spaces.Box(-1, 1, (action_dim,)),
        features_extractor=extractor,
        features_dim=extractor.features_dim,
        normalizer=ObservationNormalizer(observation_space, frozen=True),
        size=size,
        **({"n_critics": 1} if network_class is SimBaCritic else {}),
    )


def layer_name(network: nn.Module, path: str) -> str:
    encoder, heads = PREFIXES[type(network)]
    if match := re.match(r"predictor/Dense_(\d)", path):
        return heads[int(match[1])]
    if match := re.match(r"encoder/ResidualBlock_(\d)/(\w+)/", path):
        return f"{encoder}.blocks.{match[1]}." + {"LayerNorm_0": "norm", "Dense_0": "expand", "Dense_1": "contract"}[match[2]]
    return f"{encoder}." + {"Dense_0": "projection", "LayerNorm_0": "norm"}[path.split("/")[1]]


@th.no_grad()
def load(network: nn.Module, parameters: dict[str, Any], masks: dict[str, Any]) -> None:
    """Copy the reference's parameters (kernels are (in, out)) and prune what has a mask."""
    loaded = set()
    for path, value in parameters.items():
        layer = network.get_submodule(layer_name(network, path))
        parameter = layer.bias if path.endswith("bias") else layer.weight
        loaded.add(parameter)
        parameter.copy_(th.tensor(value).t() if path.endswith("kernel") else th.tensor(value))
    assert loaded == set(network.parameters())
    for path, mask in masks.items():
        flat = th.tensor(mask).t().flatten().nonzero().flatten()
        layer = network.get_submodule(layer_name(network, path))
        SparseLinear.convert(layer, Topology(flat, layer.weight.shape))


def assert_parameters(network: nn.Module, parameters: dict[str, Any]) -> None:
    for path, value in parameters.items():
        layer = network.get_submodule(layer_name(network, path))
        given = layer.bias if path.endswith("bias") else layer.weight
        expected = th.tensor(value).t() if path.endswith("kernel") else th.tensor(value)
        th.testing.assert_close(given.detach(), expected, rtol=1e-5, atol=1e-5, msg=lambda text, path=path: f"{path}: {text}")
