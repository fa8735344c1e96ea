"""Schedules that depend on how many steps a run was asked for."""

import warnings

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

# Shares of training that are left; at all of it, a schedule of length 0 is not defined.
_LEFT = [1 - 1e-9, *(i / 20 for i in range(19, -1, -1))]


def warn_of_schedules(model: BaseAlgorithm, before: int) -> None:
    """
    Say so if a run will not be the one that was never stopped, as it was asked for another number of steps.

    :param model: Model of the run that goes on
    :param before: Agent steps that it was asked for so far
    """
    moving, total = schedules_of_progress(model), model._total_timesteps
    if moving and before != total:
        warnings.warn(
            f"The run was asked for {before} steps so far and for {total} now. It will not be the run of {total} steps that "
            f"was never stopped, because its schedules ({', '.join(moving)}) depend on that number.",
            stacklevel=2,
        )


def schedules_of_progress(model: BaseAlgorithm) -> list[str]:
    """
    Find the schedules of a model that change while it trains, so that another number of steps makes other values of them.

    :param model: Model
    :return: Names of the arguments or attributes
    """
    found = {name: value for name, value in vars(model).items() if isinstance(value, FloatSchedule | LinearSchedule)}
    moving = [name for name, schedule in found.items() if len({schedule(left) for left in _LEFT}) > 1]
    # SB3 keeps the argument as it was given, which may be a schedule or not, and what it made of it.
    return list(dict.fromkeys("learning_rate" if name == "lr_schedule" else name for name in moving))
