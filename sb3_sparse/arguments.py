"""Checks of what users pass. Every floor may import them; they need nothing of the package."""

import math
import operator
from collections.abc import Collection
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

Choice = TypeVar("Choice")


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None, hint: str = "") -> int:
    """
    Take whatever stands for an integer, NumPy's included, but no truth values and no floats.

    :param name: Name of the argument, for the error
    :param value: Its value
    :param least: Smallest value allowed
    :param most: Largest value allowed, None for no bound
    :param hint: What the error says beside the bounds
    :return: The value as Python's own integer
    :raises ValueError: if it is no integer or out of bounds.
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be an integer {bounds}{hint and f' ({hint})'}, got {value!r}.")
    return number


def check_number(name: str, value: Any, most: float = math.inf, is_positive: bool = False, hint: str = "") -> None:
    """
    Refuse what is no finite number of at least 0.

    :param name: Name of the argument, for the error
    :param value: Its value
    :param most: Largest value allowed
    :param is_positive: Whether 0 is refused as well
    :param hint: What the error says beside the bounds
    :raises ValueError: if it is no number or out of bounds.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= most or (is_positive and value == 0):
        bounds = "a number of at least 0" if most == math.inf else f"a number in [0, {most:g}]"
        kind = "a positive number" if is_positive else bounds
        raise ValueError(f"{name} must be {kind}{hint and f' ({hint})'}, got {value!r}.")


def check_choice(name: str, value: Choice, choices: Collection[Choice]) -> Choice:
    """
    Take one of several values.

    :param name: Name of the argument, for the error
    :param value: Its value
    :param choices: Values allowed
    :return: The value
    :raises ValueError: if it is another one.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def check_action_bounds(action_space: spaces.Space, are_scaled: bool = True) -> None:
    """
    Refuse continuous actions that nothing can be learned for.

    :param action_space: Action space
    :param are_scaled: Whether actions are scaled to [-1, 1] and back, as SB3's off-policy algorithms do; otherwise bounds may
        lie as far apart as they like
    :raises ValueError: if bounds of an action are equal, or lie too far apart for its type.
    """
    if not isinstance(action_space, spaces.Box):
        return
    low, high = action_space.low.reshape(-1), action_space.high.reshape(-1)
    with np.errstate(over="ignore"):
        ranges, exact = high - low, high.astype(np.float64) - low.astype(np.float64)
    for i in range(len(low)):
        name = f"action {i} of {len(low)} lies between {low[i]} and {high[i]}"
        if not exact[i] > 0:
            raise ValueError(f"{name}, so there is nothing to choose: take it out of the action space in a wrapper.")
        if are_scaled and not np.isclose(ranges[i], exact[i]):
            raise ValueError(
                f"{name}, a range that is too large for {action_space.dtype}: give it bounds that actions are meant to use "
                "(gymnasium.wrappers.RescaleAction)."
            )


def check_continuous(space: spaces.Space, who: str) -> tuple[int, ...]:
    """
    :param space: Action space
    :param who: What needs continuous actions
    :return: Shape of the actions
    :raises ValueError: if they are not continuous.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{who} continuous actions (a Box), got {space}.")
    return space.shape


def refuse_vector_env(env: Any) -> None:
    """
    Say what to give instead of a vectorised environment of gymnasium, which SB3 would take for a single one.

    :param env: What an algorithm was given as its environment
    :raises ValueError: if it is one.
    """
    if isinstance(env, VectorEnv):
        raise ValueError(
            f"{type(env).__name__} is a vectorised environment of gymnasium, which Stable-Baselines3 does not take: give one "
            f"of its own, make_vec_env(env_id, n_envs={env.num_envs}) of stable_baselines3.common.env_util; for Atari with "
            "wrapper_class=sb3_sparse.envs.atari.AtariWrapper."
        )
