"""Bounds of actions that a policy can be learned for."""

import numpy as np
from gymnasium import spaces


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
