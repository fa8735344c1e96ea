"""Compiled passes of actors choose what torch chooses, whatever happens to the actor in between."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import CrossQ
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.policies import BasePolicy
from test_policies import MODELS, VECTOR_ACTIONS, RandomEnv
from torch import nn

import sb3_sparse
from sb3_sparse import SparseSimBaCrossQPolicy, SparseSimBaPolicy, SparseSimBaTD3Policy
from sb3_sparse.common import compiled_actor
from sb3_sparse.sparsity import sparse_layers

pytest.importorskip("numba")

CASES = [(*pair, {}) for pair in MODELS] + [
    (CrossQ, SparseSimBaCrossQPolicy, {}),
    (SAC, SparseSimBaPolicy, {"network": "bronet", "normalize_observations": True}),
    (SAC, SparseSimBaPolicy, {"share_features_extractor": True, "depth_scale": 2.0}),
]
each_case = pytest.mark.parametrize("model_class, policy, options", CASES)
BOUNDS = [
    VECTOR_ACTIONS,
    spaces.Box(np.array([-2.0, 5.0], np.float32), np.array([1.0, 7.0], np.float32)),
    spaces.Box(-3, 1, (2, 2)),
]
OBSERVATIONS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def make(model_class: Any, policy: Any, env: Any = None, **options: Any) -> Any:
    policy_kwargs = {"sparsity": 0.6, "width_scale": 0.125, **options}
    arguments = {"learning_starts": 16, "batch_size": 8, "buffer_size": 200, "seed": 1, "device": "cpu"}
    return model_class(policy, RandomEnv() if env is None else env, policy_kwargs=policy_kwargs, **arguments)


def is_compiled(model: Any) -> bool:
    return bool(model.actor.compiled._passes)


def assert_as_by_torch(model: Any, observations: Any = OBSERVATIONS, tolerance: float = 1e-6) -> None:
    """Actions are the same, and the random numbers that follow are."""
    for deterministic in (True, False):
        found = []
        for predict in (model.policy.predict, lambda *args, **kwargs: BasePolicy.predict(model.policy, *args, **kwargs)):
            th.manual_seed(2)
            found.append((predict(observations, deterministic=deterministic)[0], th.rand(1)))
        (ours, following), (theirs, expected) = found
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype and th.equal(following, expected)
        assert np.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@each_case
@pytest.mark.parametrize("count", [None, 1, 3, 6])
@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_actions_are_those_of_torch(model_class: Any, policy: Any, options: Any, count: int | None, sparsity: float) -> None:
    model = make(model_class, policy, **{**options, "sparsity": sparsity}).learn(24)
    model.policy.set_training_mode(True)
    observations = OBSERVATIONS[0] if count is None else OBSERVATIONS[:count]
    assert_as_by_torch(model, observations)
    assert_as_by_torch(model, observations.astype(np.float64))
    assert is_compiled(model) and not any(module.training for module in model.policy.modules())


@pytest.mark.parametrize("bounds", BOUNDS)
def test_actions_lie_within_any_bounds(bounds: Any) -> None:
    model = make(SAC, SparseSimBaPolicy, RandomEnv(action_space=bounds))
    for observations in (OBSERVATIONS[0], OBSERVATIONS[:2]):
        assert_as_by_torch(model, observations, tolerance=3e-6)
    assert is_compiled(model)


def move_topology(model: Any) -> None:
    for _, layer in sparse_layers(model.actor):
        inactive = (~layer.topology.mask()).flatten().nonzero().flatten()
        layer.set_topology(th.cat([layer.indices[1:].long(), inactive[-1:]]).sort().values, layer.values.detach() + 0.1)


def replace_memory(model: Any) -> None:
    for parameter in model.actor.parameters():
        parameter.data = parameter.data + 0.1


def replace_parameter(model: Any) -> None:
    norm = model.actor.get_submodule("latent_pi.norm" if hasattr(model.actor, "latent_pi") else "mu.encoder.norm")
    norm.bias = nn.Parameter(norm.bias.detach() + 0.1)


def load(model: Any) -> None:
    model.set_parameters(make(type(model), type(model.policy), mask_seed=7).learn(24).get_parameters())


def update(model: Any) -> None:
    model.train(2, 8)


@pytest.mark.parametrize("change", [move_topology, replace_memory, replace_parameter, load, update])
@pytest.mark.parametrize("model_class, policy", [(SAC, SparseSimBaPolicy), (TD3, SparseSimBaTD3Policy)])
def test_nothing_goes_stale(model_class: Any, policy: Any, change: Callable[[Any], None]) -> None:
    model = make(model_class, policy).learn(24)
    before = model.predict(OBSERVATIONS[:1], deterministic=True)[0]
    change(model)
    assert_as_by_torch(model, OBSERVATIONS[:1])
    assert is_compiled(model) and not np.array_equal(model.predict(OBSERVATIONS[:1], deterministic=True)[0], before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_copies_act_for_themselves(copied: Any) -> None:
    model = make(SAC, SparseSimBaPolicy)
    model.predict(OBSERVATIONS[:1])
    policy = copied(model.policy)
    before = policy.predict(OBSERVATIONS[:1], deterministic=True)[0]
    replace_memory(model)
    model.predict(OBSERVATIONS[:1])
    assert np.array_equal(policy.predict(OBSERVATIONS[:1], deterministic=True)[0], before)


class Halved(SparseSimBaPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return super()._predict(observation, deterministic) / 2


def test_what_is_unusual_is_left_to_torch() -> None:
    model = make(SAC, SparseSimBaPolicy)
    calls: list[Any] = []
    handle = model.actor.mu.register_forward_hook(lambda *_: calls.append("hook"))
    model.predict(OBSERVATIONS[:1])
    handle.remove()
    assert calls == ["hook"]
    expected = model.predict(OBSERVATIONS[:1], deterministic=True)[0]
    model.actor.forward = lambda obs, deterministic=False: th.full((len(obs), 2), 0.5)
    assert np.allclose(model.predict(OBSERVATIONS[:1])[0], 0.5)
    del model.actor.forward
    assert np.array_equal(model.predict(OBSERVATIONS[:1], deterministic=True)[0], expected)
    assert_as_by_torch(make(SAC, Halved), OBSERVATIONS[:1], tolerance=0.0)
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(OBSERVATIONS[:1, :2])
    assert np.isnan(model.predict(OBSERVATIONS[:1] * np.nan)[0]).all()


def test_training_goes_on_as_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(compiled_actor, "kernels_are_available", lambda compiled=compiled: compiled)
        model = make(sb3_sparse.SAC, SparseSimBaPolicy).learn(40)
        assert is_compiled(model) == compiled
        found.append(model)
    for (key, value), other in zip(found[0].policy.state_dict().items(), found[1].policy.state_dict().values(), strict=True):
        th.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=key)
