"""Evaluation with some actions at random, so that no agent can repeat one game or get stuck."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs


class RandomActions(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Takes a random action instead of the given one now and then, as evaluations of Atari games do (one in a thousand).

    :param env: Environment
    :param epsilon: Probability of a random action
    :param seed: Seed of these
    """

    def __init__(self, env: gym.Env, epsilon: float, seed: int):
        RecordConstructorArgs.__init__(self, epsilon=epsilon, seed=seed)
        super().__init__(env)
        self.epsilon = epsilon
        self._rng, self._others = np.random.default_rng(seed), copy.deepcopy(env.action_space)
        self._others.seed(seed)

    def step(self, action: Any) -> Any:
        """
        :param action: Action, which is taken with probability 1 - epsilon
        """
        return super().step(self._others.sample() if self._rng.random() < self.epsilon else action)
