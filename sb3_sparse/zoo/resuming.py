"""``sb3-sparse train`` with checkpoints: options that the RL Zoo does not know, and the run that is gone on with."""

import argparse
import functools
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_sparse.checkpoints import ExactCheckpointCallback, ResumableEnv
from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.zoo.run_folders import RunFolder

FOLDER = "checkpoints"
_DEFAULT_FREQ = 10_000


class OptionError(ValueError):
    """Options that do not fit each other."""


@dataclass(frozen=True)
class Checkpointing:
    """
    Which checkpoints a training run of the zoo writes.

    :param freq: Agent steps between two
    :param run: Folder of the run that is gone on with, None for a new one
    """

    freq: int
    run: Path | None


# What the managers made from now on do; the zoo offers no way to hand it to them.
_active: Checkpointing | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """
    Add our options to a parser of the zoo's command line.

    :param parser: Parser
    """
    parser.add_argument("--checkpoint-freq", type=int, help="agent steps between checkpoints that a killed run goes on from")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the newest run of this algorithm, environment and seed that has checkpoints, or begin one",
    )


def parse_options(words: Sequence[str]) -> tuple[Checkpointing | None, list[str]]:
    """
    Take our options out of a command line.

    :param words: Options of ``train``
    :return: What they ask for, None without them, and the options that are left for the zoo
    :raises OptionError: if they do not fit others.
    """
    parser = argparse.ArgumentParser(prog="sb3-sparse train", add_help=False, allow_abbrev=False)
    add_options(parser)
    if {"-h", "--help"}.intersection(words):  # the zoo's own follows
        parser.print_help()
    ours, rest = parser.parse_known_args(words)
    if ours.checkpoint_freq is None and not ours.resume:
        return None, rest
    freq = _DEFAULT_FREQ if ours.checkpoint_freq is None else ours.checkpoint_freq
    if freq < 1:
        raise OptionError(f"--checkpoint-freq must be at least 1, got {freq}.")
    theirs = _zoo_options(rest)
    _check_fits(theirs)
    run = _newest_run(theirs) if ours.resume else None
    if run is not None and theirs.seed < 0:
        rest = [*rest, "--seed", str(RunFolder(run).zoo_arguments["seed"])]
    return Checkpointing(freq, run), rest


@contextmanager
def checkpointing(asked: Checkpointing | None) -> Iterator[None]:
    """
    Have the zoo write checkpoints meanwhile.

    :param asked: Which ones, None for none
    """
    global _active
    _active = asked
    try:
        yield
    finally:
        _active = None


def write_checkpoints(manager_class: Any) -> None:
    """
    Have the zoo write checkpoints where ``train`` was asked for them.

    :param manager_class: The zoo's ``ExperimentManager``, changed in place
    """
    create_log_folder, create_callbacks = manager_class.create_log_folder, manager_class.create_callbacks
    create_envs = manager_class.create_envs

    @functools.wraps(create_log_folder)
    def in_the_same_folder(self: Any) -> None:
        if _active is not None and _active.run is not None:
            self.save_path = str(_active.run)
            self.params_path = f"{self.save_path}/{self.env_name}"
            # Before Monitors are made, which truncate the files of a run that still goes on.
            CheckpointFolder(_active.run / FOLDER).acquire()
        create_log_folder(self)

    @functools.wraps(create_callbacks)
    def with_checkpoints(self: Any) -> None:
        create_callbacks(self)
        if _active is not None:
            folder = Path(self.save_path) / FOLDER
            self.callbacks.append(ExactCheckpointCallback(folder, _active.freq, exit_on_signal=True, verbose=self.verbose))

    @functools.wraps(create_envs)
    def resumable(self: Any, *args: Any, **kwargs: Any) -> VecEnv:
        wrapper = self.env_wrapper
        if _active is not None and not issubclass(self.vec_env_class, DummyVecEnv):
            self.env_wrapper = functools.partial(_wrap, wrapper)
        try:
            return create_envs(self, *args, **kwargs)
        finally:
            self.env_wrapper = wrapper

    manager_class.create_log_folder, manager_class.create_callbacks = in_the_same_folder, with_checkpoints
    manager_class.create_envs = resumable


def _wrap(wrapper: Callable[[gym.Env], gym.Env] | None, env: gym.Env) -> gym.Env:
    """The wrapper that was asked for, and ours around it."""
    return ResumableEnv(env if wrapper is None else wrapper(env))


def _zoo_options(words: Sequence[str]) -> argparse.Namespace:
    """Those of the zoo's options that we need, with its defaults."""
    parser = argparse.ArgumentParser(prog="sb3-sparse train", add_help=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"))
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("-optimize", "--optimize-hyperparameters", action="store_true")
    return parser.parse_known_args(words)[0]


def _check_fits(theirs: argparse.Namespace) -> None:
    if theirs.optimize_hyperparameters:
        raise OptionError("--checkpoint-freq and --resume are for single runs: a search goes on by --storage, --study-name.")


def _newest_run(theirs: argparse.Namespace) -> Path | None:
    name = importlib.import_module("rl_zoo3.utils").EnvironmentName(theirs.env)
    pattern = re.compile(re.escape(str(name)) + r"_(\d+)(_[0-9a-f-]+)?")
    runs = {}
    for folder in (theirs.log_folder / theirs.algo).glob(f"{name}_*"):
        match = pattern.fullmatch(folder.name)
        if match and any((folder / FOLDER).glob("checkpoint-*.json")) and _fits(folder, theirs.seed):
            runs[int(match[1])] = folder
    return runs[max(runs)] if runs else None


def _fits(run: Path, seed: int) -> bool:
    return seed < 0 or RunFolder(run).zoo_arguments["seed"] == seed
