"""
Policies of ``export --format sparse`` without torch: this file and NumPy are all that a device needs, and Python 3.10.

The file can be copied beside a policy, and run: ``python runtime.py policy.npz`` checks the policy on this machine. Where this
package and numba are installed, too, a policy runs in one compiled pass.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import math
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

FORMAT = "sb3-sparse policy"
VERSION = 2
# Largest deviation from an action as it was recorded, as a fraction of half its range.
TOLERANCE = 1e-5
# What reading a damaged file ends in.
_DAMAGES = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
_DAMAGES += (BadZipFile, struct.error, zlib.error)  # type: ignore[assignment]
_RECORDED = ("observations", "actions")

Observation = np.ndarray | Mapping[str, np.ndarray]


class Step(NamedTuple):
    """
    One step: what happens to the vector.

    :param name: One of ``ARGUMENTS``
    :param arrays: The arrays it takes
    """

    name: str
    arrays: dict[str, np.ndarray]


# Step -> the arrays it takes and their shapes: n is the size of the vector before the step, m after it.
ARGUMENTS: dict[str, dict[str, str]] = {
    "standardize": {"mean": "n", "scale": "n"},
    "clip": {"low": "n", "high": "n"},
    "affine": {"scale": "n", "offset": "n"},
    "one_hot": {"sizes": "n"},  # of every entry: the number of its values, 0 for one that stays as it is
    "layer_norm": {"weight": "n", "bias": "n", "eps": "1"},
    "sparse": {"values": "active", "columns": "active", "starts": "m + 1", "bias": "m"},  # compressed rows
    "dense": {"weight": "m, n", "bias": "m"},
    "relu": {},
    "tanh": {},
    "sigmoid": {},
    "silu": {},
    "gelu": {},
    "gelu_tanh": {},
    "elu": {"alpha": "1"},
    "leaky_relu": {"slope": "1"},
    "hardtanh": {"min": "1", "max": "1"},
    "save": {},  # keep the vector, until
    "add": {},  # it is added
    "dueling": {"atoms": "1"},  # advantages of every action, then a value, with this many atoms each
    "expectation": {"support": "atoms"},  # of the distributions of all actions, whose logits are given
    "argmax": {},
    "argmax_of_each": {"sizes": "m"},  # of several discrete actions
    "is_positive": {},
}
# float32 but for these.
_TYPES = {"columns": np.uint16, "starts": np.int32, "sizes": np.int32, "atoms": np.int32}
# The last step of discrete actions.
_CHOICES = ("argmax", "argmax_of_each")


def check_steps(steps: Sequence[Step], input_size: int) -> int:
    """
    See that steps fit together; compiled code that reads arrays by address would not notice.

    :param steps: Steps of a policy
    :param input_size: Size of the vector that comes in
    :return: Size of the vector that goes out
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
        after = _size_after(name, arrays, size)
        if (
            after is None
            or not _shapes_fit(name, arrays, size, after)
            or (name == "add" and (not saved or saved.pop() != size))
        ):
            raise ValueError(f"step {number}, {name!r}, does not take a vector of {size}")
        size = after
    return size


def _size_after(name: str, arrays: dict[str, np.ndarray], size: int) -> int | None:
    """Size of the vector after a step, None if there is no such size."""
    if name in ("sparse", "dense"):
        return len(arrays["bias"])
    if name == "one_hot":
        return int(np.maximum(arrays["sizes"], 1).sum()) if (arrays["sizes"] >= 0).all() else None
    if name == "dueling":
        atoms = int(arrays["atoms"][0]) if arrays["atoms"].size else 0
        return size - atoms if atoms > 0 and size % atoms == 0 and size > atoms else None
    if name == "expectation":
        atoms = arrays["support"].size
        return size // atoms if atoms > 0 and size % atoms == 0 else None
    if name == "argmax_of_each":
        sizes = arrays["sizes"]
        return sizes.size if (sizes > 0).all() and sizes.sum() == size else None
    return 1 if name == "argmax" else size


def _shapes_fit(name: str, arrays: dict[str, np.ndarray], size: int, after: int) -> bool:
    known = {"n": (size,), "m": (after,), "m, n": (after, size), "m + 1": (after + 1,), "1": (1,)}
    shapes = {key: known.get(ARGUMENTS[name][key], array.shape) for key, array in arrays.items()}
    if any(array.shape != shapes[key] or array.ndim == 0 for key, array in arrays.items()):
        return False
    if name != "sparse":
        return True
    values, columns, starts = arrays["values"], arrays["columns"], arrays["starts"]
    ends = (int(starts[0]), int(starts[-1]))
    ordered = ends == (0, len(values)) and bool((np.diff(starts) >= 0).all())
    return values.ndim == 1 and values.shape == columns.shape and ordered and bool((columns < size).all())


