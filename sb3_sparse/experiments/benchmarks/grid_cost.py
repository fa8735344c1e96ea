"""What a grid will take, from a few timed updates of some of its runs."""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device

from sb3_sparse.buffers import DeviceReplayBuffer, FrameReplayBuffer
from sb3_sparse.common.environment_steps import episode_length
from sb3_sparse.experiments.benchmarks.own_process import measure_in_own_process
from sb3_sparse.experiments.benchmarks.training_memory import resident_memory
from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.grid_training import build
from sb3_sparse.experiments.sweep.results_folder import RunPaths
from sb3_sparse.experiments.sweep.sweep_progress import duration
from sb3_sparse.zoo.provenance import hardware
from sb3_sparse.zoo.registration import register

MOST_KINDS = 8
# Agent steps without updates, at most; then with updates that are not timed, then timed ones, at least.
_RANDOM_STEPS, _WARM_UP, _TIMED = 200, 4, 10
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 20.0
_PREDICTIONS = 20


@dataclass(frozen=True)
class RunCost:
    """
    What a run will take.

    :param seconds: Of training and evaluating
    :param memory: Bytes of main memory, with a full replay buffer
    :param gpu_memory: Bytes of the GPU's memory, 0 without one
    :param disk: Bytes that stay
    :param checkpoint: Bytes of the checkpoint while it trains
    """

    seconds: float
    memory: int
    gpu_memory: int
    disk: int
    checkpoint: int


def estimate(grid: Grid, device: str, say: Callable[[str], None]) -> None:
    """
    Time some kinds of runs of a grid (networks and algorithms, on one task each), drawn at random if there are many, each in
    a process of its own, and tell what the whole grid will take if the others take as much.

    :param grid: Grid
    :param device: Device
    :param say: Takes each line
    """
    kinds = list({(run.algorithm, run.arm): run for run in grid.runs}.values())
    drawn = random.Random(0).sample(kinds, min(MOST_KINDS, len(kinds)))
    costs = []
    for run in drawn:
        costs.append(measure_in_own_process(run_cost, run, device, what=run.id))
        say(f"  {run.id}: {duration(costs[-1].seconds)}, {_size(costs[-1].memory)} of memory")
    for line in _summary(grid, costs, len(kinds), device):
        say(line)


def _summary(grid: Grid, costs: Sequence[RunCost], kinds: int, device: str) -> list[str]:
    count, seconds = len(grid.runs), sum(cost.seconds for cost in costs) / len(costs)
    cpus, gpus = grid.resources["cpus"], grid.resources["gpus"]
    kept = sum(cost.disk for cost in costs) / len(costs)
    memory = f"{_size(max(cost.memory for cost in costs))} for a run at most"
    on_gpu = f"{_hours(count * seconds * gpus)}, {gpus:g} of a GPU for a run"
    if get_device(device).type == "cuda":
        memory += f", and {_size(max(cost.gpu_memory for cost in costs))} of the GPU's"
    else:
        on_gpu = "unknown, as no GPU was timed"
    return [
        f"Estimate from a few updates of {len(costs)} of {kinds} kinds of runs, one thread of {hardware(device)}:",
        f"  core-hours  {_hours(count * seconds * cpus)}, {duration(seconds)} for a run, without measurements of plasticity",
        f"  GPU-hours   {on_gpu}",
        f"  memory      {memory}",
        f"  disk        {_size(count * kept)} in the end; while a run trains, up to "
        f"{_size(max(cost.checkpoint for cost in costs))} more for it",
    ]


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def run_cost(run: GridRun, device: str) -> RunCost:
    """
    Time some updates of a run, in this process.

    :param run: Run
    :param device: Device
    """
    th.set_num_threads(1)
    register()
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        model = build(run, RunPaths(Path(folder)), device)[1]
        timer = _Timer(model)
        model.learn(run.agent_steps, callback=timer)
        file = Path(folder) / "model.zip"
        model.save(file)
        saved = file.stat().st_size
        evaluating = _evaluation_steps(run) * (timer.seconds_without_updates + _prediction_seconds(model))
        buffer, is_on_gpu = _replay_buffer(model)
    return RunCost(
        seconds=run.agent_steps * timer.seconds_a_step + evaluating,
        memory=resident_memory() + (0 if is_on_gpu else buffer),
        gpu_memory=th.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else 0,
        disk=saved * (1 if run.evaluation is None else 2),  # the zoo keeps the best model, too
        checkpoint=saved + buffer if run.checkpoints > 1 else 0,
    )


def _replay_buffer(model: BaseAlgorithm) -> tuple[int, bool]:
    """Bytes, and whether they are on a GPU."""
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, DeviceReplayBuffer | FrameReplayBuffer):
        device = buffer.storage_device if isinstance(buffer, FrameReplayBuffer) else buffer.device
        return buffer.nbytes, device.type == "cuda"
    return sum(array.nbytes for array in vars(buffer).values() if isinstance(array, np.ndarray)) if buffer else 0, False


def _evaluation_steps(run: GridRun) -> int:
    if run.evaluation is None:
        return 0
    episodes = run.agent_steps // run.evaluation.freq * run.evaluation.episodes + (run.evaluation.final_episodes or 0)
    return episodes * (episode_length(run.task) or 0)


def _prediction_seconds(model: BaseAlgorithm) -> float:
    observation = model.get_env().reset()  # type: ignore[union-attr]
    begun = time.perf_counter()
    for _ in range(_PREDICTIONS):
        model.predict(observation, deterministic=True)  # type: ignore[arg-type]
    return (time.perf_counter() - begun) / _PREDICTIONS


def _size(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count >= 1e9 else f"{count / 1e6:,.3g} MB"


class _Timer(BaseCallback):
    """Ends training as soon as enough steps are timed."""

    def __init__(self, model: BaseAlgorithm):
        super().__init__()
        self._unit = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else model.n_envs
        given = getattr(model, "learning_starts", 0)
        self._random = min(given, _RANDOM_STEPS)
        if given:
            model.learning_starts = self._random  # type: ignore[attr-defined]
        # Others may be using the machine now.
        self._clock = time.perf_counter if model.device.type == "cuda" else time.process_time
        self.seconds_a_step = self.seconds_without_updates = 0.0

    def _on_training_start(self) -> None:
        self._begun = self._clock()
        self._timed_from = 0

    def _on_step(self) -> bool:
        now, step = self._clock(), self.num_timesteps
        if step <= self._random:
            self.seconds_without_updates = (now - self._begun) / step
        if step < self._random + _WARM_UP * self._unit:
            return True
        if not self._timed_from:
            self._begun, self._timed_from = now, step
            return True
        self.seconds_a_step = (now - self._begun) / (step - self._timed_from)
        is_enough = now - self._begun > _LEAST_SECONDS and step >= self._timed_from + _TIMED * self._unit
        return not is_enough and (now - self._begun < _MOST_SECONDS or step < self._timed_from + self._unit)
