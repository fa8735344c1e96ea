"""Algorithms that need continuous actions, and environments without."""

import gymnasium as gym
from gymnasium import spaces


def check_continuous(space: gym.Space, who: str) -> tuple[int, ...]:
    """
    :param space: Action space
    :param who: What needs continuous actions
    :return: Shape of the actions
    :raises ValueError: if they are not continuous.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{who} continuous actions (a Box), got {space}.")
    return space.shape
