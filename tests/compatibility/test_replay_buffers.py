"""What is stored and what is learned from: hindsight, n-step returns, ends of episodes, buffers of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from compatibility.environments import CHOICES, AnyEnv
from compatibility.models import (
    DER_VECTORS,
    DRQV2,
    KINDS,
    MODELS,
    SIMBA_POLICIES,
    STEPS,
    STREAM_AC,
    Model,
    each,
    predictions,
)

# Stock classes and ours that take SB3's replay buffers.
STORING = [model for model in MODELS if model.is_off_policy and model not in (DRQV2, DER_VECTORS) and not model.sees_images]
each_storing = each(STORING, by_default=[*KINDS, *SIMBA_POLICIES])
# CrossQ has no MultiInputPolicy.
each_with_goals = each((model for model in STORING if not model.name.endswith("CrossQ")), by_default=[*KINDS, *SIMBA_POLICIES])


def goals(case: Model, n_envs: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=not case.is_discrete, max_steps=4)] * n_envs)


@each_with_goals
def test_hindsight(case: Model, tmp_path: Path) -> None:
    kwargs = {"n_sampled_goal": 3, "goal_selection_strategy": "future"}
    changes: dict[str, Any] = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": kwargs}
    model = case.build(goals(case, 2), **changes).learn(2 * STEPS)
    assert isinstance(model.replay_buffer, HerReplayBuffer) and model._n_updates > 0
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = case.algorithm.load(tmp_path / "model", env=goals(case, 2), device="cpu")
    np.testing.assert_array_equal(predictions(loaded, model), predictions(model))
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=True)  # type: ignore[attr-defined]
    assert loaded.replay_buffer.size() == model.replay_buffer.size()  # type: ignore[attr-defined]
    loaded.learn(2 * STEPS, reset_num_timesteps=False)


@each([DRQV2, DER_VECTORS, STREAM_AC])
def test_hindsight_elsewhere(case: Model) -> None:
    changes = {"replay_buffer_class": HerReplayBuffer} if case is DRQV2 else {}
    with pytest.raises(ValueError, match=r"learns from images, got .* take the image out|a Box.*flatten|give n_envs=1"):
        case.build(goals(case, 2), **changes)
    if case is not DRQV2:
        with pytest.raises(TypeError, match="replay_buffer_class"):
            case.build(replay_buffer_class=HerReplayBuffer)


@each(
    [model for model in STORING if model.name not in ("sparsified CrossQ", "extractor in CrossQ")],
    by_default=KINDS + SIMBA_POLICIES,
)
def test_returns_of_several_steps(case: Model) -> None:
    model = case.build(n_steps=3).learn(2 * STEPS)
    buffer = model.replay_buffer
    assert buffer.n_steps == 3 and model._n_updates > 0
    # By hand: the reward of the stored steps, discounted, within the episode of 8 steps.
    rewards = buffer.rewards[:, 0]
    samples = buffer._get_samples(np.array([0, 6]))
    gamma = model.gamma
    expected = [rewards[0] + gamma * rewards[1] + gamma**2 * rewards[2], rewards[6] + gamma * rewards[7]]
    assert samples.rewards.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@each([model for model in STORING if not model.is_discrete], by_default=[*KINDS, *SIMBA_POLICIES])
@pytest.mark.parametrize("terminates", [True, False])
def test_ends_of_episodes(case: Model, terminates: bool) -> None:
    model = case.build(AnyEnv(length=4, terminates=terminates)).learn(STEPS)
    buffer = model.replay_buffer
    assert buffer.dones.sum() == STEPS / 4 and buffer.timeouts.sum() == (0 if terminates else STEPS / 4)
    # Values are cut at a real end only.
    samples = buffer._get_samples(np.arange(STEPS))
    assert samples.dones.sum() == (STEPS / 4 if terminates else 0)


@each_storing
def test_memory_can_be_saved(case: Model) -> None:
    kwargs = {"handle_timeout_termination": False}
    model = case.build(optimize_memory_usage=True, replay_buffer_kwargs=kwargs).learn(STEPS)
    assert model.replay_buffer.optimize_memory_usage and not hasattr(model.replay_buffer, "next_observations")


@each_storing
def test_buffers_of_ones_own(case: Model) -> None:
    class Own(ReplayBuffer):
        batches = 0

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            self.batches += 1
            return super().sample(*args, **kwargs)

    model = case.build(replay_buffer_class=Own).learn(STEPS)
    assert type(model.replay_buffer) is Own and model.replay_buffer.batches == model._n_updates


@each_with_goals
def test_dictionaries_are_stored_entry_by_entry(case: Model) -> None:
    model = case.build(goals(case)).learn(STEPS)
    assert type(model.replay_buffer) is DictReplayBuffer
    assert model.replay_buffer.observations.keys() == {"observation", "achieved_goal", "desired_goal"}


@each_storing
def test_full_buffers_forget_the_oldest(case: Model) -> None:
    model = case.build(buffer_size=10).learn(2 * STEPS)
    assert model.replay_buffer.full and model.replay_buffer.size() == 10
    assert th.isfinite(model.replay_buffer.sample(64).rewards).all()


@each([DER_VECTORS])
def test_rainbow_s_own_buffer(case: Model) -> None:
    for name in ("replay_buffer_class", "optimize_memory_usage"):
        with pytest.raises(TypeError, match=name):
            case.build(AnyEnv(action_space=CHOICES), **{name: ReplayBuffer})


@each([DRQV2])
def test_images_own_buffer(case: Model) -> None:
    with pytest.raises(TypeError, match="optimize_memory_usage"):
        case.build(optimize_memory_usage=True)
    model = case.build(replay_buffer_class=ReplayBuffer, n_steps=1).learn(STEPS)
    assert type(model.replay_buffer) is ReplayBuffer and model._n_updates > 0
