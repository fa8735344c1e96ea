"""Small training runs of all kinds, and what they leave behind, to be compared bit for bit."""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from sb3_contrib import TQC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC, StreamWrapper
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy

ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], Any]] = {
    "SB3 SAC": (stable_baselines3.SAC, SparseSimBaPolicy),
    "SB3 DDPG": (stable_baselines3.DDPG, SparseSimBaTD3Policy),
    "SB3 TD3": (stable_baselines3.TD3, SparseSimBaTD3Policy),
    "TQC": (TQC, SparseSimBaTQCPolicy),
    "SAC": (SAC, SparseSimBaPolicy),
    "DDPG": (DDPG, SparseSimBaTD3Policy),
    "TD3": (TD3, SparseSimBaTD3Policy),
    "StreamAC": (StreamAC, "MlpPolicy"),
    "DrQv2": (DrQv2, "CnnPolicy"),
    "DER": (DER, "MlpPolicy"),
    "SB3 SAC, MlpPolicy": (stable_baselines3.SAC, "MlpPolicy"),
}
CHECKPOINTS = "checkpoints"
_RESULT = "result.json"
# Columns of logs that tell the time.
_TIMES = {"time/fps", "time/time_elapsed", "t"}


@dataclass(frozen=True)
class TortureRun:
    """
    A run.

    :param algorithm: Key of ``ALGORITHMS``
    :param sparsity: Of the policy
    :param topology: Method of ``SparseTopologyCallback``, None for static masks
    :param env: Id of the environment
    :param n_envs: Number of environments
    :param normalize: Whether there is a ``VecNormalize``
    :param noise: Action noise: "normal", "ou", or None
    :param n_steps: Of n-step returns
    :param callbacks: Further ones: "eval", "plasticity", "reset", "redo"
    :param steps: Agent steps
    :param save_freq: Agent steps between two checkpoints
    :param buffer_size: Transitions that are kept
    :param seed: Seed of everything
    """

    algorithm: str
    sparsity: float = 0.5
    topology: str | None = None
    env: str = "Pendulum-v1"
    n_envs: int = 1
    normalize: bool = False
    noise: str | None = None
    n_steps: int = 1
    callbacks: tuple[str, ...] = ()
    steps: int = 180
    save_freq: int = 40
    buffer_size: int = 1_000
    seed: int = 0


def train(run: TortureRun, folder: Path, further: Iterable[BaseCallback] = ()) -> BaseAlgorithm:
    """
    Train, or go on from the newest checkpoint, and note what came of it.

    :param run: What to train
    :param folder: Folder for checkpoints, logs and result
    :param further: Callbacks that come first
    """
    env = make_env(run, folder / "train")
    model = make_model(run, env)
    model.set_logger(configure(str(folder), ["csv", "log", "json"]))
    checkpoint = ExactCheckpointCallback(folder / CHECKPOINTS, save_freq=run.save_freq)
    model.learn(run.steps, callback=[*further, *make_callbacks(run, folder), checkpoint], log_interval=1)
    (folder / _RESULT).write_text(json.dumps(digests(model), indent=1))
    env.close()
    return model


def make_env(run: TortureRun, monitors: Path | None) -> VecEnv:
    """
    :param run: What to train
    :param monitors: Folder for the files of Monitors
    """
    wrapper = StreamWrapper if run.algorithm == "StreamAC" else None
    files = None if monitors is None else str(monitors)
    env: VecEnv = make_vec_env(run.env, run.n_envs, seed=run.seed, monitor_dir=files, wrapper_class=wrapper)
    return VecNormalize(env) if run.normalize else env


