"""Checkpoints of a whole run, and going on from them."""

import errno
import sys
import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.arguments import check_integer
from sb3_sparse.checkpoints.callback_states import CallbackStates
from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.checkpoint_folder import STATE, WEIGHTS, CheckpointFolder, Manifest
from sb3_sparse.checkpoints.environment_state import warn_of_inexact
from sb3_sparse.checkpoints.fingerprint import compare, fingerprint
from sb3_sparse.checkpoints.iterations import Iterations
from sb3_sparse.checkpoints.live_pickle import dump, load
from sb3_sparse.checkpoints.log_files import LogFiles
from sb3_sparse.checkpoints.model_state import (
    BufferData,
    ModelData,
    exploration_noise,
    restore_exploration_noise,
    restore_weights,
    weights_of,
)
from sb3_sparse.checkpoints.random_streams import random_streams, restore_random_streams
from sb3_sparse.checkpoints.remote_environment_state import environment_state
from sb3_sparse.checkpoints.replay_rows import ReplayRows
from sb3_sparse.checkpoints.schedules import warn_of_schedules
from sb3_sparse.checkpoints.signals import StopSignals
from sb3_sparse.training.divergence import broken_losses, broken_tensors, divergence, logged_losses

# Shells' way of saying that a signal ended a program.
_EXIT_STATUS = 128


