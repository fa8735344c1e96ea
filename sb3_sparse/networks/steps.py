"""The steps that a pass through a network is made of, and what NumPy makes of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Step -> the arrays it takes, in order: float32, but for the columns (uint16) and row starts (int32) of compressed rows.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "standardize": ("mean", "scale"),
    "clip": ("low", "high"),
    "affine": ("scale", "offset"),
    "layer_norm": ("weight", "bias", "eps"),
    "sparse": ("values", "columns", "starts", "bias"),
    "dense": ("weight", "bias"),
    "relu": (),
    "tanh": (),
    "sigmoid": (),
    "silu": (),
    "save": (),  # keep the vector, until
    "add": (),  # it is added
    "leaky_relu": ("slope",),
    "hardtanh": ("min", "max"),
    "argmax": (),  # the number of the largest entry; the last step
}
# Arguments of one entry, whatever the size of the vector.
_SCALARS = ("eps", "slope", "min", "max")
_TYPES = {"columns": np.uint16, "starts": np.int32}


class Step(NamedTuple):
    """
    One step: what happens to the vector.

    :param name: One of ``ARGUMENTS``
    :param arrays: The arrays it takes
    """

    name: str
    arrays: dict[str, np.ndarray]


def check_steps(steps: list[Step], input_size: int) -> None:
    """
    See that steps fit together; compiled code that reads arrays by address would not notice.

    :param steps: Steps of a policy
    :param input_size: Size of the vector that comes in
    :raises ValueError: if one does not fit.
    """
    size, saved = input_size, []
    for number, (name, arrays) in enumerate(steps):
        if name not in ARGUMENTS or set(arrays) != set(ARGUMENTS[name]):
            raise ValueError(f"step {number}, {name!r} of {sorted(arrays)}, is unknown")
        if any(array.dtype != _TYPES.get(key, np.float32) for key, array in arrays.items()):
            raise ValueError(f"an array of step {number}, {name!r}, is of the wrong type")
        if name == "save":
            saved.append(size)
        elif not (_fits_sparse if name == "sparse" else _fits)(name, arrays, size, saved):
            raise ValueError(f"step {number}, {name!r}, does not take a vector of {size}")
        size = size_after(name, arrays, size)


def size_after(name: str, arrays: dict[str, np.ndarray], size: int) -> int:
    """
    :param name: Name of a step
    :param arrays: Its arrays
    :param size: Size of the vector before it
    :return: Size of the vector after it
    """
    if name in ("sparse", "dense"):
        return len(arrays["bias"])
    return 1 if name == "argmax" else size


def _fits(name: str, arrays: dict[str, np.ndarray], size: int, saved: list[int]) -> bool:
    if name == "add":
        return bool(saved) and saved.pop() == size
    shapes = {key: (size,) for key in arrays}
    if name == "dense":
        shapes = {"weight": (len(arrays["bias"]), size), "bias": (len(arrays["bias"]),)}  # type: ignore[dict-item]
    shapes.update({key: (1,) for key in arrays if key in _SCALARS})
    return {key: array.shape for key, array in arrays.items()} == shapes


def _fits_sparse(name: str, arrays: dict[str, np.ndarray], size: int, saved: list[int]) -> bool:
    values, columns, starts, bias = (arrays[key] for key in ARGUMENTS["sparse"])
    return (
        values.ndim == starts.ndim == bias.ndim == 1
        and values.shape == columns.shape
        and len(starts) == len(bias) + 1
        and starts[0] == 0
        and starts[-1] == len(values)
        and bool((np.diff(starts) >= 0).all())
        and bool((columns < size).all())
    )


def run_steps(steps: list[Step], x: np.ndarray) -> np.ndarray:
    """
    Run steps with NumPy.

    :param steps: Steps of a policy
    :param x: (batch, input size) float32
    :return: (batch, output size) float32
    """
    saved: list[np.ndarray] = []
    for name, arrays in steps:
        if name == "save":
            saved.append(x)
        elif name == "add":
            x = x + saved.pop()
        else:
            x = _NUMPY_STEPS[name](x, **arrays)
    return x


def _multiply_sparse(
    x: np.ndarray, values: np.ndarray, columns: np.ndarray, starts: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    filled = np.flatnonzero(np.diff(starts))  # reduceat knows no empty sums
    output = np.broadcast_to(bias, (len(x), len(bias))).copy()
    output[:, filled] += np.add.reduceat(x[:, columns] * values, starts[filled], axis=1)
    return output


def _normalize_layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.ndarray) -> np.ndarray:
    centered = x - x.mean(axis=1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + eps) * weight + bias


_NUMPY_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "standardize": lambda x, mean, scale: (x - mean) / scale,
    "clip": lambda x, low, high: np.clip(x, low, high),
    "affine": lambda x, scale, offset: x * scale + offset,
    "layer_norm": _normalize_layer,
    "sparse": _multiply_sparse,
    "dense": lambda x, weight, bias: x @ weight.T + bias,
    "relu": lambda x: np.maximum(x, np.float32(0.0)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "hardtanh": lambda x, min, max: np.clip(x, min, max),
    "argmax": lambda x: x.argmax(axis=1, keepdims=True).astype(np.float32),
}
