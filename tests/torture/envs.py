"""Environments that torture runs are trained in beside gymnasium's own: images, goals, masks, and an opaque one."""

from typing import Any

import gymnasium as gym
import numpy as np
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.envs import BitFlippingEnv

DISCRETE, IMAGES, OPAQUE, GOALS, MASKS = "CartPole-v1", "Images-v0", "Opaque-v0", "Goals-v0", "Masks-v0"


def register_environments() -> None:
    """Register those that gymnasium does not have; again is no harm."""
    for name, (entry_point, steps, kwargs) in _OURS.items():
        if name not in gym.registry:
            gym.register(name, entry_point=entry_point, max_episode_steps=steps, kwargs=kwargs)


def make(name: str) -> gym.Env[Any, Any]:
    """
    Make an environment, also in a process that has not registered it.

    :param name: Its id
    """
    register_environments()
    return gym.make(name)


class ImageEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    Three stacked images of noisy pixels; their brightness follows the action.

    :param size: Height and width
    """

    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    frame_stack = 3

    def __init__(self, size: int = 17):
        self.size = size
        self.observation_space = gym.spaces.Box(0, 255, (self.frame_stack, size, size), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: Not used
        """
        super().reset(seed=seed)
        self._frames = np.repeat(self._draw(0.0), 3, axis=0)
        return self._frames, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Draw another image.

        :param action: Brightness
        """
        self._frames = np.concatenate([self._frames[1:], self._draw(float(action[0]))])
        return self._frames, float(action[0]), False, False, {}

    def _draw(self, brightness: float) -> np.ndarray:
        return (self.np_random.integers(0, 100, (1, self.size, self.size)) + 100 * (1.0 + brightness) / 2).astype(np.uint8)


class OpaqueEnv(gym.Env[np.ndarray, np.ndarray]):
    """An environment whose state cannot be pickled: a running generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: Not used
        """
        super().reset(seed=seed)
        self._walk = self._positions(self.np_random.normal(size=2))
        return next(self._walk), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Take a step of a random walk.

        :param action: Added to the first coordinate
        """
        observation = self._walk.send(action)
        return observation, -float(np.abs(observation).sum()), False, False, {}

    def _positions(self, position: np.ndarray) -> Any:
        while True:
            action = yield position.astype(np.float32)
            position = 0.9 * position + 0.1 * self.np_random.normal(size=2)
            position[0] += 0.1 * float(action[0])


# Entry point, steps of an episode, arguments.
_OURS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    IMAGES: (f"{__name__}:ImageEnv", 25, {}),
    OPAQUE: (f"{__name__}:OpaqueEnv", 40, {}),
    GOALS: (BitFlippingEnv, 12, {"n_bits": 4, "continuous": True, "max_steps": 12}),
    MASKS: (InvalidActionEnvDiscrete, 20, {"dim": 5, "n_invalid_actions": 2}),
}
