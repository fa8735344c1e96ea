"""Places that a run of a grid can go on from, as if nothing had happened."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.callbacks import PlasticityCallback
from sb3_sparse.experiments.training import EVALUATION_SEED_OFFSET
from sb3_sparse.experiments.writing import write_text
from sb3_sparse.stream_ac import StreamAC

# Algorithms that go on exactly by themselves, in the middle of an episode.
_EXACT = (StreamAC,)
_FILES, _STATE = "files.tar", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """
    A place to go on from.

    :param folder: Holds model, replay buffer, statistics of ``VecNormalize``, the run's files, and counters
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The model; the zoo looks for the rest beside it."""
        return self.folder / "model.zip"

    @property
    def state(self) -> dict[str, Any]:
        """Counters of the run and its callbacks."""
        return json.loads((self.folder / _STATE).read_text())

    def restore_files(self, folder: Path) -> None:
        """
        Bring a run's files to what they were.

        :param folder: Folder of the run
        """
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(self.folder / _FILES) as archive:
            # The argument filter="data" of newer Pythons, which early releases of 3.10 and 3.11 lack.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(folder)

    def restore_callbacks(self, callbacks: Sequence[BaseCallback], run_files: Path) -> None:
        """
        Set the counters of callbacks to what they were.

        :param callbacks: As they were built
        :param run_files: Folder of the run
        """
        for callback, saved in zip(callbacks, self.state["callbacks"], strict=True):
            vars(callback).update(saved)
            if isinstance(callback, EvalCallback) and (run_files / "evaluations.npz").exists():
                with np.load(run_files / "evaluations.npz") as evaluations:
                    callback.evaluations_timesteps = evaluations["timesteps"].tolist()
                    callback.evaluations_results = evaluations["results"].tolist()
                    callback.evaluations_length = evaluations["ep_lengths"].tolist()


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """
    Find the last checkpoint of a run.

    :param folder: Folder of its checkpoints
    """
    found = sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    return Checkpoint(found[-1]) if found else None


class CheckpointKeeper(BaseCallback):
    """
    Saves a run at the first ends of episodes after certain steps. There random streams begin anew, from the seed and the step,
    so that a run that was interrupted afterwards cannot be told from one that was not. (Stream AC needs none of this.) With
    several environments, whose episodes do not end together, they are all reset then.

    It belongs at the end of the callbacks.

    :param steps: Agent steps to save after
    :param folder: Folder of the checkpoints; the last one is kept
    :param run_files: Folder of the run's files
    :param seed: Seed of the run
    :param env_name: The zoo's name of the environment, under which it looks for statistics
    :param callbacks: The other callbacks
    :param spent: Returns seconds and process time that the run took so far
    :raises ValueError: if there are several environments and a replay buffer that cannot be told that episodes end.
    """

    def __init__(
        self,
        steps: Sequence[int],
        folder: Path,
        run_files: Path,
        seed: int,
        env_name: str,
        callbacks: Sequence[BaseCallback],
        spent: Callable[[], tuple[float, float]],
    ):
        super().__init__()
        self.steps, self.folder, self.run_files = tuple(steps), folder, run_files
        self.seed, self.env_name, self.others, self.spent = seed, env_name, tuple(callbacks), spent
        self.last_step = 0
        self._has_resumed = False

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if self.steps and self.training_env.num_envs > 1 and buffer is not None and not hasattr(buffer, "timeouts"):
            raise ValueError(
                f"{type(buffer).__name__} cannot be saved in the middle of the episodes of several environments: "
                "set checkpoints: 1 in the grid (none), or n_envs: 1."
            )

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps
        self._has_resumed = self.num_timesteps > 0

    def _on_rollout_start(self) -> None:
        # Not in _on_step: SB3 stores the transition and updates after that.
        if self._has_resumed:
            self._has_resumed = False
            self._restore_statistics()
            self._begin_anew()
        is_due = any(self.last_step < step <= self.num_timesteps for step in self.steps)
        waits = any(isinstance(other, PlasticityCallback) and other.is_measuring for other in self.others)
        if is_due and not waits and self._is_between_episodes():
            self.last_step = self.num_timesteps
            self._save()
            self._begin_anew()

    def _on_step(self) -> bool:
        return True

    def _is_between_episodes(self) -> bool:
        # Not every "done" is one: Atari agents see one at each lost life. The monitor tells.
        return self.training_env.num_envs > 1 or "episode" in self.locals["infos"][0]

    def _begin_anew(self) -> None:
        if not isinstance(self.model, _EXACT):
            eval_envs = [other.eval_env for other in self.others if isinstance(other, EvalCallback)]
            _begin_anew(self.model, eval_envs, _derived_seed(self.seed, self.num_timesteps))

    def _restore_statistics(self) -> None:
        """As they were saved: SB3 has reset the environments since, which moved them."""
        statistics = self.model.get_vec_normalize_env()
        if statistics is not None:
            saved = VecNormalize.load(
                str(self.folder / str(self.last_step) / self.env_name / "vecnormalize.pkl"), statistics.venv
            )
            statistics.obs_rms, statistics.ret_rms = saved.obs_rms, saved.ret_rms

    def _save(self) -> None:
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / self.env_name).mkdir(parents=True)
        self.model.save(partial / "model.zip")
        if getattr(self.model, "replay_buffer", None) is not None:
            self.model.save_replay_buffer(partial / "replay_buffer.pkl")  # type: ignore[attr-defined]
        statistics = self.model.get_vec_normalize_env()
        if statistics is not None:
            statistics.save(str(partial / self.env_name / "vecnormalize.pkl"))
        with tarfile.open(partial / _FILES, "w") as archive:
            archive.add(self.run_files, ".")
        seconds, cpu_seconds = self.spent()
        callbacks = [_counters(other) for other in self.others]
        state = {"step": self.num_timesteps, "seconds": seconds, "cpu_seconds": cpu_seconds, "callbacks": callbacks}
        write_text(partial / _STATE, json.dumps(state))
        former = list(self.folder.glob("[0-9]*"))
        partial.rename(self.folder / str(self.num_timesteps))
        for path in former:
            shutil.rmtree(path)


def _counters(callback: BaseCallback) -> dict[str, Any]:
    """Public numbers of a callback, which is what those of SB3 and ours remember between two steps."""
    kept = (bool, int, float, type(None))
    return {name: value for name, value in vars(callback).items() if isinstance(value, kept) and not name.startswith("_")}


def _derived_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}, {step}".encode()).digest()[:4], "little") >> 1


def _begin_anew(model: Any, eval_envs: Sequence[Any], seed: int) -> None:
    if model.n_envs > 1:
        _end_trajectories(getattr(model, "replay_buffer", None))
    model.set_random_seed(seed)
    for env in eval_envs:
        env.seed(seed + EVALUATION_SEED_OFFSET)
    if getattr(model, "use_sde", False):  # drawn before a rollout starts
        getattr(model, "actor", model.policy).reset_noise(model.n_envs)
    model._last_obs = model.env.reset()
    model._last_episode_starts = np.ones((model.n_envs,), dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    if getattr(model, "action_noise", None) is not None:
        model.action_noise.reset()


def _end_trajectories(buffer: Any) -> None:
    """Say that what comes next does not follow from the last transitions."""
    if isinstance(buffer, ReplayBuffer) and (buffer.full or buffer.pos > 0):
        last = (buffer.pos - 1) % buffer.buffer_size
        is_open = buffer.dones[last] == 0
        buffer.timeouts[last][is_open] = 1
        buffer.dones[last][is_open] = 1
