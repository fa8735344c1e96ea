"""The discount factor that goes with an episode's length."""

import math


def discount_heuristic(episode_length: float) -> float:
    """
    Discount factor from the length of an episode, ``clip((T / 5 - 1) / (T / 5), 0.95, 0.995)``: the effective horizon is a
    fifth of the episode (Hansen et al. 2023, TD-MPC2, https://arxiv.org/abs/2310.16828).

    :param episode_length: Length T of a full episode in agent steps; with repeated actions these are fewer than control steps
    :return: Discount factor in [0.95, 0.995]; 0.99 for 500 steps
    :raises ValueError: If the length is not a positive, finite number
    """
    if not (math.isfinite(episode_length) and episode_length > 0):
        raise ValueError(f"episode_length must be a positive, finite number of agent steps, got {episode_length!r}.")
    fifth = episode_length / 5
    return min(max((fifth - 1) / fifth, 0.95), 0.995)
