"""Cost of a checkpoint: bytes and milliseconds."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.experiments.benchmarks.contenders import RandomEnv
from sb3_sparse.sac import SAC, SparseSimBaPolicy

SAVE_FREQ = 10_000
_EPISODE = 1_000


@dataclass(frozen=True)
class CheckpointCost:
    """
    What checkpoints of a run cost.

    :param transitions: In the replay buffer
    :param first_bytes: Written by the first checkpoint, which has the whole buffer
    :param first_ms: Milliseconds it took, flushing to the disk included
    :param next_bytes: Written by one after another 10,000 agent steps, median
    :param next_ms: Milliseconds it took, median
    :param next_cpu_ms: Milliseconds of processor time, median
    """

    transitions: int
    first_bytes: int
    first_ms: float
    next_bytes: int
    next_ms: float
    next_cpu_ms: float


def random_episodes() -> gym.Env:
    """Observations, actions and episodes of humanoid's size, and nothing else."""
    return gym.wrappers.TimeLimit(RandomEnv(), _EPISODE)


class _Timed(ExactCheckpointCallback):
    """Notes what each checkpoint costs."""

    def __init__(self, folder: Path):
        super().__init__(folder, save_freq=SAVE_FREQ)
        self.costs: list[tuple[int, float, float]] = []

    def save(self) -> bool:
        """See :class:`~sb3_sparse.checkpoints.ExactCheckpointCallback`."""
        before = {path.name for path in self.folder.iterdir()}
        wall, cpu = time.perf_counter(), time.process_time()
        done = super().save()
        times = 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
        self.costs.append((sum(path.stat().st_size for path in self.folder.iterdir() if path.name not in before), *times))
        return done


class _Fill(BaseCallback):
    """Fills the replay buffer with random rows before the first rollout."""

    def __init__(self, transitions: int):
        super().__init__()
        self.transitions = transitions

    def _on_training_start(self) -> None:
        buffer: Any = self.model.replay_buffer  # type: ignore[attr-defined]
        generator = np.random.default_rng(0)
        for name in ("observations", "next_observations", "actions", "rewards"):
            array = getattr(buffer, name)
            for start in range(0, self.transitions, 10_000):
                rows = array[start : min(start + 10_000, self.transitions)]
                rows[:] = generator.standard_normal(rows.shape, np.float32)
        buffer.pos = self.transitions % buffer.buffer_size
        buffer.full = self.transitions == buffer.buffer_size

    def _on_step(self) -> bool:
        return True


def checkpoint_cost(transitions: Sequence[int], width_scale: float, sparsity: float, rounds: int = 3) -> list[CheckpointCost]:
    """
    Write checkpoints of an SAC agent of humanoid's size.

    :param transitions: Transitions in the replay buffer
    :param width_scale: Of the policy
    :param sparsity: Of the policy
    :param rounds: Checkpoints after the first
    """
    found = []
    for number in transitions:
        # It collects 10,000 steps between two checkpoints, and updates hardly ever, which does not change what is written.
        steps = SAVE_FREQ * (rounds + 1)
        model = SAC(
            SparseSimBaPolicy,
            random_episodes(),
            policy_kwargs={"width_scale": width_scale, "sparsity": sparsity},
            buffer_size=number,
            learning_starts=SAVE_FREQ // 2,
            train_freq=(SAVE_FREQ // 2, "step"),  # type: ignore[arg-type]
            gradient_steps=1,
            device="cpu",
            seed=0,
        )
        with tempfile.TemporaryDirectory() as folder:
            timed = _Timed(Path(folder))
            model.learn(steps, callback=[_Fill(number), timed])
        first, *others = timed.costs
        middle = [float(np.median(column)) for column in zip(*others, strict=True)]
        found.append(CheckpointCost(number, first[0], first[1], int(middle[0]), middle[1], middle[2]))
    return found


def format_checkpoints(costs: Sequence[CheckpointCost]) -> str:
    """
    Make a table.

    :param costs: Costs
    """
    rows = []
    for cost in costs:
        first = f"{cost.first_bytes / 1e6:,.0f} MB, {cost.first_ms:,.0f} ms"
        further = f"{cost.next_bytes / 1e6:,.1f} MB, {cost.next_ms:,.0f} ms"
        rows.append([f"{cost.transitions:,}", first, further, f"{cost.next_cpu_ms:,.0f} ms"])
    return markdown_table("transitions | first checkpoint | every further one | processor time", rows)
