"""Exploration noise of DrQ-v2: how large it is at which agent step, and how it is added."""

import math
import re
from collections.abc import Callable
from numbers import Real

import numpy as np
import torch as th

# Of agent steps so far.
StddevSchedule = float | str | Callable[[int], float]

# Actions stay this far away from -1 and 1.
EDGE = 1e-6
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


def noisy_actions(mean: th.Tensor, stddev: th.Tensor, clip: float | None = None) -> th.Tensor:
    """
    Sample from what DrQ-v2 calls a truncated normal distribution: Gaussian noise, clipped, and the sum clamped into the open
    interval (-1, 1) in such a way that gradients pass as if it were not.

    :param mean: (batch, action_dim) in [-1, 1]
    :param stddev: Standard deviation of the noise, a scalar
    :param clip: Bound of the noise: 0.3 in updates, None when acting
    :return: (batch, action_dim), differentiable with respect to the mean
    """
    noise = th.randn_like(mean) * stddev
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    actions = mean + noise
    return actions - actions.detach() + actions.detach().clamp(-1 + EDGE, 1 - EDGE)
