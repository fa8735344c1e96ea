"""The inner state of environments: pickled as it is, or begun again at the start of an episode."""

import warnings
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.live_pickle import dump, load
from sb3_sparse.checkpoints.random_streams import (
    random_streams,
    restore_random_streams,
    restore_space_streams,
    space_streams,
    untouched_randomness,
)

# What an environment keeps of these does not change while it is stepped, or is a window, or an open file.
_STAYS = (EnvSpec, ResultsWriter, FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_DRAWS = ("pygame", "glfw", "OpenGL", "mujoco.glfw", "mujoco.egl", "mujoco.osmesa")
_CHECKED_STEPS = 4


class EnvironmentStateError(CheckpointError):
    """The state of an environment cannot be stored."""


class EnvironmentState:
    """
    Stores and restores a vectorised environment in place: every wrapper, down to the simulation, its random generator, and
    those of its spaces.

    Attributes are pickled as they are, past what classes define for it: gymnasium's ``EzPickle`` would store constructor
    arguments only. Files, functions, specs and windows stay what they are in the process. That a pickled environment steps
    like the original is tried out on copies.

    Where it does not, or cannot be pickled (``is_exact`` is False), only the start of an episode can be stored: by all random
    streams as they were before the reset, which is made again. Of an environment that is reset before it is used, its random
    generator is enough at any time.

    :param env: ``DummyVecEnv``, wrapped or not
    :param name: What errors call it
    :param is_reset_first: Whether it is reset before it is used again, as evaluation environments are
    """

    def __init__(self, env: VecEnv, name: str = "training environment", is_reset_first: bool = False):
        self.env, self.name, self._is_reset_first = env, name, is_reset_first
        self.parts: dict[Any, Any] = _parts(env, name)
        self.spaces = _spaces(self.parts)
        # Names of parts and spaces, which pickles refer to.
        self.live: dict[Any, Any] = {**self.parts, **self.spaces}
        self._staying = {key: self._names_that_stay(part) for key, part in self.parts.items()}
        self.problem = self._problem()
        self._resets: list[_ResetRecord] = []
        if self.problem is not None:
            self._record_resets()

    @property
    def is_exact(self) -> bool:
        """Whether the state can be stored in the middle of an episode."""
        return self.problem is None

    @property
    def can_be_stored(self) -> bool:
        """Whether the state can be stored now."""
        return self.is_exact or self._is_reset_first or all(record.is_fresh for record in self._resets)

    def results_writers(self) -> list[ResultsWriter]:
        """Files of ``Monitor`` and ``VecMonitor``."""
        return [value for part in self.parts.values() for value in vars(part).values() if isinstance(value, ResultsWriter)]

    def close(self) -> None:
        """Leave the environment alone from now on."""
        for record in self._resets:
            record.close()

    def capture(self, live: Mapping[Any, Any] | None = None) -> dict[str, Any]:
        """
        What :meth:`restore` needs.

        :param live: Further objects to refer to
        :raises EnvironmentStateError: if only the start of an episode can be stored, and this is none.
        """
        if not self.can_be_stored:
            raise EnvironmentStateError(f"The {self.name} can be stored at the start of an episode only: {self.problem}")
        attributes = {key: self._attributes(key) for key in self.parts if self.is_exact or self._is_picklable(key)}
        return {
            "attributes": dump(attributes, {**self.live, **(live or {})}),
            "staying": self._staying,
            "spaces": self._space_streams(),
            "resets": [record.capture() for record in self._resets],
        }

    def restore(self, state: Mapping[str, Any], live: Mapping[Any, Any] | None = None) -> None:
        """
        Bring the environment to where it was.

        :param state: What :meth:`capture` returned
        :param live: Further objects that were referred to
        :raises EnvironmentStateError: if repeating a reset leads elsewhere.
        """
        if len(state["resets"]) != len(self._resets):
            raise EnvironmentStateError(
                f"The {self.name} was stored in another way than it can be restored here: resume with the versions of "
                "sb3-sparse and of the environment's packages that wrote the checkpoint, or begin a new run."
            )
        with untouched_randomness():
            for record, reset in zip(self._resets, state["resets"], strict=True):
                if self._is_reset_first:
                    record.generator.state = reset["now"]
                elif not record.repeat(reset):
                    raise EnvironmentStateError(
                        f"Repeating the last reset of the {self.name} leads to another observation than when the checkpoint "
                        "was written: it has randomness of its own, so it cannot be resumed exactly."
                    )
        attributes = load(state["attributes"], {**self.live, **(live or {})})
        for key, values in attributes.items():
            self._assign(key, values, state["staying"][key] | self._staying[key])
        self._restore_space_streams(state["spaces"])

    def _assign(self, key: str, values: dict[str, Any], staying: set[str]) -> None:
        own = vars(self.parts[key])
        if self.is_exact:
            for name in own.keys() - values.keys() - staying:  # made after the state was stored
                del own[name]
        own.update({name: value for name, value in values.items() if name not in staying})

    def _attributes(self, key: str) -> dict[str, Any]:
        return {name: value for name, value in vars(self.parts[key]).items() if name not in self._staying[key]}

    def _names_that_stay(self, part: Any) -> set[str]:
        return {name for name, value in vars(part).items() if name == "class_attributes" or _stays(value)}

    def _is_picklable(self, key: str) -> bool:
        try:
            dump(self._attributes(key), self.live)
        except Exception:  # whatever an environment's parts raise
            return False
        return True

    def _problem(self) -> str | None:
        """Say why the state cannot be stored as it is, if it cannot."""
        for key, part in self.parts.items():
            for name, value in self._attributes(key).items():
                try:
                    dump(value, self.live)
                except Exception as error:  # whatever an environment's parts raise
                    return f"{type(part).__name__}.{name} cannot be pickled ({type(error).__name__}: {error})."
        streams = self._space_streams()
        try:
            with untouched_randomness():
                return self._difference_of_copies()
        except Exception as error:  # whatever a copy of a foreign environment raises
            return f"a copy of it does not work ({type(error).__name__}: {error})."
        finally:
            self._restore_space_streams(streams)

    def _space_streams(self) -> dict[Any, Any]:
        return {key: space_streams(space) for key, space in self.spaces.items()}

    def _restore_space_streams(self, streams: Mapping[Any, Any]) -> None:
        for key, space in self.spaces.items():
            restore_space_streams(space, streams[key])

    def _difference_of_copies(self) -> str | None:
        """Step a copy, copy that in the middle of its episode, and compare how both go on, past a reset."""
        first = self._copy(self.parts)
        outer = next(iter(first.values()))
        generator = np.random.default_rng(0)
        outer.reset()
        for _ in range(_CHECKED_STEPS):
            outer.step(_random_actions(outer, generator))
        second = self._copy(first)
        seed = int(generator.integers(2**32))
        streams = self._space_streams()
        histories = []
        for copy in (first, second):
            self._restore_space_streams(streams)  # which the copies share
            histories.append(_history(next(iter(copy.values())), seed))
        return None if _equal(*histories) else "a pickled copy of it steps otherwise than the original."

    def _copy(self, parts: dict[Any, Any]) -> dict[Any, Any]:
        """Copies of all parts that share what stays, but write no files."""
        shells: dict[Any, Any] = {key: object.__new__(type(part)) for key, part in parts.items()}
        values = {
            key: {name: value for name, value in vars(part).items() if name not in self._staying[key]}
            for key, part in parts.items()
        }
        streams: dict[Any, Any] = dict(self.spaces)
        content = dump(values, {**parts, **streams})
        for key, attributes in load(content, {**shells, **streams}).items():
            shared = {name: vars(parts[key])[name] for name in self._staying[key] if name in vars(parts[key])}
            files = {name: None for name, value in shared.items() if isinstance(value, ResultsWriter)}
            vars(shells[key]).update({**shared, **attributes, **files})
        return shells

    def _record_resets(self) -> None:
        vec_env = self.env.unwrapped
        assert isinstance(vec_env, DummyVecEnv)
        self._resets = [_ResetRecord(vec_env, index) for index in range(vec_env.num_envs)]


class _ResetRecord:
    """Notes what the last reset of an environment started from; it is in the way of its ``reset`` from then on."""

    def __init__(self, vec_env: DummyVecEnv, index: int):
        self._vec_env, self._index = vec_env, index
        self._env = vec_env.envs[index]
        layers = {str(depth): layer for depth, layer in enumerate(_layers(self._env))}
        self._spaces = list(_spaces(layers).values())
        self._reset, self._step = self._env.reset, self._env.step
        self._before: Any = None
        self._arguments: dict[str, Any] = {}
        self._observation: Any = None
        self.is_fresh = False
        self._env.reset, self._env.step = self.reset, self.step  # type: ignore[method-assign, assignment]

    @property
    def generator(self) -> Any:
        return self._env.unwrapped.np_random.bit_generator

    def close(self) -> None:
        for name in ("reset", "step"):
            vars(self._env).pop(name, None)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self._before = self._streams()
        self._arguments = arguments
        observation, info = self._reset(**arguments)
        self._observation, self.is_fresh = observation, True
        return observation, info

    def step(self, action: Any) -> Any:
        self.is_fresh = False
        return self._step(action)

    def capture(self) -> dict[str, Any]:
        started = {"before": self._before, "arguments": self._arguments, "observation": self._observation}
        return {**started, "now": self.generator.state}

    def repeat(self, state: Mapping[str, Any]) -> bool:
        self.generator.state = state["before"]["own"]
        restore_random_streams(state["before"]["shared"])
        for space, streams in zip(self._spaces, state["before"]["spaces"], strict=True):
            restore_space_streams(space, streams)
        observation, _ = self.reset(**state["arguments"])
        return _equal(observation, state["observation"])

    def _streams(self) -> dict[str, Any]:
        """All that a reset may draw from."""
        spaces = [space_streams(space) for space in self._spaces]
        return {"own": self.generator.state, "shared": random_streams(), "spaces": spaces}


def _parts(env: VecEnv, name: str) -> dict[Any, Any]:
    """Every layer of a vectorised environment, the outermost one first."""
    parts: dict[str, Any] = {}
    while isinstance(env, VecEnvWrapper):
        parts[f"{name}/vec{len(parts)}"] = env
        env = env.venv
    parts[f"{name}/vec{len(parts)}"] = env
    for index, single in enumerate(env.envs if isinstance(env, DummyVecEnv) else ()):
        for depth, layer in enumerate(_layers(single)):
            parts[f"{name}/{index}.{depth}"] = layer
    return parts


def _layers(env: gym.Env) -> Iterator[Any]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _spaces(parts: Mapping[Any, Any]) -> dict[Any, spaces.Space]:
    """Spaces that parts keep, each once."""
    found: dict[int, tuple[str, spaces.Space]] = {}
    for key, part in parts.items():
        for name, value in vars(part).items():
            if isinstance(value, spaces.Space):
                found.setdefault(id(value), (f"{key}.{name}", value))
    return dict(found.values())


def _stays(value: Any) -> bool:
    return isinstance(value, _STAYS) or type(value).__module__.startswith(_DRAWS)


def _random_actions(env: VecEnv, generator: np.random.Generator) -> np.ndarray:
    space = env.action_space
    streams = space_streams(space)
    space.seed(int(generator.integers(2**31)))
    actions = np.array([space.sample() for _ in range(env.num_envs)])
    restore_space_streams(space, streams)
    return actions


def _history(env: VecEnv, seed: int) -> list[Any]:
    """What an environment returns with fixed random streams: some steps, a reset, some more."""
    generator = np.random.default_rng(seed)
    with untouched_randomness(seed):
        steps = [env.step(_random_actions(env, generator)) for _ in range(_CHECKED_STEPS)]
        start = env.reset()
        return [steps, start, [env.step(_random_actions(env, generator)) for _ in range(_CHECKED_STEPS)]]


def _equal(one: Any, other: Any) -> bool:
    """Whether two nested results are the same numbers; wall-clock times, which Monitor notes, are left out."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one if key != "t")
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, np.ndarray | np.generic | float | int | bool):
        return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind in "fc")
    return True


def warn_of_inexact(state: EnvironmentState) -> None:
    """
    Say what follows if an environment's state cannot be stored as it is.

    :param state: State of an environment
    """
    if not state.is_exact:
        warnings.warn(
            f"Checkpoints are written at the start of episodes only, because the {state.name} cannot be stored as it is: "
            f"{state.problem}",
            stacklevel=2,
        )
