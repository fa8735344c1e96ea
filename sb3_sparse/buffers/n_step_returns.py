"""Sums of rewards over several steps of an episode, for all transitions of a batch at once and without waiting for a GPU."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.vec_env import VecNormalize


class Window(NamedTuple):
    """
    The steps whose rewards are summed, for each transition of a batch.

    :param last: (batch,) position of the last step
    :param returns: (batch, 1) discounted sums of rewards
    :param discounts: (batch, 1) what the value after the last step is multiplied by
    """

    last: th.Tensor
    returns: th.Tensor
    discounts: th.Tensor


def following_steps(positions: th.Tensor, n_steps: int, n_envs: int, rows: int) -> th.Tensor:
    """
    Find the steps that follow in the same environment. A position is row * n_envs + environment, rows being a ring: after the
    newest transition comes the oldest one, or none yet.

    :param positions: (batch,) int64 positions
    :param n_steps: Number of steps, the first one included
    :param n_envs: Number of environments
    :param rows: Number of rows
    :return: (batch, n_steps) positions
    """
    ahead = th.arange(n_steps, device=positions.device)
    return (positions[:, None] + ahead * n_envs) % (rows * n_envs)


def n_step_window(steps: th.Tensor, rewards: th.Tensor, ends: th.Tensor, factors: th.Tensor) -> Window:
    """
    Sum rewards up to the first end.

    :param steps: (batch, n_steps) positions
    :param rewards: (batch, n_steps)
    :param ends: (batch, n_steps) whether a step is the last that may be summed: of its episode, or the newest one
    :param factors: (batch or 1, n_steps + 1) discount of what comes after so many steps, 1 at first
    """
    inside = th.cumsum(ends, dim=1) - ends.long() == 0  # (batch, n_steps), the end itself included
    count = inside.sum(dim=1, keepdim=True)  # (batch, 1)
    returns = (rewards * (factors[:, :-1] * inside)).sum(dim=1, keepdim=True)
    discounts = factors.expand(len(steps), -1).gather(1, count)
    return Window(steps.gather(1, count - 1).squeeze(1), returns, discounts)


def normalized_reward(rewards: th.Tensor, env: VecNormalize | None) -> th.Tensor:
    """
    :param rewards: Rewards as the environment gave them
    :param env: Normalises them on the host, if given
    :return: Rewards on the same device
    """
    if env is None:
        return rewards
    return th.as_tensor(env.normalize_reward(rewards.cpu().numpy()), dtype=th.float32, device=rewards.device)
