"""How an environment counts steps: those of an episode, and those per agent step."""

from contextlib import closing
from typing import Any

import gymnasium as gym


def episode_length(env: Any) -> int | None:
    """
    Number of agent steps after which an episode is truncated.

    Considered are the spec's ``max_episode_steps``, the outermost ``TimeLimit`` wrapper and the time limit of the dm_control
    environments; the smallest counts. An environment is only made from an id whose registered spec has no limit, and closed
    again.

    :param env: A gymnasium environment, a vectorized environment of Stable-Baselines3, or an id
    :return: The number of steps, None if there is no limit
    :raises ValueError: If the environments of a vectorized one differ
    """
    if isinstance(env, str):
        return _registered_length(env)
    lengths = {_shortest(candidates) for candidates in zip(*_candidates(env), strict=True)}
    if len(lengths) > 1:
        raise ValueError(f"The vectorized environments differ in episode length: {lengths}.")
    return lengths.pop()


def _registered_length(env_id: str) -> int | None:
    spec = gym.registry.get(env_id)
    if spec is not None and spec.max_episode_steps is not None:
        return spec.max_episode_steps
    with closing(gym.make(env_id)) as env:
        return episode_length(env)


def _candidates(env: Any) -> list[list[int | None]]:
    specs = _attribute(env, "spec")
    return [
        [None if spec is None else spec.max_episode_steps for spec in specs],
        _attribute(env, "_max_episode_steps"),
        _attribute(env, "max_episode_steps"),
    ]


def _attribute(env: Any, name: str) -> list[Any]:
    """The attribute of each environment of a vectorized one, or of the single environment, None where it is missing."""
    if isinstance(env, gym.Env):
        return [env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None]
    return env.get_attr(name) if env.has_attr(name) else [None] * env.num_envs


def _shortest(lengths: tuple[int | None, ...]) -> int | None:
    return min((length for length in lengths if length is not None), default=None)


def action_repeat(env: Any) -> int:
    """
    Environment steps per agent step; 1 if the environment does not say.

    :param env: A gymnasium environment, a vectorized environment of Stable-Baselines3, or an id
    """
    if isinstance(env, str):
        with closing(gym.make(env)) as made:
            return action_repeat(made)
    repeat = _attribute(env, "action_repeat")[0]
    return 1 if repeat is None else int(repeat)
