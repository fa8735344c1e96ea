"""SB3's callbacks: that each does what it does elsewhere, and what a callback sees."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from compatibility.environments import CHOICES, AnyEnv
from compatibility.models import (
    STEPS,
    STREAM_AC,
    Model,
    each_kind,
    each_model_at_leisure,
    each_model_in_time,
    each_of_ours,
    predictions,
)

HAS_PROGRESS_BARS = all(importlib.util.find_spec(name) for name in ("rich", "tqdm"))


class Spy(BaseCallback):
    """Notes when it was called, and what there was to see."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.steps: list[int] = []
        self.seen: set[str] = set()

    def _on_training_start(self) -> None:
        self.calls.append("training start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout start")

    def _on_step(self) -> bool:
        self.calls.append("step")
        self.steps.append(self.num_timesteps)
        self.seen |= set(self.locals)
        assert isinstance(self.training_env, VecEnv) and isinstance(self.logger, Logger)
        assert len(self.locals["dones"]) == len(self.locals["infos"]) == len(self.locals["rewards"]) == 1
        space = self.training_env.action_space
        assert np.shape(self.locals["actions"]) == (1, *space.shape)
        assert self.locals["actions"].dtype.kind == np.dtype(space.dtype).kind
        return True

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout end")

    def _on_training_end(self) -> None:
        self.calls.append("training end")


@each_model_at_leisure
def test_all_of_them_together(case: Model, tmp_path: Path) -> None:
    every = Spy()
    after = StopTrainingOnNoModelImprovement(max_no_improvement_evals=100, min_evals=100)
    evaluation = EvalCallback(
        case.evaluation_env(),
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
        callback_after_eval=after,
        eval_freq=8,
        n_eval_episodes=1,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(STEPS, str(tmp_path), name_prefix="run", save_replay_buffer=case.is_off_policy)
    callbacks = [evaluation, checkpoints, EveryNTimesteps(4, every), StopTrainingOnMaxEpisodes(100), LogEveryNTimesteps(5)]
    model = case.build().learn(STEPS, callback=callbacks, progress_bar=HAS_PROGRESS_BARS)
    assert model.num_timesteps == STEPS
    assert every.steps == [4, 8, 12, 16]
    assert evaluation.evaluations_timesteps == [8, 16] and after.n_calls == 2
    assert len(np.load(tmp_path / "evaluations.npz")["results"]) == 2
    written = {"evaluations.npz", "best_model.zip", f"run_{STEPS}_steps.zip"}
    buffers = {f"run_replay_buffer_{STEPS}_steps.pkl"} if case.is_off_policy else set()
    assert {path.name for path in tmp_path.iterdir()} == written | buffers
    loaded = case.algorithm.load(tmp_path / f"run_{STEPS}_steps", env=case.make_env(), device="cpu")
    assert loaded.num_timesteps == STEPS
    if case.is_off_policy:
        loaded.load_replay_buffer(tmp_path / f"run_replay_buffer_{STEPS}_steps")  # type: ignore[attr-defined]
    loaded.learn(STEPS, reset_num_timesteps=False)
    best = case.algorithm.load(tmp_path / "best_model", device="cpu")
    assert predictions(best, model).shape == predictions(model).shape


@each_model_in_time
def test_when_they_are_called(case: Model) -> None:
    spy = Spy()
    model = case.build().learn(STEPS, callback=spy)
    assert (spy.calls[0], spy.calls[1], spy.calls[-1]) == ("training start", "rollout start", "training end")
    assert spy.n_calls == spy.calls.count("step") == STEPS and spy.steps == list(range(1, STEPS + 1))
    assert spy.calls.count("training start") == spy.calls.count("training end") == 1
    starts, ends = spy.calls.count("rollout start"), spy.calls.count("rollout end")
    assert starts == ends or (case.is_streaming and starts == ends + 1)  # there, a rollout is an episode
    assert {"infos", "dones", "rewards", "new_obs", "actions"} <= spy.seen
    assert spy.model is model
    # In a run that goes on, it goes on counting.
    model.learn(STEPS, callback=spy, reset_num_timesteps=False)
    assert spy.steps[-1] == 2 * STEPS


def test_actions_of_streams_are_those_of_sb3() -> None:
    spy = Spy()
    STREAM_AC.build(AnyEnv(action_space=CHOICES)).learn(STEPS, callback=spy)
    STREAM_AC.build(AnyEnv(action_space=spaces.Box(-1.0, 1.0, (2, 2)))).learn(STEPS, callback=spy)
    assert spy.n_calls == 2 * STEPS


@each_model_at_leisure
def test_stopping(case: Model) -> None:
    length = 9 if case.name == "DER, pixels" else 8
    assert case.build().learn(10 * STEPS, callback=StopTrainingOnMaxEpisodes(1)).num_timesteps == length
    stopped = case.build()
    stopped.learn(10 * STEPS, callback=lambda *_: stopped.num_timesteps < 5)
    assert stopped.num_timesteps == 5


@each_kind
def test_stopping_by_evaluations(case: Model) -> None:
    best = StopTrainingOnRewardThreshold(-1e9)
    evaluation = EvalCallback(case.evaluation_env(), callback_on_new_best=best, eval_freq=4, n_eval_episodes=1, verbose=0)
    assert case.build().learn(10 * STEPS, callback=evaluation).num_timesteps == 4
    after = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    evaluation = EvalCallback(case.evaluation_env(), callback_after_eval=after, eval_freq=1, n_eval_episodes=1, verbose=0)
    evaluation.best_mean_reward = 1e9
    assert case.build().learn(10 * STEPS, callback=evaluation).num_timesteps <= 4


@each_of_ours
@pytest.mark.skipif(not HAS_PROGRESS_BARS, reason="needs rich and tqdm")
def test_progress_bars(case: Model) -> None:
    assert case.build().learn(STEPS, progress_bar=True).num_timesteps == STEPS


@each_kind
def test_lists_within_lists(case: Model) -> None:
    inner, outer = Spy(), Spy()
    case.build().learn(STEPS, callback=CallbackList([CallbackList([inner]), outer]))
    assert inner.steps == outer.steps == list(range(1, STEPS + 1))


class Poke(BaseCallback):
    """Predicts and evaluates in the middle of training."""

    def _on_step(self) -> bool:
        self.model.predict(self.locals["new_obs"], deterministic=True)
        return True


@each_of_ours
def test_looking_on_changes_nothing(case: Model) -> None:
    plain, watched = case.build().learn(STEPS), case.build().learn(STEPS, callback=Poke())
    for (name, one), other in zip(plain.policy.state_dict().items(), watched.policy.state_dict().values(), strict=True):
        assert one.equal(other), name


@each_kind
def test_errors_in_a_callback_are_the_users(case: Model) -> None:
    def fail(_locals: Any, _globals: Any) -> bool:
        raise RuntimeError("of the user")

    model = case.build()
    with pytest.raises(RuntimeError, match="of the user"):
        model.learn(STEPS, callback=fail)
    assert model.learn(STEPS).num_timesteps == STEPS
