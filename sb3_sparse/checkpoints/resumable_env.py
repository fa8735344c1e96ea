"""Environments in other processes, whose state is asked for there."""

import os
import signal
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sparse.checkpoints.environment_state import EnvironmentState, EnvironmentStateError
from sb3_sparse.checkpoints.fingerprint import environment_layers
from sb3_sparse.checkpoints.log_files import file_content, rewrite_file
from sb3_sparse.checkpoints.random_streams import random_streams, restore_random_streams
from sb3_sparse.checkpoints.signals import SIGNALS, restore_handlers


class ResumableEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Lets :class:`~sb3_sparse.checkpoints.ExactCheckpointCallback` store and restore an environment that runs in a process of
    its own. It must be the outermost wrapper, and changes nothing else.

    .. code-block:: python

        env = make_vec_env("HalfCheetah-v5", 4, seed=0, wrapper_class=ResumableEnv, vec_env_cls=SubprocVecEnv)

    The methods are what ``SubprocVecEnv.env_method`` calls. The process is taken to be the environment's own: its random
    streams (Python's, NumPy's, torch's) are part of the state, and so is the file of a ``Monitor``. It ignores SIGTERM and
    SIGINT, which terminals and clusters send to all processes of a program, until the one that trains has obeyed them.

    :param env: Environment, with all other wrappers
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._state: EnvironmentState | None = None
        self._former: dict[int, Any] = {}

    def begin_checkpoints(self, name: str, is_reset_first: bool, trainer: int) -> str | None:
        """
        Find out whether the state can be stored; before all other methods.

        :param name: What errors call the environment
        :param is_reset_first: Whether it is reset before it is used again
        :param trainer: Number of the process that trains
        :return: Why the state cannot be stored in the middle of an episode, None if it can
        """
        if os.getpid() != trainer and not self._former:
            self._former = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
        self._state = EnvironmentState(DummyVecEnv([lambda: self.env]), name, is_reset_first)
        return self._state.problem

    def end_checkpoints(self) -> None:
        """Leave the environment alone from now on."""
        if self._state is not None:
            self._state.close()
            self._state = None
        restore_handlers(self._former)

    def can_be_stored(self) -> bool:
        """Whether the state can be stored now."""
        return self._begun.can_be_stored

    def capture_checkpoint(self) -> dict[str, Any]:
        """What :meth:`restore_checkpoint` needs."""
        return {
            "environment": self._begun.capture(),
            "streams": random_streams(),
            "monitors": [file_content(writer.file_handler) for writer in self._begun.results_writers()],
        }

    def restore_checkpoint(self, state: Mapping[str, Any]) -> str | None:
        """
        Bring the environment to where it was.

        :param state: What :meth:`capture_checkpoint` returned
        :return: Why it could not, None if it could: an exception would end the process
        """
        try:
            self._begun.restore(state["environment"])
        except EnvironmentStateError as error:
            return str(error)
        for writer, content in zip(self._begun.results_writers(), state["monitors"], strict=True):
            rewrite_file(writer.file_handler, content)
        restore_random_streams(state["streams"])
        return None

    def describe_layers(self) -> list[str]:
        """Names of the environment and its wrappers."""
        return environment_layers(self.env)

    @property
    def _begun(self) -> EnvironmentState:
        assert self._state is not None
        return self._state
