"""Runs of Stream AC in pieces that can be interrupted, and the grids behind the paper's figures 12, 13 and 17."""

import csv
import datetime
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.provenance import commit, processor
from sb3_sparse.stream_ac import StreamAC

COLUMNS = (
    "commit",
    "date",
    "hardware",
    "algo",
    "task",
    "width",
    "init",
    "sparsity",
    "seed",
    "total_steps",
    "env_steps",
    "return_mean",
    "return_std",
    "episodes",
    "actor_step_size",
    "critic_step_size",
    "actor_trace_norm",
    "critic_trace_norm",
    "cpu_seconds",
)
TABLE = "streaming.csv"
PROGRESS_FREQ = 1_000  # environment steps between two reports


@dataclass(frozen=True)
class StreamRun:
    """
    What to train and for how long.

    :param task: Environment id
    :param width: Units of each hidden layer of actor and critic
    :param init: "sparse" (SparseInit) or "dense"
    :param sparsity: Static sparsity of actor and critic
    :param seed: Seed of everything
    :param total_steps: Environment steps
    :param windows: Number of lines in the results table, and of places to resume from
    """

    task: str
    width: int = 128
    init: str = "sparse"
    sparsity: float = 0.0
    seed: int = 0
    total_steps: int = 2_000_000
    windows: int = 40

    @property
    def agent_steps(self) -> int:
        """Length of the run, as the progress display counts it."""
        return self.total_steps

    @property
    def label(self) -> str:
        """Short name for legends and file names."""
        arm = "sparseinit" if self.init == "sparse" else "dense"
        return f"w{self.width}-{arm}" + (f"-S{self.sparsity:g}" if self.sparsity > 0 else "")

    @property
    def name(self) -> str:
        """What tells this run from all others, as a path."""
        return f"{self.task.replace('/', '-')}/{self.label}/{self.total_steps}-steps-seed{self.seed}"


# Lines of the results table.
Rows = list[dict[str, Any]]


def train_stream(run: StreamRun, folder: Path, on_progress: Callable[[int], None] = lambda step: None) -> Rows:
    """
    Train a model; uses one CPU thread. A run that was interrupted goes on from the last full window, exactly: the result is
    that of a run in one piece. One that is complete is only read.

    :param run: What to train
    :param folder: Gets ``checkpoint.zip`` and ``windows.csv``
    :param on_progress: Called with the number of steps done
    :return: Lines of the results table, one per window in which an episode ended: returns as the environment gives them, of
        training (there is no other evaluation in streaming RL)
    """
    th.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    env = gym.make(run.task)
    model = _load_or_make(run, folder, env)
    rows = [row for row in read_windows(folder) if int(row["env_steps"]) <= model.num_timesteps]
    watch = _Watch(on_progress)
    spent = float(rows[-1]["cpu_seconds"]) if rows else 0.0
    start = time.process_time()
    for window in _window_ends(run):
        if window > model.num_timesteps:
            model.learn(window - model.num_timesteps, watch, log_interval=None, reset_num_timesteps=False)
            rows += _rows(run, model, watch.take(), spent + time.process_time() - start)
            # Lines beyond the checkpoint are dropped, should the process end between these two.
            _write_windows(folder, rows)
            model.save(folder / "checkpoint.zip")
    env.close()
    return rows


def read_windows(folder: Path) -> Rows:
    """
    Read the lines of a run, complete or not.

    :param folder: Where it saves
    """
    path = folder / "windows.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """
    Write a results table, replacing a former one as a whole.

    :param path: CSV file
    :param rows: Its lines
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def _write_windows(folder: Path, rows: Rows) -> None:
    write_table(folder / "windows.csv", rows)


def _load_or_make(run: StreamRun, folder: Path, env: gym.Env) -> StreamAC:
    checkpoint = folder / "checkpoint.zip"
    if checkpoint.exists():
        model = StreamAC.load(checkpoint, env=env)
    else:
        kwargs = {"width": run.width, "init": run.init, "sparsity": run.sparsity}
        model = StreamAC("MlpPolicy", env, policy_kwargs=kwargs, seed=run.seed)
    model.set_logger(configure(None, []))
    return model


