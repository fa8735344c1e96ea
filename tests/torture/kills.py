"""Runs that are killed at random moments and started again, compared with runs that were never killed."""

import multiprocessing
import random
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch as th
from fork_server import preload

from torture.envs import DISCRETE, GOALS, IMAGES, MASKS
from torture.models import OUTPUTS, TortureRun
from torture.runs import differences, outcome, train
from torture.trial import Trial

RUNS = [
    *(TortureRun(a) for a in ("SB3 SAC", "SB3 DDPG", "SB3 TD3", "TQC", "SAC", "DDPG", "TD3", "StreamAC")),
    TortureRun("SAC", sparsity=0.0, callbacks=("eval", "plasticity")),
    TortureRun("SB3 SAC", topology="set"),
    TortureRun("TD3", topology="rigl", normalize=True),
    TortureRun("TQC", topology="pruning"),
    TortureRun("SAC", callbacks=("reset", "redo", "eval")),
    TortureRun("SB3 SAC, MlpPolicy", n_steps=3, buffer_size=150),
    TortureRun("DDPG", noise="ou", n_envs=2),
    TortureRun("DrQv2", env=IMAGES, buffer_size=150),
    TortureRun("DER", env=DISCRETE, buffer_size=150),
    TortureRun("DrQv2", env=IMAGES, n_envs=2, topology="set", callbacks=("plasticity", "eval")),
    TortureRun("DER", env=DISCRETE, topology="rigl", callbacks=("reset", "eval")),
    TortureRun("SAC", env=GOALS),
    TortureRun("SB3 SAC", n_envs=2, subprocesses=True, normalize=True),
    TortureRun("SB3 SAC, MlpPolicy", use_sde=True, outputs=OUTPUTS),
    *(TortureRun(a, env=DISCRETE) for a in ("DQN", "QR-DQN")),
    TortureRun("CrossQ"),
    TortureRun("PPO", n_envs=2, subprocesses=True, callbacks=("eval",)),
    TortureRun("PPO, sparsify", normalize=True, outputs=OUTPUTS),
    TortureRun("A2C", n_envs=2, log_interval=3),
    TortureRun("TRPO"),
    TortureRun("RecurrentPPO", env=DISCRETE, n_envs=2),
    TortureRun("MaskablePPO", env=MASKS),
    TortureRun("StreamAC", callbacks=("eval",), steps=3_000, save_freq=200),
]

# Exit status of a run that was refused.
REFUSED = 3


def kill_points(runs: Sequence[TortureRun], kills: int, folder: Path, seed: int = 0) -> Iterator[Trial]:
    """
    Kill each run by SIGKILL, again and again, at moments drawn uniformly from its whole duration, from the making of its
    model to its last file; then let it end.

    :param runs: What to train
    :param kills: Number of kills of each run
    :param folder: Folder to work in
    :param seed: Seed of the moments
    """
    generator = random.Random(seed)
    for number, run in enumerate(runs):
        whole, killed = folder / f"{number}-whole", folder / f"{number}-killed"
        start(replace(run, steps=1), folder / f"{number}-warm-up").join()
        began = time.monotonic()
        finish(start(run, whole))
        duration = time.monotonic() - began
        expected, found = outcome(whole), list[str]()
        moments: list[float] = []
        while len(moments) < kills:
            process, moment = start(run, killed), generator.uniform(0.0, duration)
            process.join(moment)
            if process.is_alive():
                process.kill()
                process.join()
                moments.append(round(moment, 3))
            else:  # former lives had come far: compare, and begin anew
                finish(process)
                found += differences(expected, outcome(killed))
                shutil.rmtree(killed)
        finish(start(run, killed))
        found += differences(expected, outcome(killed))
        yield Trial(f"{describe(run)}, killed after {moments} s", "; ".join(found[:3]) or None)


def describe(run: TortureRun) -> str:
    """
    Name a run by what is not default.

    :param run: Run
    """
    default = TortureRun(run.algorithm)
    changed = {key: value for key, value in vars(run).items() if value != getattr(default, key)}
    return ", ".join([run.algorithm, *(f"{key}={value}" for key, value in changed.items())])


def start(run: TortureRun, folder: Path, limit: int | None = None) -> BaseProcess:
    """
    Train in a process of its own.

    :param run: What to train
    :param folder: Folder of the run
    :param limit: Bytes beyond which no file can grow, as if the disk were full
    """
    preload()
    process = multiprocessing.get_context("forkserver").Process(target=_train_quietly, args=(run, folder, limit))
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    """
    Wait for a run's end.

    :param process: What :func:`start` returned
    :raises RuntimeError: if it failed.
    """
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"A run ended with status {process.exitcode}; what it said is above.")


def _train_quietly(run: TortureRun, folder: Path, limit: int | None) -> None:
    if limit is not None:
        import resource  # which Windows does not have

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        train(run, folder)
    except ValueError as error:  # what the user is to read, without a traceback
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
