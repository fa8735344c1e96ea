"""Spaces, classes and settings as JSON, and back: nothing in it is executed."""

import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_sparse.deployment.known_classes import argument_class, argument_name

_CLASS, _NUMBER, _SCHEDULE, _NOISE = ":class:", ":number:", ":linear schedule:", ":noise:"
_SCHEDULE_ARGUMENTS = ("start", "end", "end_fraction")
# Arguments of their constructors, by the attributes that keep them.
_NOISES: dict[type[ActionNoise], dict[str, str]] = {
    NormalActionNoise: {"_mu": "mean", "_sigma": "sigma"},
    OrnsteinUhlenbeckActionNoise: {
        "_mu": "mean",
        "_sigma": "sigma",
        "_theta": "theta",
        "_dt": "dt",
        "initial_noise": "initial_noise",
    },
}


def to_plain(value: Any, name: str) -> Any:
    """
    Make JSON of a setting.

    :param value: Numbers, strings, containers, classes of torch (activations, optimizers), features extractors and buffers,
        and SB3's schedules and action noise
    :param name: What errors call it
    :raises ValueError: if it is something else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return to_plain(value.item(), name)
    if isinstance(value, float):
        # JSON knows no infinity.
        return value if math.isfinite(value) else {_NUMBER: repr(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry, name) for entry in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), name)
    if isinstance(value, type):
        return {_CLASS: argument_name(value, name)}
    if isinstance(value, enum.Enum):
        return value.name.lower()  # as SB3 takes it, too
    if isinstance(value, FloatSchedule):
        return to_plain(value.value_schedule, name)
    if isinstance(value, ConstantSchedule):
        return to_plain(value.val, name)
    if isinstance(value, LinearSchedule):
        return {_SCHEDULE: [to_plain(getattr(value, argument), name) for argument in _SCHEDULE_ARGUMENTS]}
    if type(value) in _NOISES:
        arguments = {argument: getattr(value, key) for key, argument in _NOISES[type(value)].items()}
        return {_NOISE: type(value).__name__, "arguments": to_plain(arguments, name)}
    raise ValueError(f"{name} is a {type(value).__name__}, which cannot be written without pickling it: {value!r}.")


def from_plain(value: Any) -> Any:
    """
    Read what :func:`to_plain` wrote; sequences come back as lists.

    :param value: JSON
    :raises ValueError: if it names a class that is not known.
    """
    if isinstance(value, list):
        return [from_plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if _NUMBER in value:
        return float(value[_NUMBER])
    if _CLASS in value:
        return argument_class(value[_CLASS])
    if _SCHEDULE in value:
        return LinearSchedule(*map(float, value[_SCHEDULE]))
    if _NOISE in value:
        return _noise(value)
    return {key: from_plain(entry) for key, entry in value.items()}


def space_to_plain(space: spaces.Space) -> dict[str, Any]:
    """
    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these
    :raises ValueError: for other spaces.
    """
    if isinstance(space, spaces.Box):
        bounds = {key: to_plain(getattr(space, key), key) for key in ("low", "high")}
        return {"space": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"space": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"space": "MultiBinary", "n": to_plain(space.n, "n")}
    if isinstance(space, spaces.Dict):
        return {"space": "Dict", "entries": [[key, space_to_plain(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"space": "Tuple", "parts": [space_to_plain(part) for part in space.spaces]}
    raise ValueError(f"A {type(space).__name__} space cannot be written as JSON.")


def space_from_plain(plain: Mapping[str, Any]) -> spaces.Space:
    """
    :param plain: What :func:`space_to_plain` wrote
    :raises ValueError: for unknown kinds.
    """
    kind = plain["space"]
    if kind == "Box":
        dtype = np.dtype(plain["dtype"])
        if dtype.kind not in "fiub":
            raise ValueError(f"A Box of {dtype} is unknown.")
        low, high = (np.array(from_plain(plain[key]), dtype).reshape(plain["shape"]) for key in ("low", "high"))
        return spaces.Box(low, high, tuple(plain["shape"]), dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(plain["nvec"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(plain["n"])
    if kind == "Dict":
        # In this order: gymnasium sorts only plain dictionaries.
        return spaces.Dict([(key, space_from_plain(part)) for key, part in plain["entries"]])
    if kind == "Tuple":
        return spaces.Tuple([space_from_plain(part) for part in plain["parts"]])
    raise ValueError(f"A space of the kind {kind!r} is unknown.")


def is_plain_schedule(value: Any) -> bool:
    """
    :param value: A number, or a function
    :return: Whether it is one of SB3's schedules, which are written as they are
    """
    if isinstance(value, FloatSchedule):
        return is_plain_schedule(value.value_schedule)
    return isinstance(value, ConstantSchedule | LinearSchedule)


def _noise(plain: Mapping[str, Any]) -> ActionNoise:
    for kind in _NOISES:
        if kind.__name__ == plain[_NOISE]:
            arguments = from_plain(plain["arguments"])
            return kind(**{k: np.array(v, np.float32) if isinstance(v, list) else v for k, v in arguments.items()})
    raise ValueError(f"The action noise {plain[_NOISE]!r} is unknown.")
