"""A policy that multiplies active weights only, from a file that is read without its model, its environment and pickle."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sb3_sparse.networks.steps import Step, check_steps, run_steps
from sb3_sparse.sparsity.products.choice import kernels_are_available

FORMAT_VERSION = 1


class SparsePolicy:
    """
    The deterministic policy that ``export --format sparse`` wrote. It multiplies active weights only: in one compiled pass
    over the network if numba is installed (extra ``fast``), else with NumPy.

    :param observation: Shape of the observation under the name "", or of every entry of a Dict
    :param action: Shape of the action
    :param steps: What is computed, on the observation as one vector
    :raises ValueError: if the steps do not fit together.
    """

    def __init__(self, observation: Mapping[str, tuple[int, ...]], action: tuple[int, ...], steps: list[Step]):
        self.observation, self.action, self.steps = dict(observation), action, steps
        size = sum(math.prod(shape) for shape in self.observation.values())
        check_steps(steps, size)
        self._compiled: Any = None
        if kernels_are_available():
            from sb3_sparse.networks.compiled_program import CompiledProgram

            self._compiled = CompiledProgram(steps, size)

    def __call__(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """
        :param observation: An observation as the environment returns it, or a batch of them
        :return: The action, or a batch of them, within the bounds of the action space; of discrete actions, the number
        :raises ValueError: if it is no observation of the environment that the policy was trained on.
        """
        flat, is_batch = self._flatten(observation)
        actions = run_steps(self.steps, flat) if self._compiled is None else self._compiled(flat)
        if self.steps and self.steps[-1].name == "argmax":
            actions = actions.astype(np.int64)
        actions = actions.reshape(-1, *self.action)
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

    def _flatten(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> tuple[np.ndarray, bool]:
        """One row for every observation, and whether there is a batch of them."""
        entries = observation if isinstance(observation, Mapping) else {"": observation}
        if entries.keys() != self.observation.keys():
            raise ValueError(f"Expected observations with the entries {list(self.observation)}, got {list(entries)}.")
        parts, is_batch = [], False
        for key, shape in self.observation.items():
            part = np.asarray(entries[key], dtype=np.float32)
            is_batch = part.ndim > len(shape)
            if part.shape[is_batch:] != shape:
                raise ValueError(f"Expected observations{f' {key!r}' if key else ''} of shape {shape}, got {part.shape}.")
            parts.append(part.reshape(len(part) if is_batch else 1, math.prod(shape)))
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)), is_batch

    def save(self, path: Path) -> None:
        """
        Write a file for :func:`load_policy`.

        :param path: The file
        """
        names = [step.name for step in self.steps]
        header = {"version": FORMAT_VERSION, "observation": self.observation, "action": self.action, "steps": names}
        arrays = {f"{i}.{key}": array for i, step in enumerate(self.steps) for key, array in step.arrays.items()}
        with path.open("wb") as file:  # savez would add .npz to another name
            np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def load_policy(path: str | Path) -> SparsePolicy:
    """
    Load what ``export --format sparse`` wrote.

    :param path: The file
    :raises ValueError: if it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["version"] != FORMAT_VERSION:
                raise ValueError(f"it has version {header['version']} of the format, and this package reads {FORMAT_VERSION}")
            steps = [Step(name, {}) for name in header["steps"]]
            for name in set(file.files) - {"header"}:
                number, _, key = name.partition(".")
                steps[int(number)].arrays[key] = file[name]
        observation = {key: tuple(shape) for key, shape in header["observation"].items()}
        return SparsePolicy(observation, tuple(header["action"]), steps)
    except (AttributeError, BadZipFile, EOFError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no policy that was exported with --format sparse, or it is damaged: {error}") from error
