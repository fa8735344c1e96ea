"""Spaces, classes and settings as JSON, and back: nothing in it is executed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from torch import nn

from sb3_sparse.common.extractor import SparseSimBaExtractor

_CLASS, _NUMBER = ":class:", ":number:"
_OWN = {f"sb3_sparse.{kind.__name__}": kind for kind in (SparseSimBaExtractor,)}
_SB3 = {
    f"stable_baselines3.{kind.__name__}": kind
    for kind in (torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor)
}


def to_plain(value: Any, name: str) -> Any:
    """
    Make JSON of a setting.

    :param value: Numbers, strings, containers, and classes of torch (activations, optimizers) and features extractors
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
        return {_CLASS: _name_of(value, name)}
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
        return class_of(value[_CLASS])
    return {key: from_plain(entry) for key, entry in value.items()}


def class_of(name: str) -> type:
    """
    Find a class without importing anything for it.

    :param name: "torch.nn.ReLU", "torch.optim.Adam", or a features extractor of SB3 or this package
    :raises ValueError: if it is none of these.
    """
    if name in {**_OWN, **_SB3}:
        return {**_OWN, **_SB3}[name]
    package, _, kind = name.rpartition(".")
    module, base = {"torch.nn": (nn, nn.Module), "torch.optim": (th.optim, th.optim.Optimizer)}.get(package, (None, None))
    found = getattr(module, kind, None)
    if not isinstance(found, type) or base is None or not issubclass(found, base):
        raise ValueError(f"The class {name!r} is unknown.")
    return found


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


def _name_of(kind: type, name: str) -> str:
    for package, known in (("torch.nn", nn), ("torch.optim", th.optim)):
        if getattr(known, kind.__name__, None) is kind:
            return f"{package}.{kind.__name__}"
    for key, other in {**_OWN, **_SB3}.items():
        if other is kind:
            return key
    raise ValueError(f"{name} is the class {kind.__name__}, which cannot be written: only torch's and SB3's own can.")
