"""Vectorised environments and their wrappers."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from catch_env import Catch
from dot_env import DotEnv
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from compatibility.environments import VECTORS, AnyEnv
from compatibility.models import (
    DER_PIXELS,
    DRQV2,
    KINDS,
    MODELS,
    OURS,
    STEPS,
    STREAM_AC,
    Model,
    each,
    each_kind,
    predictions,
)
from sb3_sparse.stream_ac import StreamWrapper

VECTORISED = [model for model in MODELS if not model.is_streaming]
each_vectorised = each(VECTORISED, by_default=KINDS)
each_of_vectors = each((model for model in VECTORISED if not model.sees_images), by_default=KINDS)


def normalized(case: Model, n_envs: int = 1, **kwargs: Any) -> VecNormalize:
    # Images are normalised by the networks.
    return VecNormalize(VecMonitor(DummyVecEnv([case.make_env] * n_envs)), norm_obs=not case.sees_images, **kwargs)


@each_vectorised
@pytest.mark.filterwarnings("ignore:.*wrapped in VecNormalize")
def test_vec_normalize(case: Model, tmp_path: Path) -> None:
    env, other = normalized(case, 2), normalized(case, training=False)
    evaluation = EvalCallback(other, eval_freq=4, n_eval_episodes=1, verbose=0)
    checkpoints = CheckpointCallback(STEPS, str(tmp_path), save_vecnormalize=True)
    model = case.build(env).learn(2 * STEPS, callback=[evaluation, checkpoints])
    assert model.get_vec_normalize_env() is env
    # The callback copies statistics before it evaluates.
    assert other.ret_rms.count == 1e-4 + 2 * 16
    stored = tmp_path / f"rl_model_vecnormalize_{2 * STEPS}_steps.pkl"
    loaded_env = VecNormalize.load(str(stored), DummyVecEnv([case.make_env] * 2))
    np.testing.assert_allclose(loaded_env.ret_rms.mean, env.ret_rms.mean)
    model.save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", env=loaded_env, device="cpu")
    assert loaded.get_vec_normalize_env() is loaded_env
    np.testing.assert_array_equal(predictions(loaded, model), predictions(model))
    loaded.learn(2 * STEPS, reset_num_timesteps=False)
    if case.is_off_policy:
        # Stored as the environment returned them, normalised when they are sampled.
        assert model._last_original_obs is not None or not env.norm_obs
        batch = model.replay_buffer.sample(4, env=env)
        assert batch.rewards.abs().max() <= env.clip_reward


@each([STREAM_AC])
def test_wrappers_around_a_stream(case: Model) -> None:
    with pytest.raises(ValueError, match="VecNormalize"):
        case.build(VecNormalize(DummyVecEnv([case.make_env])))
    for wrapper in (VecMonitor, VecCheckNan):
        with pytest.raises(ValueError, match=f"cannot look into a {wrapper.__name__}: wrap the environment before"):
            case.build(wrapper(DummyVecEnv([case.make_env])))
        inside = wrapper(DummyVecEnv([lambda: StreamWrapper(case.make_env())]))
        assert case.build(inside).learn(STEPS).num_timesteps == STEPS


@each_of_vectors
def test_stacked_vectors(case: Model) -> None:
    model = case.build(VecFrameStack(DummyVecEnv([case.make_env] * 2), 3)).learn(2 * STEPS)
    assert model.observation_space.shape == (9,) and predictions(model).shape[0] == 5
    assert np.isfinite(evaluate_policy(model, VecFrameStack(DummyVecEnv([case.evaluation_env]), 3), 1)[0])


@pytest.mark.parametrize("case, env_class, frames", [(DRQV2, DotEnv, 3), (DER_PIXELS, Catch, 4)], ids=["DrQv2", "DER"])
def test_stacked_images(case: Model, env_class: Any, frames: int) -> None:
    class LastFrame(gym.ObservationWrapper):
        def __init__(self, env: gym.Env):
            super().__init__(env)
            self.channels = 3 if env_class is DotEnv else 1
            shape = (self.channels, *env.observation_space.shape[1:])
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return observation[-self.channels :]

    env = VecFrameStack(DummyVecEnv([lambda: LastFrame(env_class())] * 2), frames, channels_order="first")
    model = case.build(env).learn(2 * STEPS)
    assert model.frame_stack == model.replay_buffer.frame_stack == frames


@each_of_vectors
def test_one_entry_of_a_dictionary(case: Model) -> None:
    space = spaces.Dict(vector=VECTORS, rest=spaces.Discrete(3))
    actions = case.make_env().action_space
    env = VecExtractDictObs(DummyVecEnv([lambda: AnyEnv(space, actions)]), "vector")
    model = case.build(env).learn(STEPS)
    assert model.observation_space == VECTORS and model.num_timesteps == STEPS


class Nan(gym.Wrapper):
    """The sixth reward is not a number."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float("nan") if self.steps == 6 else reward, terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        return self.env.unwrapped.action_masks()


@each_kind
def test_numbers_that_are_none(case: Model) -> None:
    env = DummyVecEnv([lambda: Nan(case.make_env())])
    # A stream is checked by the algorithm itself.
    model = case.build(env if case.is_streaming else VecCheckNan(env, raise_exception=True))
    with pytest.raises(ValueError, match=r"found nan in rewards|returned a reward of nan at step 6"):
        model.learn(STEPS)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@each(model for model in KINDS if not model.is_streaming)
def test_other_processes(case: Model) -> None:
    env = SubprocVecEnv([case.make_env] * 2, start_method="fork")
    try:
        model = case.build(env).learn(2 * STEPS)
        assert model.num_timesteps == 2 * STEPS and model._n_updates > 0
    finally:
        env.close()


@each_kind
def test_info_of_the_end_reaches_the_buffers(case: Model) -> None:
    env = DummyVecEnv([case.evaluation_env])
    seen: list[dict[str, Any]] = []
    case.build(env).learn(2 * STEPS, callback=lambda found, _: seen.extend(found["infos"]) or True)
    (first, *_) = [info for info in seen if "terminal_observation" in info]
    space = case.make_env().observation_space
    assert first["terminal_observation"].shape[-1] >= space.shape[-1] and "episode" in first
    assert first["TimeLimit.truncated"] is (case is not DER_PIXELS)


@each(model for model in OURS if not model.is_streaming)
def test_one_environment_is_a_vector_of_one(case: Model) -> None:
    alone = case.build().learn(STEPS)
    vector = case.build(VecMonitor(DummyVecEnv([case.make_env]))).learn(STEPS)
    np.testing.assert_array_equal(predictions(vector), predictions(alone))
    returns = [[info["r"] for info in model.ep_info_buffer] for model in (alone, vector)]
    assert returns[0] == pytest.approx(returns[1], rel=1e-4)
