"""Constructor arguments of an algorithm as JSON, and back."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_sparse.deployment.plain_data import from_plain, is_plain_schedule, to_plain

# Written in other places, or of the process rather than the model.
_NOT_SETTINGS = {
    "policy",
    "policy_kwargs",
    "env",
    "device",
    "verbose",
    "tensorboard_log",
    "monitor_wrapper",
    "support_multi_env",
    "supported_action_spaces",
    "sde_support",
}
_ATTRIBUTES = {"stats_window_size": "_stats_window_size"}
# May be functions, of the progress that remains or, of DrQ-v2, of the agent steps.
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "stddev_schedule")


def setting_names(algorithm: type[BaseAlgorithm]) -> set[str]:
    """
    :param algorithm: Class of an algorithm
    :return: Names of its constructor's arguments that a model keeps
    """
    constructors = [vars(kind)["__init__"] for kind in algorithm.__mro__ if "__init__" in vars(kind) and kind is not object]
    parameters = [p for constructor in constructors for p in list(inspect.signature(constructor).parameters.values())[1:]]
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and not p.name.startswith("_")}
    return named - _NOT_SETTINGS


def settings_of(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Make JSON of a model's settings. Of a function that changes one in time, the value it has now is written, with a warning.

    :param model: Model
    :raises ValueError: if one of them cannot be written without pickling it.
    """
    names = sorted(name for name in setting_names(type(model)) if hasattr(model, _ATTRIBUTES.get(name, name)))
    return {name: _setting(model, name) for name in names}


def read_settings(algorithm: type[BaseAlgorithm], plain: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read what :func:`settings_of` wrote.

    :param algorithm: Class of the algorithm
    :param plain: JSON
    :return: Attributes of a model
    :raises ValueError: if a setting is not one of the algorithm's.
    """
    unknown = plain.keys() - setting_names(algorithm)
    if unknown:
        raise ValueError(f"The file has settings that are not known: {', '.join(sorted(unknown))}.")
    settings = from_plain(plain)
    if isinstance(settings.get("train_freq"), list):
        frequency, unit = settings["train_freq"]
        settings["train_freq"] = TrainFreq(int(frequency), TrainFrequencyUnit(unit))
    return {_ATTRIBUTES.get(name, name): value for name, value in settings.items()}


def _setting(model: Any, name: str) -> Any:
    value = getattr(model, _ATTRIBUTES.get(name, name))
    if isinstance(value, TrainFreq):
        return [value.frequency, value.unit.value]
    if isinstance(value, VectorizedActionNoise):
        value = value.base_noise  # made anew for as many environments as there are
    if name in _SCHEDULES and callable(value) and not is_plain_schedule(value):
        value = _present_value(model, name, value)
    return to_plain(value, f"The argument {name}")


def _present_value(model: Any, name: str, schedule: Callable[[float], float]) -> float:
    now = model.num_timesteps if name == "stddev_schedule" else model._current_progress_remaining
    value = float(schedule(now))
    warnings.warn(
        f"{name} is a function, which is not written: the model that is read has the value it has now, {value:g}. SB3's "
        "LinearSchedule is written as it is.",
        stacklevel=4,
    )
    return value