def make_model(run: TortureRun, env: VecEnv) -> BaseAlgorithm:
    """
    :param run: What to train
    :param env: Environment to train in
    """
    algorithm, policy = ALGORITHMS[run.algorithm]
    kwargs: dict[str, Any] = {"seed": run.seed, "device": "cpu"}
    if algorithm is StreamAC:
        return algorithm(policy, env, policy_kwargs={"sparsity": run.sparsity, "width": 32}, **kwargs)  # type: ignore[call-arg]
    if algorithm is DrQv2:
        network = {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}, "sparsity": run.sparsity}
        return DrQv2(
            policy, env, policy_kwargs=network, learning_starts=50, batch_size=8, buffer_size=run.buffer_size, **kwargs
        )
    if algorithm is DER:
        network = {"net_arch": [32], "n_atoms": 11, "v_max": 100.0, "sparsity": run.sparsity}
        return DER(policy, env, policy_kwargs=network, learning_starts=50, batch_size=8, buffer_size=run.buffer_size, **kwargs)
    size = {"net_arch": [32, 32]} if policy == "MlpPolicy" else {"sparsity": run.sparsity, "width_scale": 0.125}
    mean = np.zeros(env.action_space.shape or ())
    noises = {
        None: None,
        "normal": NormalActionNoise(mean, np.full_like(mean, 0.1)),
        "ou": OrnsteinUhlenbeckActionNoise(mean, np.full_like(mean, 0.1)),
    }
    return algorithm(
        policy,
        env,
        policy_kwargs=size,
        learning_starts=50,
        batch_size=16,
        buffer_size=run.buffer_size,
        action_noise=noises[run.noise],
        n_steps=run.n_steps,
        **kwargs,
    )  # type: ignore[call-arg]


def make_callbacks(run: TortureRun, folder: Path) -> list[BaseCallback]:
    """
    :param run: What to train
    :param folder: Folder for what they write
    """
    made: dict[str, Any] = {
        "eval": lambda: EvalCallback(
            make_env(run, folder / "eval"), n_eval_episodes=1, eval_freq=50, log_path=str(folder), verbose=0
        ),
        "plasticity": lambda: PlasticityCallback(log_freq=40, batch_size=16, path=folder / "plasticity.csv"),
        "reset": lambda: ResetCallback(reset_freq=100),
        "redo": lambda: ReDoCallback(redo_freq=50, tau=0.5, batch_size=16),
    }
    callbacks: list[BaseCallback] = [made[name]() for name in run.callbacks]
    if run.topology is not None:
        final = 0.8 if run.topology == "pruning" else None
        callbacks.append(SparseTopologyCallback(run.topology, update_freq=30, final_sparsity=final, batch_size=16))
    return callbacks


def digests(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Describe a model, all numbers exactly.

    :param model: Model that was trained
    """
    found = {name: _digest(state) for name, state in model.get_parameters().items()}
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        found["replay buffer"] = _digest({name: value for name, value in vars(buffer).items() if name in ("rewards", "pos")})
    assert model.ep_info_buffer is not None and model._last_obs is not None
    return {
        "digests": found,
        "counters": [model.num_timesteps, model._n_updates, model._episode_num],  # type: ignore[attr-defined]
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
    }


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


def register_environments() -> None:
    """Register what runs need beside gymnasium's own."""
    if IMAGES not in gym.registry:
        gym.register(IMAGES, entry_point=f"{__name__}:ImageEnv", max_episode_steps=25)
    if OPAQUE not in gym.registry:
        gym.register(OPAQUE, entry_point=f"{__name__}:OpaqueEnv", max_episode_steps=40)


OPAQUE, IMAGES, DISCRETE = "Opaque-v0", "Images-v0", "CartPole-v1"


class ImageEnv(gym.Env[np.ndarray, np.ndarray]):
    """Three stacked images of 17x17 noisy pixels; their brightness follows the action."""

    observation_space = gym.spaces.Box(0, 255, (3, 17, 17), np.uint8)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    frame_stack = 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: Not used
        """
        super().reset(seed=seed)
        self._frames = np.repeat(self._draw(0.0), 3, axis=0)
        return self._frames, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Draw another image.

        :param action: Brightness
        """
        self._frames = np.concatenate([self._frames[1:], self._draw(float(action[0]))])
        return self._frames, float(action[0]), False, False, {}

    def _draw(self, brightness: float) -> np.ndarray:
        return (self.np_random.integers(0, 100, (1, 17, 17)) + 100 * (1.0 + brightness) / 2).astype(np.uint8)


class OpaqueEnv(gym.Env[np.ndarray, np.ndarray]):
    """An environment whose state cannot be pickled: a running generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: Not used
        """
        super().reset(seed=seed)
        self._walk = self._positions(self.np_random.normal(size=2))
        return next(self._walk), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Take a step of a random walk.

        :param action: Added to the first coordinate
        """
        observation = self._walk.send(action)
        return observation, -float(np.abs(observation).sum()), False, False, {}

    def _positions(self, position: np.ndarray) -> Any:
        while True:
            action = yield position.astype(np.float32)
            position = 0.9 * position + 0.1 * self.np_random.normal(size=2)
            position[0] += 0.1 * float(action[0])


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
