"""Learning: one environment and several, what is counted, when updates come, noise, schedules, temperatures."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from compatibility.environments import ACTIONS
from compatibility.models import (
    KINDS,
    MODELS,
    OURS,
    OWN_ALGORITHMS,
    SIMBA_POLICIES,
    STEPS,
    Model,
    each,
    each_kind,
    each_model,
    each_model_at_leisure,
    each_model_in_time,
    each_of_ours,
)
from sb3_sparse.sparsity import sparse_layers


def weights(model: Any) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@each_model
def test_learning(case: Model) -> None:
    model = case.build()
    before, masks = weights(model).clone(), [layer.indices.clone() for _, layer in sparse_layers(model.policy)]
    assert model.learn(STEPS) is model
    assert model.num_timesteps == STEPS and model._n_updates > 0
    assert not th.equal(weights(model), before) and weights(model).isfinite().all()
    assert masks and all(
        th.equal(layer.indices, mask) for mask, (_, layer) in zip(masks, sparse_layers(model.policy), strict=True)
    )


@each((model for model in MODELS if not model.is_streaming), by_default=[*OURS, *KINDS])
def test_several_environments(case: Model) -> None:
    model = case.build(VecMonitor(DummyVecEnv([case.make_env] * 2))).learn(2 * STEPS)
    assert model.n_envs == 2 and model.num_timesteps == 2 * STEPS and model._n_updates > 0
    assert len(model.ep_info_buffer) >= 2
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(case.make_env())


@each(model for model in MODELS if model.is_streaming)
def test_a_stream_is_one_environment(case: Model) -> None:
    with pytest.raises(ValueError, match="one environment"):
        case.build(DummyVecEnv([case.make_env] * 2))


@each_kind
def test_environments_are_wrapped_as_sb3_does(case: Model) -> None:
    model = case.build()
    assert isinstance(model.get_env(), VecEnv) and model.get_env().env_is_wrapped(Monitor) == [True]
    assert model.env is model.get_env() and model.get_vec_normalize_env() is None


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@each((model for model in MODELS if not model.sees_images), by_default=[*OURS, *KINDS])
def test_environments_by_name(case: Model, env_id: str) -> None:
    is_discrete = env_id == "CartPole-v1"
    takes_any = case.is_streaming or (case.is_on_policy and case.algorithm is not MaskablePPO)
    if is_discrete != case.is_discrete and not takes_any:
        with pytest.raises((AssertionError, ValueError), match=r"Discrete|Box"):
            case.build(env_id)
    elif case.algorithm is MaskablePPO:
        with pytest.raises(ValueError, match="does not support action masking"):
            case.build(env_id).learn(STEPS)
    else:
        assert case.build(env_id).learn(STEPS).num_timesteps >= STEPS


@each_model_in_time
def test_learning_in_two_calls(case: Model) -> None:
    model = case.build().learn(STEPS)
    updates = model._n_updates
    model.learn(STEPS, reset_num_timesteps=False)
    assert model.num_timesteps == 2 * STEPS and model._n_updates > updates
    model.learn(STEPS)
    assert model.num_timesteps == STEPS


@each(model for model in OURS if model.is_off_policy)
@pytest.mark.parametrize(
    "train_freq, gradient_steps, updates",
    # Two episodes of 8 steps: one is the warm-up, one is learned from.
    [(1, 1, 8), (4, 3, 6), ((4, "step"), -1, 8), ((1, "episode"), 5, 5), ((1, "episode"), -1, 8)],
)
def test_updates_are_counted(case: Model, train_freq: Any, gradient_steps: int, updates: int) -> None:
    env = gym.wrappers.TimeLimit(case.make_env(), 8)
    model = case.build(env, train_freq=train_freq, gradient_steps=gradient_steps).learn(STEPS)
    assert model._n_updates == updates
    assert model.logger.name_to_value.get("train/n_updates", updates) == updates


@each(model for model in MODELS if model.is_on_policy)
def test_updates_of_on_policy_algorithms_are_those_of_stock_ones(case: Model) -> None:
    stock = case.algorithm(
        "MlpLstmPolicy" if case.is_recurrent else "MlpPolicy", case.make_env(), seed=0, device="cpu", **case.arguments
    )
    assert case.build().learn(3 * STEPS)._n_updates == stock.learn(3 * STEPS)._n_updates > 0


@each(SIMBA_POLICIES)
@pytest.mark.parametrize("noise_class", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_action_noise(case: Model, noise_class: Any, n_envs: int) -> None:
    # A mean noise beyond all bounds, so that every action is the upper bound.
    noise = noise_class(np.full(2, 10.0), np.full(2, 1e-3))
    given = VectorizedActionNoise(noise, n_envs) if n_envs > 1 and noise_class is NormalActionNoise else noise
    model = case.build(DummyVecEnv([case.make_env] * n_envs), action_noise=given)
    taken: list[np.ndarray] = []
    model.learn(n_envs * STEPS, callback=lambda found, _: taken.append(found["actions"]) or True)
    if noise_class is NormalActionNoise:  # the other one takes its time
        assert (np.stack(taken) == ACTIONS.high).all()
    assert isinstance(model.action_noise, VectorizedActionNoise if n_envs > 1 else noise_class)


@each(OWN_ALGORITHMS)
def test_action_noise_is_refused_where_exploration_is_the_algorithms_own(case: Model) -> None:
    with pytest.raises(TypeError, match="action_noise"):
        case.build(action_noise=NormalActionNoise(np.zeros(2), np.ones(2)))


# A stream's learning rate bounds its steps and is not logged.
@each((model for model in MODELS if not model.is_streaming), by_default=[*OURS, *KINDS])
def test_learning_rate_schedules(case: Model) -> None:
    model = case.build(learning_rate=lambda remaining: 1e-3 * remaining)
    rates: list[float] = []

    def note(_locals: Any, _globals: Any) -> bool:
        rates.append(model.logger.name_to_value.get("train/learning_rate", np.nan))
        return True

    model.learn(2 * STEPS, callback=note)
    logged = np.array([rate for rate in rates if np.isfinite(rate)])
    assert len(logged) > 0 and (np.diff(logged) <= 0).all()
    assert logged[-1] == pytest.approx(1e-3 * model._current_progress_remaining, abs=3e-4)
    assert logged[0] > logged[-1] or case.is_on_policy


TEMPERATURES: list[dict[str, Any]] = [
    {"ent_coef": "auto"},
    {"ent_coef": "auto_0.01"},
    {"ent_coef": 0.01},
    {"ent_coef": "auto", "target_entropy": -50.0},
    {"target_update_interval": 3},
]


@each(model for model in MODELS if "SAC" in model.name or "TQC" in model.name)
@pytest.mark.parametrize("changes", TEMPERATURES, ids=str)
def test_temperatures(case: Model, changes: dict[str, Any]) -> None:
    model = case.build(**changes).learn(STEPS)
    assert ("train/ent_coef_loss" in model.logger.name_to_value) == (model.ent_coef_optimizer is not None)
    if changes.get("ent_coef") == 0.01:
        assert model.logger.name_to_value["train/ent_coef"] == pytest.approx(0.01)
    if "target_entropy" in changes:
        assert model.target_entropy == -50.0
        # Far more entropy than asked for: the temperature falls.
        assert float(model.log_ent_coef.detach()) < 0.0


@each_model_at_leisure
def test_a_seed_is_not_needed(case: Model) -> None:
    assert case.build(seed=None).learn(STEPS)._n_updates > 0


@each_of_ours
def test_devices(case: Model) -> None:
    assert case.build(device=th.device("cpu")).policy.device == th.device("cpu")
    model = case.build(device="auto")
    expected = "cpu" if case.is_streaming or not th.cuda.is_available() else "cuda"
    assert model.device.type == model.policy.device.type == expected
    assert case.make_env().action_space.contains(model.predict(case.make_env().reset(seed=0)[0])[0])


@each_model
def test_built_without_environment(case: Model) -> None:
    # As SB3's own load() does.
    model = case.algorithm(case.policy, None, device="cpu", _init_setup_model=False, **case.arguments)  # type: ignore[call-arg]
    assert not hasattr(model, "policy") or model.policy is None
    assert model.env is None
