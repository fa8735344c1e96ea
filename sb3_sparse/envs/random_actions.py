"""Evaluation with some actions at random, so that no agent can repeat one game or get stuck."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np


class RandomActions(gym.Wrapper):
    """
    Takes a random action instead of the given one now and then, as evaluations of Atari games do (one in a thousand).

    :param env: Environment
    :param epsilon: Probability of a random action
    :param seed: Seed of these
    """

    def __init__(self, env: gym.Env, epsilon: float, seed: int):
        super().__init__(env)
        self.epsilon = epsilon
        self._others = copy.deepcopy(env.action_space)
        self._draw_anew(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """
        :param seed: Seed of the environment, and of random actions
        :param options: Of the environment
        """
        if seed is not None:
            self._draw_anew(seed)
        return super().reset(seed=seed, options=options)

    def _draw_anew(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._others.seed(seed)

    def step(self, action: Any) -> Any:
        """
        :param action: Action, which is taken with probability 1 - epsilon
        """
        return super().step(self._others.sample() if self._rng.random() < self.epsilon else action)
