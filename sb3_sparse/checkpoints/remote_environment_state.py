"""The inner state of environments that run in other processes."""

import atexit
import os
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_sparse.checkpoints.environment_state import EnvironmentState, EnvironmentStateError
from sb3_sparse.checkpoints.live_pickle import dump
from sb3_sparse.checkpoints.resumable_env import ResumableEnv

# What a vectorised environment keeps in this process beside its pipes.
_KEPT_HERE = {"reset_infos", "_seeds", "_options"}


def environment_state(env: VecEnv, name: str = "training environment", is_reset_first: bool = False) -> EnvironmentState:
    """
    Find out how the state of a vectorised environment can be stored.

    :param env: Vectorised environment, wrapped or not
    :param name: What errors call it
    :param is_reset_first: Whether it is reset before it is used again, as evaluation environments are
    :raises EnvironmentStateError: if its environments run elsewhere, without :class:`ResumableEnv`.
    """
    kind = EnvironmentState if isinstance(env.unwrapped, DummyVecEnv) else RemoteEnvironmentState
    return kind(env, name, is_reset_first)


class RemoteEnvironmentState(EnvironmentState):
    """
    As :class:`~sb3_sparse.checkpoints.environment_state.EnvironmentState`, for environments that run in other processes, where
    :class:`~sb3_sparse.checkpoints.ResumableEnv` stores and restores them; wrappers of the vectorised environment are stored
    here.

    :param env: ``SubprocVecEnv``, or one like it, wrapped or not
    :param name: What errors call it
    :param is_reset_first: Whether it is reset before it is used again, as evaluation environments are
    :raises EnvironmentStateError: if an environment has no ``ResumableEnv``, or a wrapper cannot be pickled.
    """

    def __init__(self, env: VecEnv, name: str = "training environment", is_reset_first: bool = False):
        self._workers = env.unwrapped
        _refuse_others(self._workers, name)
        self._processes = self._workers.processes if isinstance(self._workers, SubprocVecEnv) else []
        super().__init__(env, name, is_reset_first)

    @property
    def can_be_stored(self) -> bool:
        """Whether the state can be stored now."""
        return self.is_exact or all(self._workers.env_method("can_be_stored"))

    def close(self) -> None:
        """Leave the environment alone from now on."""
        atexit.unregister(self._kill)
        if all(process.is_alive() for process in self._processes):
            self._workers.env_method("end_checkpoints")

    def _kill(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()

    def capture(self, live: Mapping[Any, Any] | None = None) -> dict[str, Any]:
        """See :class:`~sb3_sparse.checkpoints.environment_state.EnvironmentState`."""
        return {**super().capture(live), "workers": self._workers.env_method("capture_checkpoint")}

    def restore(self, state: Mapping[str, Any], live: Mapping[Any, Any] | None = None) -> None:
        """See :class:`~sb3_sparse.checkpoints.environment_state.EnvironmentState`."""
        for index, worker in enumerate(state["workers"]):
            (problem,) = self._workers.env_method("restore_checkpoint", worker, indices=index)
            if problem is not None:
                raise EnvironmentStateError(problem)
        super().restore(state, live)

    def _names_that_stay(self, part: Any) -> set[str]:
        return set(vars(part)) - _KEPT_HERE if part is self._workers else super()._names_that_stay(part)

    def _problem(self) -> str | None:
        for key, part in self.parts.items():
            try:
                dump(self._attributes(key), self.live)
            except Exception as error:  # whatever a wrapper raises
                raise EnvironmentStateError(
                    f"The {type(part).__name__} around the {self.name} cannot be stored: {type(error).__name__}: {error}."
                ) from error
        # Python would ask processes to end that ignore it from now on, and wait for them.
        atexit.register(self._kill)
        problems = self._workers.env_method("begin_checkpoints", self.name, self._is_reset_first, os.getpid())
        return next((problem for problem in problems if problem is not None), None)

    def _record_resets(self) -> None:
        """The processes of the environments do that."""


def _refuse_others(workers: VecEnv, name: str) -> None:
    if not all(workers.env_is_wrapped(ResumableEnv)):
        raise EnvironmentStateError(
            f"The {name} is a {type(workers).__name__}, whose environments run in other processes, where their state can be "
            "stored by sb3_sparse.ResumableEnv only: make_vec_env(..., wrapper_class=ResumableEnv), or ResumableEnv(env) in "
            "the functions that SubprocVecEnv gets; or use DummyVecEnv."
        )
    outermost = set(workers.env_method("class_name"))
    if outermost != {ResumableEnv.__name__}:
        raise EnvironmentStateError(
            f"The {name} has {', '.join(sorted(outermost))} around ResumableEnv, which stores what is within it only: make "
            "ResumableEnv the outermost wrapper."
        )
