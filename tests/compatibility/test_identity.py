"""Every model learns: actions that are to be what was observed."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from compatibility.models import MODELS, Model
from sb3_sparse.stream_ac import StreamWrapper


class Choose(gym.Env):
    """One of three entries of the observation is 1: that is the action to take, for a reward of 1. Episodes have ten steps."""

    observation_space = spaces.Box(0.0, 1.0, (3,))
    action_space: spaces.Space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        self.right = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.right]

    def _reward(self, action: Any) -> float:
        return float(action == self.right)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self._reward(action)
        self.steps += 1
        return self._draw(), reward, False, self.steps == 10, {}

    def action_masks(self) -> np.ndarray:
        return np.ones(3, bool)


class Place(Choose):
    """The same with a continuous action: -0.7, 0 or 0.7; the reward is 1 less the distance to it."""

    action_space = spaces.Box(-1.0, 1.0, (1,))

    def _reward(self, action: Any) -> float:
        return 1.0 - abs(float(action[0]) - 0.7 * (self.right - 1))


# Random actions get 3.3 of 10 (discrete) and 4 of 10 (continuous).
GOAL = 8.0
LEARNING: dict[str, dict[str, Any]] = {
    "off-policy": {"learning_starts": 200, "batch_size": 64, "buffer_size": 3_000, "learning_rate": 3e-3, "gamma": 0.0},
    "on-policy": {"n_steps": 64, "learning_rate": 3e-3, "gamma": 0.0},
    "stream": {"gamma": 0.0, "ent_coef": 0.001},
}


def arguments(case: Model) -> dict[str, Any]:
    name = case.algorithm.__name__
    if case.is_streaming:
        return LEARNING["stream"]
    if case.is_on_policy:
        return LEARNING["on-policy"] | ({"n_steps": 8} if name == "A2C" else {"batch_size": 64})
    targets = {"target_update_interval": 50} if case.is_discrete else {}
    exploration = {"exploration_final_eps": 0.1} if name in ("DQN", "QRDQN") else {}
    return LEARNING["off-policy"] | targets | exploration


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(model, id=model.name) for model in MODELS if not model.sees_images])
def test_every_model_learns(case: Model) -> None:
    # The Gaussian of a stream's actor is not squashed, and wanders beyond the bounds of so small a task.
    task = Choose if case.is_discrete or case.is_streaming else Place
    model = case.build(task(), **arguments(case))
    model.learn(20_000 if case.is_streaming else 10_000 if case.is_on_policy else 2_000)
    env: Any = Monitor(task())
    reward, _ = evaluate_policy(model, StreamWrapper(env) if case.is_streaming else env, n_eval_episodes=10)
    assert reward > GOAL