class ExactCheckpointCallback(BaseCallback):
    """
    Writes checkpoints of a whole run, and has a run that was killed go on: start the same script again. It then ends with the
    same weights, returns and logs, bit for bit on a CPU, as if it had never stopped.

    .. code-block:: python

        model = SAC(SparseSimBaPolicy, env, seed=0)
        model.learn(1_000_000, callback=ExactCheckpointCallback("runs/walker", save_freq=10_000))

    A checkpoint holds networks, masks, optimizers, replay buffer, counters, the state of the environment and of
    ``VecNormalize``, all random streams (Python's, NumPy's, torch's, those of environments and spaces), the logger's pending
    values, the state of other callbacks, and the content of log files; lines that were logged after it are dropped on
    resuming. Wall-clock times are not part of it.

    - It is written between two rollouts, when everything collected is stored and every update done: at the first such moment
      after each multiple of ``save_freq`` agent steps, at the end of training, and on SIGTERM or SIGINT. On-policy algorithms
      log a line after every ``log_interval``-th rollout: for them only the moments after those will do.
    - Files appear as a whole or not at all; a damaged checkpoint is noticed by its checksums, and the one before is used, with
      a warning. A checkpoint that cannot be written (a full disk) is warned of, and training goes on.
    - Only segments of the replay buffer that changed are written again.
    - Losses are looked at after every update, parameters and moments before a checkpoint is written: if one is not finite,
      training stops with an error that names it, and the last checkpoint stays.
    - Environments are stored as they are (classic control, gymnasium's and dm_control's MuJoCo). If one cannot be pickled, or
      does not go on alike (tried out on copies), checkpoints wait for the end of an episode, and a warning says so. Those in
      other processes need :class:`~sb3_sparse.checkpoints.ResumableEnv`.
    - After SIGTERM or SIGINT, ``learn()`` returns, and :attr:`stopped_by` is the signal's number; or the program ends, see
      ``exit_on_signal``.

    Use one call of ``learn()`` per folder. Checkpoints contain pickles, like SB3's zip files: resume only from those that you
    trust.

    :param folder: Folder for the checkpoints of this run alone
    :param save_freq: Agent steps between two checkpoints
    :param keep: Number of checkpoints to keep
    :param resume: Go on from the newest checkpoint, if there is one. If False, a folder that has some is refused
    :param exit_on_signal: End the program after the checkpoint, with status 143 (SIGTERM) or 130 (SIGINT)
    :param verbose: 1 tells of every checkpoint
    :raises ValueError: if an argument is out of range.
    :raises CheckpointError: when training starts, if the folder belongs to another run or process, all its checkpoints are
        damaged, or the model or environment cannot be stored.
    """

    # Of the variables of each step; streaming algorithms need not collect them then.
    reads_locals = False

    def __init__(
        self,
        folder: str | Path,
        save_freq: int = 10_000,
        keep: int = 2,
        resume: bool = True,
        exit_on_signal: bool = False,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.folder = Path(folder)
        self.save_freq, self.keep = check_integer("save_freq", save_freq), check_integer("keep", keep)
        self.resume, self.exit_on_signal = resume, exit_on_signal
        # Agent steps of the checkpoint that training goes on from, None if it begins.
        self.resumed_from: int | None = None
        self._store = CheckpointFolder(self.folder, self.keep)
        self._signals: StopSignals | None = None

    @property
    def stopped_by(self) -> int | None:
        """Number of the signal that ended training, None if none did."""
        return None if self._signals is None else self._signals.received

    @property
    def _is_streaming(self) -> bool:
        return isinstance(self.model, OwnAlgorithm) and self.model.is_streaming

    def _init_callback(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm | OnPolicyAlgorithm | OwnAlgorithm):
            raise CheckpointError(
                f"{type(self.model).__name__} cannot be resumed exactly: checkpoints are for algorithms that collect "
                "rollouts as SB3's do (SAC, TD3, TQC, DQN, PPO, A2C, ...) and this package's own."
            )
        self._environment = environment_state(self.training_env)
        if isinstance(self.model, OnPolicyAlgorithm) and not self._environment.is_exact:
            self._environment.close()
            raise CheckpointError(
                f"{type(self.model).__name__} cannot be resumed exactly in this environment, whose state can be stored at the "
                f"start of episodes only, where hardly any rollout of such an algorithm begins: {self._environment.problem}"
            )
        warn_of_inexact(self._environment)
        self._store.acquire()

    def _on_training_start(self) -> None:
        self._fingerprint = fingerprint(self.model)
        self._data, self._rows = ModelData(self.model), None
        buffer = self.model.replay_buffer if isinstance(self.model, OffPolicyAlgorithm) else None
        if buffer is not None:
            self._rows = ReplayRows(buffer)
            self._buffer_data = BufferData(buffer, self._rows.small_attributes())
        self._signals = StopSignals(self.model)
        self._iterations = Iterations(self.model, self.locals.get("log_interval"))
        # Agent steps of the last checkpoint, and whether training is between a rollout and the next.
        self._last_step, self._is_complete, self._has_begun = self.num_timesteps, True, False
        self._plan_after(self.num_timesteps)
        self._ends_next = False
        self._state: dict[str, Any] | None = None
        self._resume()
        self._signals.install()
        if self._is_streaming:
            self.model.between_steps = self._between  # type: ignore[attr-defined]

    def _resume(self) -> None:
        manifest = self._store.newest()
        if manifest is None:
            return
        if not self.resume:
            raise CheckpointError(f"{self.folder} has checkpoints already: give resume=True to go on, or another folder.")
        compare(manifest.fingerprint, self._fingerprint)
        total = self.model._total_timesteps
        if manifest.num_timesteps > total != manifest.total_timesteps:
            raise CheckpointError(
                f"The newest checkpoint in {self.folder} has taken {manifest.num_timesteps} steps, and learn() was asked for "
                f"{total}: use one folder per call of learn(), or ask for more steps."
            )
        self._restore_model(manifest)
        warn_of_schedules(self.model, manifest.total_timesteps)
        self.resumed_from = self._last_step = self.num_timesteps = manifest.num_timesteps
        self._plan_after(manifest.num_timesteps)
        if self.verbose:
            print(f"Resumed from step {manifest.num_timesteps}, {self.folder}")
        if manifest.num_timesteps >= total:  # nothing is left to do, so that no rollout begins
            self._begin()

    def _restore_model(self, manifest: Manifest) -> None:
        state = load(self._store.read(manifest.files[STATE]), {})
        self._state = state
        restore_weights(self.model, self._store.read(manifest.files[WEIGHTS]))
        self._environment.restore(state["environment"])
        self._data.restore(state["model"], self._environment.live)
        if self._rows is not None:
            self._rows.read(self._store, manifest.rows)
            self._buffer_data.restore(state["buffer"], self._environment.live)

    def _begin(self) -> None:
        """What other callbacks may have changed when they started is put right; random streams come last."""
        self._callbacks = CallbackStates(self.locals["callback"], self)
        self._logs = LogFiles(self.logger, *self._files())
        self._logged = self.logger.name_to_value
        self._has_begun = True
        state, self._state = self._state, None
        if state is not None:
            self._environment.restore(state["environment"])
            self._logs.restore(state["logs"])
            self._callbacks.restore(state["callbacks"])
            self._iterations.restore(state["iterations"])
            # The noise of gSDE was drawn anew for the rollout that begins.
            restore_exploration_noise(self.model, state["exploration"])
            restore_random_streams(state["streams"])

    def _files(self) -> tuple[list[ResultsWriter], list[Path]]:
        """Files of Monitors, and those that evaluation callbacks write."""
        environments = [self._environment, *self._callbacks.environments.values()]
        monitors = [writer for environment in environments for writer in environment.results_writers()]
        evaluations = [c.log_path for c in self._callbacks.callbacks.values() if isinstance(c, EvalCallback) and c.log_path]
        return monitors, [Path(f"{path}.npz") for path in evaluations]

    def _on_rollout_start(self) -> None:
        if not self._has_begun:
            self._begin()
        elif not self._is_streaming:
            self._between()

    def _on_rollout_end(self) -> None:
        self._is_complete = True
        self._iterations.here += 1

    def _on_step(self) -> bool:
        self._is_complete = False
        return not self._ends_next

    def _between(self) -> None:
        """A moment at which the run can be stored."""
        self._is_complete = True
        # Streaming algorithms pass here at every step, which takes 20 microseconds: so this is written to be fast.
        if self._logged:
            self._refuse_losses()
        is_due = self.model.num_timesteps >= self._due
        is_asked_to_end = self._signals is not None and self._signals.received is not None
        if not (is_due or is_asked_to_end):
            return
        if not (self._iterations.is_line_logged and self._environment.can_be_stored):  # nothing could go on from here
            return
        is_written = self.save()
        if is_asked_to_end:
            self._end(is_written)

    def _plan_after(self, step: int) -> None:
        """Note when the next checkpoint is due; after an attempt that failed, too: a full disk is not tried at every step."""
        self._due = (step // self.save_freq + 1) * self.save_freq

    def _end(self, is_written: bool) -> None:
        if not is_written:
            warnings.warn(f"Training stops, and goes on from an older checkpoint in {self.folder}.", stacklevel=2)
        self._ends_next = True
        if self.exit_on_signal:
            self._close()
            assert self.stopped_by is not None
            sys.exit(_EXIT_STATUS + self.stopped_by)

    def _on_training_end(self) -> None:
        # The zoo calls this after an error as well, when an update may be half done.
        has_failed = sys.exc_info()[0] is not None or self.model.num_timesteps < self.model._total_timesteps
        is_whole = self._has_begun and self._is_complete and not has_failed and not self._ends_next
        if is_whole and self.model.num_timesteps > self._last_step and self._environment.can_be_stored:
            self._refuse_losses()
            self.save()
        self._close()

    def _close(self) -> None:
        if self._signals is not None:
            self._signals.remove()
        self._store.release()
        self._iterations.close()
        for environment in [self._environment, *(self._callbacks.environments.values() if self._has_begun else [])]:
            environment.close()
        if self._is_streaming:
            self.model.between_steps = None  # type: ignore[attr-defined]

    def save(self) -> bool:
        """
        Write a checkpoint now; only between two rollouts is everything in it that belongs together.

        :return: Whether it could be written; if not, the former ones are as they were, and a warning says why
        :raises DivergenceError: if a tensor is not finite; nothing is written then.
        """
        if broken_tensors(self.model):
            self._refuse([])
        step = self.model.num_timesteps
        self._plan_after(step)
        try:
            manifest = self._write_where_there_is_space(step)
        except OSError as error:
            self._store.discard()
            warnings.warn(
                f"The checkpoint after {step} agent steps could not be written: {error}. Training goes on.", stacklevel=2
            )
            return False
        if self._rows is not None:
            self._rows.adopt(manifest.rows)
        self._last_step = step
        if self.verbose:
            print(f"Checkpoint {manifest.number} after {step} agent steps in {self.folder}")
        return True

    def _write_where_there_is_space(self, step: int) -> Manifest:
        """On a full disk, older checkpoints make room; the newest one stays in any case."""
        try:
            return self._write(step)
        except OSError as error:
            self._store.discard()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._store.free():
                raise
            return self._write(step)

    def _write(self, step: int) -> Manifest:
        number = self._store.next_number()
        state = dump(self._capture(), {})
        added = step - self._last_step
        files = {
            STATE: self._store.write(f"{STATE}-{number:06d}.pkl", [state]),
            WEIGHTS: self._store.write(f"{WEIGHTS}-{number:06d}.pt", [weights_of(self.model)]),
        }
        rows = {} if self._rows is None else self._rows.write(self._store, number, added)
        manifest = Manifest(number, step, self.model._total_timesteps, self._fingerprint, files, rows)
        self._store.commit(manifest)
        return manifest

    def _capture(self) -> dict[str, Any]:
        live = self._environment.live
        return {
            "environment": self._environment.capture(),
            "model": self._data.capture(live),
            "buffer": None if self._rows is None else self._buffer_data.capture(live),
            "callbacks": self._callbacks.capture(),
            "logs": self._logs.capture(),
            "iterations": self._iterations.total,
            "exploration": exploration_noise(self.model),
            "streams": random_streams(),
        }

    def _refuse_losses(self) -> None:
        if broken := broken_losses(logged_losses(self.model)):
            self._refuse(broken)

    def _refuse(self, losses: list[str]) -> None:
        self._close()
        manifests = self._store.manifests()
        raise divergence(self.model, losses, str(manifests[0]) if manifests else "the beginning (there is no checkpoint yet)")
