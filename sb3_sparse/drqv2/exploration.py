"""Exploration noise of DrQ-v2: how large it is at which agent step."""

import math
import re
from collections.abc import Callable
from numbers import Real

import numpy as np

# Of agent steps so far.
StddevSchedule = float | str | Callable[[int], float]

_LINEAR = re.compile(r"linear\(([^,]+),([^,]+),([^,]+)\)")
_FORMS = "a number, 'linear(initial, final, agent steps)', or a function of the agent steps so far"


def stddev_at(schedule: StddevSchedule, agent_steps: int) -> float:
    """
    Standard deviation of the noise on actions in [-1, 1].

    :param schedule: A number, "linear(initial, final, duration)" with the duration in agent steps, or a function of the agent
        steps so far
    :param agent_steps: Agent steps so far (``num_timesteps``), which are not frames: with an action repeat of 2 the
        simulation has made twice as many
    :raises ValueError: if the schedule is none of these, or its value is not a number of at least 0.
    """
    value = schedule(agent_steps) if callable(schedule) else _interpolate(schedule, agent_steps)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ValueError(
            f"stddev_schedule={schedule!r} is {value!r} after {agent_steps} agent steps; it must be a number of at least 0."
        )
    return float(value)


def _interpolate(schedule: float | str, agent_steps: int) -> float:
    if not isinstance(schedule, str):
        return schedule
    try:
        match = _LINEAR.fullmatch(schedule.replace(" ", ""))
        initial, final, duration = [float(number) for number in match.groups()] if match else [float(schedule), 0.0, math.inf]
    except ValueError:
        raise ValueError(f"stddev_schedule must be {_FORMS}; got {schedule!r}.") from None
    if not duration > 0:
        raise ValueError(f"stddev_schedule must last at least one agent step, got {schedule!r}.")
    if min(initial, final) < 0:
        raise ValueError(f"stddev_schedule must not be negative, got {schedule!r}.")
    return float(np.interp(agent_steps, [0, duration], [initial, final])) if math.isfinite(duration) else initial
