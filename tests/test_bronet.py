"""BroNet in the place of SimBa, on all policies and the extractor. Counts are those of its authors' sizes for humanoid."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import PPO, SAC, TD3

import sb3_sparse
from sb3_sparse import (
    ReDoCallback,
    SparseSimBaCrossQPolicy,
    SparseSimBaExtractor,
    SparseSimBaPolicy,
    SparseSimBaTD3Policy,
    SparseSimBaTQCPolicy,
)
from sb3_sparse.networks import BroNetEncoder
from sb3_sparse.sparsity import allocate

POLICIES = [
    (SAC, SparseSimBaPolicy),
    (sb3_sparse.SAC, SparseSimBaPolicy),
    (TD3, SparseSimBaTD3Policy),
    (TQC, SparseSimBaTQCPolicy),
]
OBSERVATIONS, ACTIONS = spaces.Box(-np.inf, np.inf, (67,)), spaces.Box(-1, 1, (21,))


def humanoid(**kwargs: Any) -> SparseSimBaPolicy:
    return SparseSimBaPolicy(OBSERVATIONS, ACTIONS, lambda _: 1e-3, network="bronet", **kwargs)


def count(module: th.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_its_authors() -> None:
    policy = humanoid(n_critics=2)
    assert count(policy.critic.qf0) == count(policy.critic.qf1) == 1_101_825
    assert count(policy.actor) == 161_322


@pytest.mark.parametrize("sparsity, kept", [(0.8, 220_375), (0.9, 110_198), (0.95, 55_102)])
def test_sparse_sizes_are_those_that_were_worked_out(sparsity: float, kept: int) -> None:
    critic = humanoid().critic.qf0
    biases = sum(parameter.numel() for parameter in critic.parameters() if parameter.ndim == 1)
    assert sum(allocate(critic, sparsity).values()) + biases == pytest.approx(kept, abs=3)


def test_the_encoder_computes_what_its_parts_say() -> None:
    encoder, x = BroNetEncoder(3, 8, 1), th.randn(5, 3)

    def normal(values: th.Tensor) -> th.Tensor:
        return (values - values.mean(1, keepdim=True)) / (values.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    (block,) = encoder.blocks
    stream = normal(encoder.projection(x)).relu()
    expected = stream + normal(block.contract(normal(block.expand(stream)).relu()))
    th.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-5)


def test_initialisation_is_orthogonal_with_the_gain_of_a_relu() -> None:
    policy = humanoid(width_scale=0.25)
    for layer in (policy.critic.qf0.encoder.blocks[0].expand, policy.critic.qf0.head, policy.actor.mu):
        singular = th.linalg.svdvals(layer.weight.detach())
        th.testing.assert_close(singular, th.full_like(singular, math.sqrt(2)), rtol=1e-4, atol=1e-4)
        assert not layer.bias.any()


def test_defaults_are_its_reference_s() -> None:
    policy = humanoid(width_scale=0.25)
    assert not policy.normalize_observations and policy.critic.optimizer.param_groups[0]["weight_decay"] == 1e-4
    assert humanoid(width_scale=0.25, normalize_observations=True).normalize_observations
    simba = SparseSimBaPolicy(OBSERVATIONS, ACTIONS, lambda _: 1e-3, width_scale=0.25)
    assert simba.normalize_observations and simba.critic.optimizer.param_groups[0]["weight_decay"] == 1e-2


@pytest.mark.parametrize("algorithm, policy", POLICIES)
def test_models_train_and_come_back(algorithm: Any, policy: Any, tmp_path: Path) -> None:
    kwargs = dict(network="bronet", width_scale=0.0625, sparsity=0.5)
    model = algorithm(policy, "Pendulum-v1", learning_starts=10, batch_size=8, policy_kwargs=kwargs, seed=0, device="cpu")
    model.learn(40, callback=ReDoCallback(redo_freq=15, tau=0.5))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert loaded.policy.network == "bronet" and any(isinstance(m, BroNetEncoder) for m in loaded.policy.modules())
    observation = model.env.reset()
    assert (loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]).all()


def test_the_extractor_takes_it() -> None:
    encoder = dict(network="bronet", sparsity=0.5, width_scale=0.125)
    kwargs = dict(net_arch=[], features_extractor_class=SparseSimBaExtractor, features_extractor_kwargs=encoder)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8, policy_kwargs=kwargs).learn(32)
    assert isinstance(model.policy.features_extractor.encoder, BroNetEncoder) and model.policy.features_dim == 32


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="network must be one of 'simba', 'bronet', got 'mlp'"):
        SAC(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs=dict(network="mlp"))
    with pytest.raises(ValueError, match="SimBa encoders only, got network='bronet'"):
        CrossQ(SparseSimBaCrossQPolicy, "Pendulum-v1", policy_kwargs=dict(network="bronet"))
