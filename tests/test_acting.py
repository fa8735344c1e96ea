"""Acting takes short cuts: it must not change what is done."""

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import Actor
from test_policies import MODELS, RandomEnv, each_model, make
from torch import nn

from sb3_sparse.sparsity import to_dense
from sb3_sparse.sparsity.products import choice as products
from sb3_sparse.sparsity.products.choice import available_back_ends

OBSERVATIONS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("model_class, policy", [pair for pair in MODELS if pair[0] in (SAC, TQC)])
def test_actions_are_those_of_the_distribution(model_class, policy, deterministic: bool) -> None:
    model = make(model_class, policy, policy_kwargs=dict(sparsity=0.5)).learn(30)
    observations = th.as_tensor(OBSERVATIONS)
    th.manual_seed(3)
    expected = Actor.forward(model.actor, observations, deterministic)
    following = th.rand(1)
    th.manual_seed(3)
    assert th.equal(model.actor(observations, deterministic), expected)
    assert th.equal(th.rand(1), following), "the random numbers that follow are the same, too"


@pytest.mark.parametrize("back_end", [back_end.name for back_end in available_back_ends()] + ["dense"])
@each_model
def test_actions_follow_every_update(monkeypatch, model_class, policy, back_end: str) -> None:
    # Fused optimizers and SB3's polyak_update write without a trace: what is derived from values must not be kept.
    found = {found.name: found for found in available_back_ends()}.get(back_end)
    monkeypatch.setattr(products, "back_end_for", lambda topology: found)
    model = make(model_class, policy, policy_kwargs=dict(sparsity=0.5)).learn(30)
    actor = model.actor
    layer = next(module for module in actor.modules() if hasattr(module, "topology"))
    for _ in range(3):
        before, version = model.predict(OBSERVATIONS[:1], deterministic=True)[0], layer.values._version
        model.train(2, 16)
        after = model.predict(OBSERVATIONS[:1], deterministic=True)[0]
        assert not np.array_equal(before, after)
        assert layer.values._version == version, "otherwise nothing is shown here"
        model.policy.actor, sparse = to_dense(actor), actor
        expected = model.predict(OBSERVATIONS[:1], deterministic=True)[0]
        model.policy.actor = sparse
        assert np.allclose(after, expected, atol=1e-5)


class WithDropout(BaseFeaturesExtractor):
    """An extractor that acts otherwise than it learns, by a module and by a method of its own."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.layers = nn.Sequential(nn.Flatten(), nn.ModuleDict({"inner": nn.Dropout(0.5)})["inner"])
        self.calls: list[bool] = []

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)

    def train(self, mode: bool = True) -> "WithDropout":
        if hasattr(self, "calls"):
            self.calls.append(mode)
        return super().train(mode)


@each_model
def test_training_mode_reaches_every_module(model_class, policy) -> None:
    model = make(model_class, policy, env=RandomEnv(), policy_kwargs=dict(features_extractor_class=WithDropout))
    networks = [model.actor, model.critic]
    for mode in (False, True, False):
        model.policy.set_training_mode(mode)
        for network in networks:
            assert {module.training for module in network.modules()} == {mode}
            assert network.features_extractor.calls[-1] == mode
    # One that was changed by hand is set back.
    model.actor.features_extractor.layers.train()
    assert np.array_equal(*(model.predict(OBSERVATIONS, deterministic=True)[0] for _ in range(2)))
    assert model.actor.train(False) is model.actor
