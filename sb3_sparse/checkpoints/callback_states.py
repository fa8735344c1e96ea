"""The state of all callbacks of a run."""

import pickle
import random
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.algorithms.own_algorithm import Checkpointed
from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.environment_state import EnvironmentState, EnvironmentStateError
from sb3_sparse.checkpoints.remote_environment_state import environment_state

# What SB3 gives to every callback.
_OF_THE_RUN = {"model", "parent", "locals", "globals", "training_env", "_training_env", "logger", "_logger"}
# Nothing to store, though it is no plain data.
_STATELESS: dict[type[BaseCallback], set[str]] = {ProgressBarCallback: {"pbar"}, ConvertCallback: {"callback"}}


class CallbackStates:
    """
    Stores and restores callbacks. One of this package's kind says itself what its state is, by ``checkpoint_state()`` and
    ``restore_checkpoint_state(state)``. Of all others, SB3's among them, plain data (numbers, strings, arrays, random
    generators, and containers of these) that has changed since the start of training is stored, evaluation environments as the
    training environment is; what else there is, is named in one warning.

    :param root: The callback that ``learn()`` was given, or made of it
    :param skip: Callback to leave out
    """

    def __init__(self, root: BaseCallback, skip: BaseCallback):
        self.callbacks = {path: callback for path, callback in _walk(root, "callback") if callback is not skip}
        self._at_start = {path: _pickles(callback) for path, callback in self.callbacks.items()}
        # Restored in a former life: what is like at the start now was not then.
        self._known: dict[str, set[str]] = {}
        self.environments = self._evaluation_environments()
        self._warn_of_foreign_state()

    def capture(self) -> dict[str, Any]:
        """What :meth:`restore` needs."""
        callbacks = {path: self._capture(path, callback) for path, callback in self.callbacks.items()}
        environments = {path: state.capture() for path, state in self.environments.items()}
        return {"callbacks": callbacks, "environments": environments}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Bring all callbacks to where they were.

        :param state: What :meth:`capture` returned
        :raises CheckpointError: if there are other callbacks than there were.
        """
        theirs, ours = list(state["callbacks"]), list(self.callbacks)
        kinds = {path: (type(callback).__name__) for path, callback in self.callbacks.items()}
        if theirs != ours or any(state["callbacks"][path]["kind"] != kinds[path] for path in ours):
            before = [entry["kind"] for entry in state["callbacks"].values()]
            raise CheckpointError(
                f"The checkpoint was written in a run with the callbacks {before}, this one has {list(kinds.values())}: give "
                "the same ones in the same order."
            )
        for path, callback in self.callbacks.items():
            self._restore(path, callback, state["callbacks"][path])
        for path, environment in state["environments"].items():
            self.environments[path].restore(environment)

    def _capture(self, path: str, callback: BaseCallback) -> dict[str, Any]:
        kind = type(callback).__name__
        own = callback.checkpoint_state() if isinstance(callback, Checkpointed) else None
        start, known = self._at_start[path], self._known.get(path, set())
        now = _pickles(callback)
        changed = {name: vars(callback)[name] for name in now if name in known or now[name] != start.get(name)}
        return {"kind": kind, "own": own, "attributes": changed}

    def _restore(self, path: str, callback: BaseCallback, state: Mapping[str, Any]) -> None:
        self._known[path] = set(state["attributes"])
        vars(callback).update(state["attributes"])
        if isinstance(callback, Checkpointed):
            callback.restore_checkpoint_state(state["own"])
        if isinstance(callback, ProgressBarCallback):
            callback.pbar.update(callback.model.num_timesteps - callback.pbar.n)

    def _evaluation_environments(self) -> dict[str, EnvironmentState]:
        found: dict[str, EnvironmentState] = {}
        for path, callback in self.callbacks.items():
            for name, value in vars(callback).items():
                if isinstance(value, VecEnv) and name not in _OF_THE_RUN:
                    try:
                        state = environment_state(value, f"{type(callback).__name__}'s {name}", is_reset_first=True)
                        found[f"{path}.{name}"] = state
                    except EnvironmentStateError as error:
                        warnings.warn(f"{error} Evaluations after resuming may begin in other states.", stacklevel=2)
        return found

    def _warn_of_foreign_state(self) -> None:
        foreign = []
        for callback in self.callbacks.values():
            if isinstance(callback, Checkpointed):
                continue
            stateless = set().union(*(names for kind, names in _STATELESS.items() if isinstance(callback, kind)))
            for name, value in vars(callback).items():
                if name not in _OF_THE_RUN | stateless and not _is_plain(value) and not _is_followed(value):
                    foreign.append(f"{type(callback).__name__}.{name}")
        if foreign:
            warnings.warn(
                f"Not part of checkpoints, as it is no plain data: {', '.join(foreign)}. If it changes during training, give "
                "the callback the methods checkpoint_state() and restore_checkpoint_state(state).",
                stacklevel=2,
            )


def _walk(callback: BaseCallback, path: str) -> Iterator[tuple[str, BaseCallback]]:
    yield path, callback
    for name, value in vars(callback).items():
        if name in _OF_THE_RUN:
            continue
        if isinstance(value, BaseCallback):
            yield from _walk(value, f"{path}.{name}")
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, BaseCallback):
                    yield from _walk(entry, f"{path}.{name}[{index}]")


def _is_followed(value: Any) -> bool:
    """Callbacks and environments are stored by themselves; classes, functions and frozen dataclasses do not change."""
    if isinstance(value, list | tuple):
        return all(map(_is_followed, value))
    if isinstance(value, Mapping):
        return all(map(_is_followed, value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]
    return isinstance(value, BaseCallback | VecEnv | type) or callable(value)


def _pickles(callback: BaseCallback) -> dict[str, bytes]:
    return {
        name: pickle.dumps(value) for name, value in vars(callback).items() if name not in _OF_THE_RUN and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value).__module__ in ("builtins", "collections") and all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple | set | frozenset | deque):
        return all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return value.dtype != object
    plain = (bool, int, float, complex, str, bytes, np.generic, np.random.Generator, np.random.RandomState)
    return value is None or isinstance(value, (*plain, random.Random, PurePath, th.Tensor))
