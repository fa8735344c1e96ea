"""Evaluation with some actions at random, so that no agent can repeat one game or get stuck."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from sb3_sparse.arguments import check_integer


class RandomActions(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Takes a random action instead of the given one now and then, as evaluations of Atari games do (one in a thousand).

    :param env: Environment
    :param epsilon: Probability of a random action
    :param seed: Seed of these
    """

    def __init__(self, env: gym.Env, epsilon: float, seed: int):
        self.epsilon, self._seed = epsilon, check_integer("seed", seed, 0)
        RecordConstructorArgs.__init__(self, epsilon=epsilon, seed=self._seed)
        super().__init__(env)
        self._others = copy.deepcopy(env.action_space)
        self._start(self._seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """
        Start an episode.

        :param seed: Seed of the environment; with the wrapper's own it also starts the random actions anew
        :param options: Options of the environment
        """
        if seed is not None:
            self._start(self._seed, seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """
        :param action: Action, which is taken with probability 1 - epsilon
        """
        return super().step(self._others.sample() if self._rng.random() < self.epsilon else action)

    def _start(self, *entropy: int) -> None:
        self._rng = np.random.default_rng(entropy)
        self._others.seed(int(self._rng.integers(2**31)))
