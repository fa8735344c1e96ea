"""A tiny environment of stacked images: a bright dot that the action moves."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIZE = 17


class DotEnv(gym.Env):
    """
    Images of 3 colours, ``frame_stack`` of them along the channels, the oldest first; the first one of an episode is repeated.

    :param frame_stack: Number of frames
    :param length: Steps until the time limit
    :param size: Height and width of the images
    """

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, frame_stack: int = 3, length: int = 20, size: int = SIZE):
        self.frame_stack, self.length = frame_stack, length
        self.observation_space = spaces.Box(0, 255, (3 * frame_stack, size, size), np.uint8)
        self._frames: deque[np.ndarray] = deque(maxlen=frame_stack)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2), 0
        self._frames.extend([self._draw()] * self.frame_stack)
        return np.concatenate(self._frames), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(np.asarray(action, np.float32))
        self.position = np.clip(self.position + 0.3 * action, -1, 1)
        self.steps += 1
        self._frames.append(self._draw())
        reward = 1.0 - float(np.abs(self.position).mean())
        return np.concatenate(self._frames), reward, False, self.steps >= self.length, {}

    def _draw(self) -> np.ndarray:
        size = self.observation_space.shape[1]
        frame = self.np_random.integers(0, 40, (3, size, size)).astype(np.uint8)
        row, column = np.round((self.position + 1) / 2 * (size - 3)).astype(int)
        frame[:, row : row + 3, column : column + 3] = 250
        return frame
