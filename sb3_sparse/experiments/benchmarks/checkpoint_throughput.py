"""Training with and without checkpoints, in turn: how much of the throughput is left."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.experiments.markdown_table import markdown_table, spread
from sb3_sparse.arguments import check_integer
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.experiments.benchmarks.checkpoint_cost import SAVE_FREQ, random_episodes
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC


@dataclass(frozen=True)
class Trained:
    """
    What is trained.

    :param what: For the table
    :param make: Makes the model
    :param steps: Agent steps of a run
    """

    what: str
    make: Callable[[], BaseAlgorithm]
    steps: int


@dataclass(frozen=True)
class CheckpointThroughput:
    """
    Throughput with checkpoints divided by that without, in each round.

    :param what: What was trained
    :param steps: Agent steps of a run
    :param seconds: Wall time of a run without checkpoints, median
    :param process: Ratios in process time, which flushing to the disk does not count in
    :param wall: Ratios in wall time, which other programs disturb
    """

    what: str
    steps: int
    seconds: float
    process: Sequence[float]
    wall: Sequence[float]


def _sac() -> BaseAlgorithm:
    policy = {"width_scale": 0.25, "sparsity": 0.8}
    steps: dict[str, Any] = {"learning_starts": 1_000, "train_freq": 4}
    return SAC(SparseSimBaPolicy, random_episodes(), policy_kwargs=policy, device="cpu", seed=0, **steps)


def _stream_ac(env: str | gym.Env) -> BaseAlgorithm:
    return StreamAC("MlpPolicy", env, policy_kwargs={"sparsity": 0.9}, device="cpu", seed=0)


def trained_models(env: str) -> list[Trained]:
    """
    What is fast, so that it has most to lose: the fastest algorithm, and SAC with few updates.

    :param env: Environment of the former; both are trained in one that costs nothing as well
    """
    return [
        Trained(f"StreamAC, S = 0.9, {env}", partial(_stream_ac, env), 20 * SAVE_FREQ),
        Trained("StreamAC, S = 0.9, an environment that costs nothing", lambda: _stream_ac(random_episodes()), 20 * SAVE_FREQ),
        Trained("SAC, w = 0.25, S = 0.8, an update every 4 steps, the same", _sac, 2 * SAVE_FREQ),
    ]


def checkpoint_throughput(rounds: int, trained: Sequence[Trained], save_freq: int = SAVE_FREQ) -> list[CheckpointThroughput]:
    """
    Train the same models with checkpoints and without, in turn, so that a machine whose speed drifts is fair to both.

    :param rounds: Timed rounds, after one that is not
    :param trained: What to train
    :param save_freq: Agent steps between two checkpoints; the last one is written at the end
    :raises ValueError: if there are no rounds.
    """
    check_integer("rounds", rounds)
    return [_compare(one, rounds, save_freq) for one in trained]


def format_throughput(results: Sequence[CheckpointThroughput]) -> str:
    """
    Make a table.

    :param results: Results
    """
    return markdown_table(
        "training | steps | seconds | with / without, process time | wall time",
        ([r.what, f"{r.steps:,}", f"{r.seconds:.1f}", spread(r.process, ".3f"), spread(r.wall, ".3f")] for r in results),
    )


def _compare(trained: Trained, rounds: int, save_freq: int) -> CheckpointThroughput:
    _train(replace(trained, steps=max(trained.steps // 10, 1)), save_freq)  # kernels are compiled, files are cached
    plain: list[tuple[float, float]] = []
    stored: list[tuple[float, float]] = []
    for index in range(rounds):
        # Whichever comes second in a round finds the processor warmer.
        for is_stored in (index % 2 == 0, index % 2 == 1):
            (stored if is_stored else plain).append(_train(trained, save_freq if is_stored else None))
    process, wall = ([a[i] / b[i] for a, b in zip(plain, stored, strict=True)] for i in (0, 1))
    return CheckpointThroughput(trained.what, trained.steps, statistics.median(w for _, w in plain), process, wall)


def _train(trained: Trained, save_freq: int | None) -> tuple[float, float]:
    """Seconds of process time and of wall time."""
    model = trained.make()
    with tempfile.TemporaryDirectory() as folder:
        callback = None if save_freq is None else ExactCheckpointCallback(folder, save_freq)
        process, wall = time.process_time(), time.perf_counter()
        model.learn(trained.steps, callback=callback)
        return time.process_time() - process, time.perf_counter() - wall
