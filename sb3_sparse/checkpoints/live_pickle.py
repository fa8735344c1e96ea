"""Pickling state that refers to objects which stay: environments, spaces, the model."""

import io
import pickle
from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch as th

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError

_EMULATOR = ("ale_py._ale_py", "ALEInterface")
_RENDERER = ("gymnasium.envs.mujoco.mujoco_rendering", "MujocoRenderer")


def dump(value: Any, live: Mapping[Any, Any]) -> bytes:
    """
    Pickle a value, with references to live objects by their names.

    :param value: What to pickle
    :param live: Name -> object that is referred to, not copied
    :return: Pickle, which only :func:`load` reads
    :raises Exception: whatever the parts of the value raise that cannot be pickled.
    """
    file = io.BytesIO()
    _LivePickler(file, live).dump(value)
    return file.getvalue()


def load(content: bytes, live: Mapping[Any, Any]) -> Any:
    """
    Read what :func:`dump` wrote; like every pickle it can execute code, so read only what you trust.

    :param content: The pickle
    :param live: Name -> object that takes the place of the one of this name
    """
    return _LiveUnpickler(io.BytesIO(content), live).load()


class _LivePickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, live: Mapping[Any, Any]):
        super().__init__(file, protocol=5)
        self._names = {id(value): name for name, value in live.items()}

    def persistent_id(self, value: Any) -> Hashable | None:
        if isinstance(value, ModuleType):
            return "module", value.__name__
        name = self._names.get(id(value))
        return None if name is None else ("live", name)

    def reducer_override(self, value: Any) -> Any:
        if type(value) is th.Generator:  # asking torch by isinstance() takes microseconds, for every object
            return _generator, (str(value.device), value.get_state())
        if (type(value).__module__, type(value).__name__) == _RENDERER:
            # Windows and GL contexts are opened again when something is drawn.
            state = {**vars(value), "viewer": None, "_viewers": {}}
            return _instance, (type(value),), state
        if (type(value).__module__, type(value).__name__) == _EMULATOR:
            if value.getFloat("repeat_action_probability") > 0.0:
                raise pickle.PicklingError(
                    "ALE's states lack the action that sticky actions may repeat; with those of SB3's "
                    "AtariWrapper(env, action_repeat_probability=...) a state can be stored at any time"
                )
            return _emulator, (_emulator_settings(value), value.cloneState(include_rng=True))
        return NotImplemented


class _LiveUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, live: Mapping[Any, Any]):
        super().__init__(file)
        self._live = live

    def persistent_load(self, name: Any) -> Any:
        kind, key = name
        if kind == "module":
            return __import__(key, fromlist=["_"])
        try:
            return self._live[key]
        except KeyError:
            raise CheckpointError(f"The checkpoint refers to {key!r}, which this run does not have.") from None


def _generator(device: str, state: th.Tensor) -> th.Generator:
    generator = th.Generator(device)
    generator.set_state(state)
    return generator


def _emulator_settings(emulator: Any) -> list[Any]:
    """The game of an ``ale_py.ALEInterface``, numbers, and flags."""
    return [
        emulator.getString("rom_file"),
        {name: emulator.getInt(name) for name in ("random_seed", "frame_skip", "max_num_frames_per_episode")},
        {name: emulator.getBool(name) for name in ("color_averaging", "sound_obs")},
    ]


def _emulator(settings: Sequence[Any], state: Any) -> Any:
    from ale_py import ALEInterface  # the extra "atari"

    game, numbers, flags = settings
    emulator = ALEInterface()
    for name, number in numbers.items():
        emulator.setInt(name, number)
    for name, flag in flags.items():
        emulator.setBool(name, flag)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(game)
    emulator.restoreState(state)
    return emulator


def _instance(kind: type) -> Any:
    return object.__new__(kind)