class _NumPyPass:
    """
    Steps run with NumPy.

    :param steps: Steps of a policy, which fit together
    """

    def __init__(self, steps: Sequence[Step]):
        self._steps = [
            (name, _SparseProduct(**arrays) if name == "sparse" else _bound(name, arrays)) for name, arrays in steps
        ]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """
        :param x: (batch, input size) float32
        :return: (batch, output size) float32
        """
        saved: list[np.ndarray] = []
        for name, step in self._steps:
            if name == "save":
                saved.append(x)
            elif name == "add":
                x = x + saved.pop()
            else:
                x = step(x)
        return x


def _bound(name: str, arrays: dict[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return functools.partial(_NUMPY_STEPS[name], **arrays) if name in _NUMPY_STEPS else lambda x: x


class _SparseProduct:
    """
    Product with a matrix of compressed rows. NumPy takes entries by positions of its own type several times faster.

    :param values: (active,) values
    :param columns: (active,) their columns
    :param starts: (rows + 1,) where rows begin
    :param bias: (rows,)
    """

    def __init__(self, values: np.ndarray, columns: np.ndarray, starts: np.ndarray, bias: np.ndarray):
        self.values, self.columns, self.bias = values, columns.astype(np.intp), bias
        self.filled = np.flatnonzero(np.diff(starts))  # reduceat knows no empty sums
        self.starts = starts[self.filled].astype(np.intp)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """
        :param x: (batch, columns)
        :return: (batch, rows)
        """
        output = np.broadcast_to(self.bias, (len(x), len(self.bias))).copy()
        for row, target in zip(x, output, strict=True):
            target[self.filled] += np.add.reduceat(row.take(self.columns) * self.values, self.starts)
        return output


def _one_hot(x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    counts = np.maximum(sizes, 1)
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    given = np.repeat(x, counts, axis=1)
    return np.where(np.repeat(sizes, counts) > 0, given == numbers, given).astype(np.float32)


def _normalize_layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.ndarray) -> np.ndarray:
    centered = x - x.mean(axis=1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + eps) * weight + bias


def _gelu(x: np.ndarray) -> np.ndarray:
    roots = np.array([math.erf(value) for value in (x / np.float32(math.sqrt(2.0))).ravel()], np.float32)
    return np.float32(0.5) * x * (np.float32(1.0) + roots.reshape(x.shape))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = np.float32(math.sqrt(2.0 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner))


def _dueling(x: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    parts = x.reshape(len(x), -1, int(atoms[0]))
    advantages, value = parts[:, :-1], parts[:, -1:]
    return (value + advantages - advantages.mean(axis=1, keepdims=True)).reshape(len(x), -1)


def _expectation(x: np.ndarray, support: np.ndarray) -> np.ndarray:
    logits = x.reshape(len(x), -1, len(support))
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (weights @ support) / weights.sum(axis=2)


def _argmax_of_each(x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    parts = np.split(x, np.cumsum(sizes)[:-1], axis=1)
    return np.stack([part.argmax(axis=1) for part in parts], axis=1).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # 1 / inf is right
        return np.float32(1.0) / (np.float32(1.0) + np.exp(-x))


_NUMPY_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "standardize": lambda x, mean, scale: (x - mean) / scale,
    "clip": lambda x, low, high: np.clip(x, low, high),
    "affine": lambda x, scale, offset: x * scale + offset,
    "one_hot": _one_hot,
    "layer_norm": _normalize_layer,
    "dense": lambda x, weight, bias: x @ weight.T + bias,
    "relu": lambda x: np.maximum(x, np.float32(0.0)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, np.float32(0.0)))),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "hardtanh": lambda x, min, max: np.clip(x, min, max),
    "dueling": _dueling,
    "expectation": _expectation,
    "argmax": lambda x: x.argmax(axis=1, keepdims=True).astype(np.float32),
    "argmax_of_each": _argmax_of_each,
    "is_positive": lambda x: (x > 0).astype(np.float32),
}


class SparsePolicy:
    """
    The deterministic policy that ``export --format sparse`` wrote. It multiplies active weights only: in one compiled pass
    over the network, or with NumPy.

    :param observation: Shape of the observation under the name "", or of every entry of a Dict
    :param action: Shape of the action
    :param steps: What is computed, on the observation as one vector
    :param compiled: Whether to run a compiled pass (this package with its extra ``fast``, which takes about a second to load);
        if there is one for None
    :param half_range: (action shape) half the range of every action, which deviations are told in; 1 of those without; None of
        discrete ones
    :param recorded: (number, size) observations as vectors and (number, action shape) actions of the model, if there are some
    :param metadata: What else is known of the policy
    :raises ValueError: if the steps do not fit together.
    """

    def __init__(
        self,
        observation: Mapping[str, tuple[int, ...]],
        action: tuple[int, ...],
        steps: Sequence[Step],
        compiled: bool | None = None,
        half_range: np.ndarray | None = None,
        recorded: tuple[np.ndarray, np.ndarray] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ):
        self.observation, self.action, self.steps = dict(observation), action, list(steps)
        self.half_range, self.recorded, self.metadata = half_range, recorded, dict(metadata or {})
        size = sum(math.prod(shape) for shape in self.observation.values())
        if check_steps(self.steps, size) != math.prod(action):
            raise ValueError(f"the last step does not give actions of shape {action}")
        # Numbers of values of discrete entries, of which there are none but for one-hot vectors of them.
        self._sizes = next((arrays["sizes"] for name, arrays in self.steps if name == "one_hot"), None)
        self._is_discrete = bool(self.steps) and self.steps[-1].name in _CHOICES
        self._pass = _compiled_pass(self.steps, size, compiled) or _NumPyPass(self.steps)

    def __call__(self, observation: Observation) -> np.ndarray:
        """
        :param observation: An observation as the environment returns it, or a batch of them
        :return: The action, or a batch of them, within the bounds of the action space; of discrete actions, the number
        :raises ValueError: if it is no observation of the environment that the policy was trained on, or has NaN in it.
        """
        flat, is_batch = self._flatten(observation)
        actions = self.act_on_vectors(flat)
        return actions if is_batch else actions[0]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        The same with the signature of SB3's models, for ``evaluate_policy`` and the like.

        :param observation: An observation, or a batch of them
        :param state: Returned as it is
        :param episode_start: Not used
        :param deterministic: Must be True: the file holds no noise
        :return: The action or a batch of them, and the state
        :raises ValueError: for random actions.
        """
        if not deterministic:
            raise ValueError("An exported policy is deterministic: call predict(observation, deterministic=True).")
        return self(observation), state

    def check(self) -> float:
        """
        Compare with the recorded actions.

        :return: Largest deviation, as a fraction of half the range of an action; 0 of discrete ones
        :raises ValueError: if it is too large, or nothing was recorded.
        """
        if self.recorded is None:
            raise ValueError("there are no recorded observations")
        observations, actions = self.recorded
        found = deviation(self.act_on_vectors(observations), actions, self.half_range)
        if not found <= TOLERANCE:
            raise ValueError(f"recorded actions are missed by {found:.1e}, more than {TOLERANCE:g}")
        return found

    def act_on_vectors(self, flat: np.ndarray) -> np.ndarray:
        """
        Act without a look at what is given.

        :param flat: (batch, size) float32, contiguous: finite observations as vectors, a Dict's entries one after the other
        :return: (batch, action shape)
        """
        actions = self._pass(flat)
        if self._is_discrete:
            actions = actions.astype(np.int64)
        return actions.reshape(-1, *self.action)

    def _flatten(self, observation: Observation) -> tuple[np.ndarray, bool]:
        """One row for every observation, and whether there is a batch of them."""
        entries = observation if isinstance(observation, Mapping) else {"": observation}
        if entries.keys() != self.observation.keys():
            raise ValueError(f"Expected observations with the entries {list(self.observation)}, got {list(entries)}.")
        parts, is_batch = [], False
        for key, shape in self.observation.items():
            part = np.asarray(entries[key])
            name = f"observations{f' {key!r}' if key else ''}"
            if part.dtype.kind not in "fiub":
                raise ValueError(f"Expected {name} of numbers, got the type {part.dtype}.")
            is_batch = part.ndim > len(shape)
            if part.shape[is_batch:] != shape:
                raise ValueError(f"Expected {name} of shape {shape}, got {part.shape}.")
            parts.append(part.reshape(len(part) if is_batch else 1, math.prod(shape)))
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"Expected as many of every entry, got {[len(part) for part in parts]}.")
        with np.errstate(over="ignore"):  # it is infinite then, and refused
            flat = np.concatenate(parts, axis=1).astype(np.float32, copy=False)
        self._check_values(flat)
        return np.ascontiguousarray(flat), is_batch

    def _check_values(self, flat: np.ndarray) -> None:
        if not np.isfinite(flat).all():
            row, column = np.argwhere(~np.isfinite(flat))[0]
            raise ValueError(f"Observations must be finite, got {flat[row, column]} at position {column}.")
        if self._sizes is None:
            return
        wrong = (self._sizes > 0) & ((flat < 0) | (flat >= self._sizes) | (flat != np.floor(flat)))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            number = self._sizes[column]
            raise ValueError(f"Expected one of 0 to {number - 1} at position {column}, got {flat[row, column]:g}.")

    def save(self, path: str | Path) -> None:
        """
        Write a file for :func:`load_policy`.

        :param path: The file
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "observation": self.observation,
            "action": self.action,
            "steps": [step.name for step in self.steps],
            "metadata": self.metadata,
        }
        arrays = {f"{i}.{key}": array for i, step in enumerate(self.steps) for key, array in step.arrays.items()}
        if self.half_range is not None:
            arrays["half_range"] = self.half_range
        if self.recorded is not None:
            arrays.update(zip(_RECORDED, self.recorded, strict=True))
        text = json.dumps(header)
        with Path(path).open("wb") as file:  # savez would add .npz to another name
            np.savez(file, header=np.array(text), sha256=np.array(_checksum(text, arrays)), **arrays)  # type: ignore[arg-type]


