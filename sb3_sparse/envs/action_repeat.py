"""Repeated actions for any environment."""

import math
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.environment_steps import episode_length


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Repeats each action, fewer times if the episode ends in between. The reward of an agent step is the sum of the rewards.
    Where the environment has a discount of its own, ``info["discount"]``, each reward is multiplied by the discounts before
    it, and the info holds the product of all (as in DrQ-v2's code).

    :param env: Environment
    :param action_repeat: Steps of the environment per agent step, at least 1
    :raises ValueError: if it is not.
    """

    def __init__(self, env: gym.Env[Any, Any], action_repeat: int):
        self.action_repeat = check_integer("action_repeat", action_repeat)
        RecordConstructorArgs.__init__(self, action_repeat=self.action_repeat)
        super().__init__(env)

    @property
    def max_episode_steps(self) -> int | None:
        """Agent steps until the environment's time limit, None without one."""
        limit = episode_length(self.env)
        return None if limit is None else math.ceil(limit / self.action_repeat)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Repeat an action.

        :param action: Action
        :return: Last observation; sum of the rewards; whether the episode terminated or was truncated; last info
        """
        total, discount = 0.0, 1.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += discount * float(reward)
            discount *= info.get("discount", 1.0)
            if terminated or truncated:
                break
        if "discount" in info:
            info = {**info, "discount": discount}
        return observation, total, terminated, truncated, info