def _window_ends(run: StreamRun) -> list[int]:
    return [run.total_steps * (i + 1) // run.windows for i in range(run.windows)]


def _rows(run: StreamRun, model: StreamAC, returns: list[float], cpu_seconds: float) -> Rows:
    means = model.take_training_means()
    if not returns:
        return []
    identity = {key: value for key, value in asdict(run).items() if key != "windows"}
    return [
        {
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "hardware": f"{processor()}, one thread",
            "algo": "stream_ac",
            **identity,
            "env_steps": model.num_timesteps,
            "return_mean": round(float(np.mean(returns)), 1),
            "return_std": round(float(np.std(returns)), 1),
            "episodes": len(returns),
            **{name: f"{means[name]:.4g}" for name in COLUMNS[-5:-1]},
            "cpu_seconds": round(cpu_seconds, 1),
        }
    ]


class _Watch(BaseCallback):
    """Collects the returns of episodes that end."""

    def __init__(self, on_progress: Callable[[int], None]):
        super().__init__()
        self.on_progress = on_progress
        self._returns: list[float] = []

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._returns.append(self.locals["infos"][0]["episode"]["r"])
        if self.num_timesteps % PROGRESS_FREQ == 0:
            self.on_progress(self.num_timesteps)
        return True

    def take(self) -> list[float]:
        """Return what was collected since the last call."""
        taken, self._returns = self._returns, []
        return taken


@dataclass(frozen=True)
class Arm:
    """
    One line of a figure.

    :param init: "sparse" (SparseInit) or "dense"
    :param sparsity: Static sparsity
    """

    init: str
    sparsity: float


@dataclass(frozen=True)
class Grid:
    """
    Runs of a figure.

    :param tasks: Environment ids
    :param widths: Widths of actor and critic
    :param arms: Initialisations and sparsities
    :param seeds: Seeds
    :param total_steps: Environment steps of each run
    :param windows: Points of a learning curve
    """

    tasks: tuple[str, ...]
    widths: tuple[int, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    total_steps: int
    windows: int = 40

    def runs(self) -> list[StreamRun]:
        """All runs; seeds come last, so that a grid that is stopped has all its lines."""
        return [
            StreamRun(task, width, arm.init, arm.sparsity, seed, self.total_steps, self.windows)
            for seed, task, width, arm in itertools.product(self.seeds, self.tasks, self.widths, self.arms)
        ]


DENSE, SPARSE_INIT = Arm("dense", 0.0), Arm("sparse", 0.0)
# Tasks, seeds and steps are the paper's (section 5, appendix C.2). It writes down neither widths nor sparsities: 128 is the
# default, and the others continue it.
_TASKS, _SEEDS, _STEPS = ("Ant-v4", "Walker2d-v4"), (0, 1, 2, 3, 4), 2_000_000
_STATIC = tuple(Arm("dense", sparsity) for sparsity in (0.5, 0.8, 0.9))
_SCALING = {
    "smoke": Grid(("Walker2d-v4",), (32, 64), (DENSE, Arm("dense", 0.5)), (0,), 4_000, 4),
    "short": Grid(("Walker2d-v4",), (128, 512), (DENSE, Arm("dense", 0.9)), (0, 1, 2), 500_000),
    "full": Grid(_TASKS, (128, 256, 512, 1024), (DENSE, *_STATIC), _SEEDS, _STEPS),
}
_ARMS = {
    "smoke": Grid(("Walker2d-v4",), (32,), (DENSE, SPARSE_INIT, Arm("dense", 0.5)), (0,), 4_000, 4),
    "short": Grid(("Walker2d-v4",), (128, 512), (DENSE, SPARSE_INIT, Arm("dense", 0.9)), (0, 1, 2), 500_000),
    "full": Grid(_TASKS, (128, 512), (DENSE, SPARSE_INIT, Arm("dense", 0.9)), _SEEDS, _STEPS),
}
# The paper's figure -> budget -> its runs. Figures 12 and 17 show the same ones.
GRIDS: dict[int, dict[str, Grid]] = {12: _SCALING, 13: _ARMS, 17: _SCALING}


def run_grid(grid: Grid, output: Path, workers: int | None = None) -> Rows:
    """
    Run what is missing of a grid, then write its results table.

    :param grid: Runs
    :param output: Folder: each run's files go to ``runs/``, the table to ``streaming.csv``
    :param workers: Processes at once; as many as there are CPU cores if None
    :return: Lines of the table, of all runs in the folder
    """
    runs = grid.runs()
    folders = [output / "runs" / run.name for run in runs]
    train_all(train_stream, runs, folders, workers, on_result=lambda _: write_table(output / TABLE, collect(output)))
    rows = collect(output)
    write_table(output / TABLE, rows)
    return rows


def collect(output: Path) -> Rows:
    """
    Gather the lines of all runs in a folder, complete or not.

    :param output: Folder
    :return: Lines of the results table
    """
    return [row for path in sorted((output / "runs").glob("**/windows.csv")) for row in read_windows(path.parent)]