def load_policy(path: str | Path, compiled: bool | None = None) -> SparsePolicy:
    """
    Load what ``export --format sparse`` wrote, and see that it does what the model did. Nothing in the file is executed.

    :param path: The file
    :param compiled: Whether to run a compiled pass, which takes about a second to load; see :class:`SparsePolicy`
    :raises ValueError: if it is no such file, if it is damaged or was edited, or if actions differ from those recorded.
    :raises ImportError: if a compiled pass is asked for, and there is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text, checksum = str(arrays.pop("header")), str(arrays.pop("sha256"))
        header = json.loads(text)
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            found = f"{header['format']!r}, version {header['version']}"
            raise ValueError(f"it has the format {found}, and this module reads {FORMAT!r}, version {VERSION}")
        if checksum != _checksum(text, arrays):
            raise ValueError("its checksum is not that of its content")
        policy = _policy(header, arrays, compiled)
        policy.check()
    except _DAMAGES as error:
        raise ValueError(f"{path} is no policy that was exported with --format sparse, or it is damaged: {error}") from error
    return policy


def _policy(header: Mapping[str, Any], arrays: dict[str, np.ndarray], compiled: bool | None) -> SparsePolicy:
    recorded, half_range = tuple(arrays.pop(name) for name in _RECORDED), arrays.pop("half_range", None)
    steps = [Step(name, {}) for name in header["steps"]]
    for name, array in arrays.items():
        number, _, key = name.partition(".")
        steps[int(number)].arrays[key] = array
    observation = {key: tuple(shape) for key, shape in header["observation"].items()}
    action = tuple(header["action"])
    size = sum(math.prod(shape) for shape in observation.values())
    fits = recorded[0].shape[1:] == (size,) and recorded[1].shape == (len(recorded[0]), *action)
    if not fits or recorded[0].dtype != np.float32 or (half_range is not None and half_range.shape != action):
        raise ValueError("recorded observations and actions are others than the policy's")
    return SparsePolicy(observation, action, steps, compiled, half_range, recorded, header["metadata"])  # type: ignore[arg-type]


def check(path: str | Path) -> float:
    """
    See that a policy does on this machine what the model did where it was exported.

    :param path: File of ``export --format sparse``
    :return: Largest deviation from the recorded actions, as a fraction of half the range of an action; 0 of discrete ones
    :raises ValueError: if it is no such file, or actions differ by more than 1e-5 of half their range.
    """
    return load_policy(path).check()


def deviation(actions: np.ndarray, expected: np.ndarray, half_range: np.ndarray | None) -> float:
    """
    :param actions: (batch, *action) actions
    :param expected: Those that were expected
    :param half_range: Half the range of every action, 1 of those without; None of discrete ones
    :return: Largest deviation as a fraction of half the range; of discrete actions 1 if one is another, else 0
    """
    if half_range is None:
        return float((actions != expected).any())
    return float((np.abs(actions - expected) / half_range).max(initial=0.0))


def _compiled_pass(steps: list[Step], size: int, compiled: bool | None) -> Callable[[np.ndarray], np.ndarray] | None:
    if compiled is False or (compiled is None and not _numba_is_there()):
        return None
    try:
        module: Any = importlib.import_module("sb3_sparse.networks.compiled_program")
    except ImportError as error:  # numba does not load beside a NumPy that it doesn't know
        if compiled:
            raise ImportError(f"A compiled pass needs sb3-sparse and its extra fast: {error}") from error
        warnings.warn(f"numba cannot be used ({error}), so the policy is slower than it could be.", RuntimeWarning)
        return None
    return module.CompiledProgram(steps, size)  # type: ignore[no-any-return]


def _numba_is_there() -> bool:
    is_installed = all(importlib.util.find_spec(name) is not None for name in ("numba", "sb3_sparse"))
    return is_installed and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def _checksum(header: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(f"usage: python {Path(__file__).name} policy.npz", file=sys.stderr)
        return 2
    try:
        found = check(arguments[0])
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments[0]}: deviates from the recorded actions by at most {found:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1:]))
