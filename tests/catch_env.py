"""A tiny game of pixels: a ball falls, a paddle is to catch it."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Catch(gym.Env):
    """
    Two stacked frames of 10x10 pixels; actions move the paddle left, not at all, and right; reward 1 or -1 at the end.
    """

    observation_space = spaces.Box(0, 255, (2, 10, 10), np.uint8)
    action_space = spaces.Discrete(3)
    frame_stack = 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(10))
        self.paddle = 5
        self.frames = np.zeros((2, 10, 10), np.uint8)
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = int(np.clip(self.paddle + action - 1, 0, 9))
        self.row += 1
        ends = self.row == 9
        reward = (1.0 if abs(self.paddle - self.column) <= 1 else -1.0) if ends else 0.0
        return self._observation(), reward, ends, False, {}

    def _observation(self) -> np.ndarray:
        frame = np.zeros((10, 10), np.uint8)
        frame[self.row, self.column] = 255
        frame[9, max(self.paddle - 1, 0) : self.paddle + 2] = 128
        self.frames = np.stack([self.frames[1], frame])
        return self.frames
