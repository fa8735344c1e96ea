"""The random streams that a process shares: Python's, NumPy's, torch's on every device; and those of spaces."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces


def random_streams() -> dict[str, Any]:
    """The states of all streams."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
    }


def restore_random_streams(states: dict[str, Any]) -> None:
    """
    Have all streams go on where they were.

    :param states: What :func:`random_streams` returned
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if len(states["cuda"]) == th.cuda.device_count() > 0:
        th.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def untouched_randomness(seed: int | None = None) -> Iterator[None]:
    """
    What is drawn within leaves no trace in the streams.

    :param seed: Start them anew within; None lets them go on
    """
    states = random_streams()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            th.manual_seed(seed)
        yield
    finally:
        restore_random_streams(states)


def space_streams(space: spaces.Space) -> dict[str, Any]:
    """
    The state of a space's random stream and those of its parts, for :func:`restore_space_streams`.

    :param space: Any space
    """
    generator = space._np_random
    return {
        "own": None if generator is None else generator.bit_generator.state,
        "parts": [space_streams(part) for part in _parts(space)],
    }


def restore_space_streams(space: spaces.Space, states: dict[str, Any]) -> None:
    """
    Have a space sample as it would have.

    :param space: A space like the one that the states are of
    :param states: What :func:`space_streams` returned
    """
    if states["own"] is None:
        space._np_random = None  # type: ignore[assignment]
    else:
        space.np_random.bit_generator.state = states["own"]
    for part, state in zip(_parts(space), states["parts"], strict=True):
        restore_space_streams(part, state)


def _parts(space: spaces.Space) -> list[spaces.Space]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple | spaces.OneOf) else []
