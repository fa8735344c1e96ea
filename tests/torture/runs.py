"""Small training runs of all kinds, and what they leave behind, to be compared bit for bit."""

import csv
import hashlib
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from fork_server import preload
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.callbacks.plasticity import DEFAULT_METRICS
from sb3_sparse.checkpoints import ExactCheckpointCallback, ResumableEnv
from sb3_sparse.stream_ac import StreamWrapper
from torture.envs import make
from torture.models import TortureRun, make_model

CHECKPOINTS = "checkpoints"
_RESULT = "result.json"
# Columns of logs that tell the time.
_TIMES = {"time/fps", "time/time_elapsed", "t"}


_TOPOLOGY_OPTIONS: dict[str, Any] = {
    "rigl": {"batch_size": 16},
    "pruning": {"final_sparsity": 0.8},
    "expansion": {"final_sparsity": 0.2, "batch_size": 16},
}


def train(run: TortureRun, folder: Path, further: Iterable[BaseCallback] = ()) -> BaseAlgorithm:
    """
    Train, or go on from the newest checkpoint, and note what came of it.

    :param run: What to train
    :param folder: Folder for checkpoints, logs and result
    :param further: Callbacks that come first
    """
    env, callbacks = make_env(run, folder / "train"), make_callbacks(run, folder)
    model = make_model(run, env)
    model.set_logger(configure(str(folder), list(run.outputs)))
    checkpoint = ExactCheckpointCallback(folder / CHECKPOINTS, save_freq=run.save_freq)
    try:
        model.learn(run.steps, callback=[*further, *callbacks, checkpoint], log_interval=run.log_interval)
        (folder / _RESULT).write_text(json.dumps(digests(model), indent=1))
    finally:
        for opened in (env, *(callback.eval_env for callback in callbacks if isinstance(callback, EvalCallback))):
            opened.close()
    return model


def make_env(run: TortureRun, monitors: Path | None) -> VecEnv:
    """
    :param run: What to train
    :param monitors: Folder for the files of Monitors
    """
    if run.subprocesses:
        preload()
    env: VecEnv = make_vec_env(
        partial(make, run.env),
        run.n_envs,
        seed=run.seed,
        monitor_dir=None if monitors is None else str(monitors),
        wrapper_class=partial(_wrap, run),
        vec_env_cls=SubprocVecEnv if run.subprocesses else DummyVecEnv,
    )
    return VecNormalize(env) if run.normalize else env


def _wrap(run: TortureRun, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    env = StreamWrapper(env) if run.algorithm == "StreamAC" else env
    return ResumableEnv(env) if run.subprocesses else env


def make_callbacks(run: TortureRun, folder: Path) -> list[BaseCallback]:
    """
    :param run: What to train
    :param folder: Folder for what they write
    """
    made: dict[str, Any] = {
        "eval": lambda: EvalCallback(
            make_env(run, folder / "eval"), n_eval_episodes=1, eval_freq=50, log_path=str(folder), verbose=0
        ),
        "plasticity": lambda: PlasticityCallback(
            log_freq=40, batch_size=16, metrics=(*DEFAULT_METRICS, "value_bias"), path=folder / "plasticity.csv"
        ),
        "reset": lambda: ResetCallback(reset_freq=100),
        "redo": lambda: ReDoCallback(redo_freq=50, tau=0.5, batch_size=16),
    }
    callbacks: list[BaseCallback] = [made[name]() for name in run.callbacks]
    if run.topology is not None:
        options: dict[str, Any] = _TOPOLOGY_OPTIONS.get(run.topology, {})
        callbacks.append(SparseTopologyCallback(run.topology, update_freq=30, **options))
    return callbacks


def digests(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Describe a model, all numbers exactly.

    :param model: Model that was trained
    """
    found = {name: _digest(state) for name, state in model.get_parameters().items()}
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        rows = vars(model.replay_buffer)
        found["replay buffer"] = _digest({name: value for name, value in rows.items() if name in ("rewards", "pos")})
    assert model.ep_info_buffer is not None and model._last_obs is not None
    return {
        "digests": found,
        "counters": [model.num_timesteps, model._n_updates, vars(model).get("_episode_num")],  # type: ignore[attr-defined]
        "returns": [info["r"] for info in model.ep_info_buffer],
        "observation": _digest(model._last_obs),
        # What would be drawn next.
        "streams": [float(np.random.rand()), float(th.rand(1)), float(np.ravel(model.action_space.sample())[0])],
    }


def outcome(folder: Path) -> dict[str, Any]:
    """
    Read what a run has left, but for times.

    :param folder: Folder of :func:`train`
    """
    monitors = sorted([*folder.glob("train/*.csv"), *folder.glob("eval/*.csv")])
    evaluations = folder / "evaluations.npz"
    plasticity = folder / "plasticity.csv"
    return {
        "result": json.loads((folder / _RESULT).read_text()),
        "progress": _rows((folder / "progress.csv").read_text()),
        "json": [_without_times(json.loads(line)) for line in (folder / "progress.json").read_text().splitlines()],
        "monitors": [_rows(path.read_text().split("\n", 1)[1]) for path in monitors],
        "evaluations": {k: v.tolist() for k, v in np.load(evaluations).items()} if evaluations.exists() else None,
        "plasticity": plasticity.read_text() if plasticity.exists() else None,
        "tensorboard": _events(folder),
    }


def _events(folder: Path) -> dict[str, Any]:
    """Scalars of TensorBoard's files: name -> steps and values."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    found = EventAccumulator(str(folder))
    found.Reload()
    names = [name for name in found.Tags()["scalars"] if name not in _TIMES]
    return {name: [[event.step, event.value] for event in found.Scalars(name)] for name in names}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """
    Compare two outcomes.

    :param one: What a run has left
    :param other: What another has
    :param path: Where in the outcome
    :return: Where they differ
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [found for key in keys for found in differences(one.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, (a, b) in pairs for found in differences(a, b, f"{path}/{index}")]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def _digest(value: Any) -> str:
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()[:16]


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in value:
            found.update(repr(key).encode())
            _feed(found, value[key])
    elif isinstance(value, list | tuple):
        for entry in value:
            _feed(found, entry)
    elif isinstance(value, th.Tensor | np.ndarray):
        found.update(np.ascontiguousarray(value.detach().cpu() if isinstance(value, th.Tensor) else value).tobytes())
    else:
        found.update(repr(value).encode())


def _rows(text: str) -> list[dict[str, str]]:
    return [_without_times(row) for row in csv.DictReader(text.splitlines())]


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _TIMES}
