"""An environment of any spaces, and one with goals."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTORS = spaces.Box(-np.inf, np.inf, (3,))
ACTIONS = spaces.Box(-1.0, 1.0, (2,))
CHOICES = spaces.Discrete(4)


class AnyEnv(gym.Env):
    """
    Observations are drawn from the space, by the environment's own generator; the reward is the mean action. Actions that are
    not in their space are errors.

    :param observation_space: Observation space
    :param action_space: Action space
    :param length: Steps of an episode
    :param terminates: Whether episodes end by themselves, not by a time limit
    """

    def __init__(
        self,
        observation_space: spaces.Space = VECTORS,
        action_space: spaces.Space = ACTIONS,
        length: int = 8,
        terminates: bool = False,
    ):
        self.observation_space, self.action_space = observation_space, action_space
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        self.steps += 1
        ends = self.steps == self.length
        info = {"is_success": True} if ends else {}
        return self.observation_space.sample(), float(np.mean(action)), ends and self.terminates, ends, info

    def action_masks(self) -> np.ndarray:
        """MaskablePPO's: the first action is never possible."""
        assert isinstance(self.action_space, spaces.Discrete)
        return np.arange(self.action_space.n) > 0
