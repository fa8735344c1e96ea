"""Trains one run of a grid as the RL Zoo would, so that whatever the zoo can train can be in a grid."""

import argparse
import contextlib
import importlib
import inspect
import itertools
import math
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_sparse.callbacks.measurement_file import FILE_NAME, Measurement, MeasurementFile
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.common.sparsify import sparsify
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.experiments.grid_run import POLICY_AXES, GridRun
from sb3_sparse.experiments.initial_simplicity import initial_simplicity
from sb3_sparse.experiments.results_folder import ResultsFolder, RunPaths
from sb3_sparse.experiments.run_record import count_parameters, provenance, table_lines
from sb3_sparse.experiments.zoo_files import read_value
from sb3_sparse.zoo.compiled_algorithms import registered
from sb3_sparse.zoo.registration import register

_MOST_EVAL_ENVS = 5
# Hyperparameters whose text the zoo evaluates.
_EVALUATED = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize")
_PROGRESS_SECONDS = 1.0
# Arguments of our policies that sparsify() takes for all others.
_PRUNING = ("sparsity", "distribution", "budget", "mask_seed")


def train_run(run: GridRun, results: Path, device: str = "auto", command: Sequence[str] = ()) -> None:
    """
    Train a run, from its last checkpoint if there is one; a finished one is left alone. Uses one CPU thread.

    :param run: What to train
    :param results: Folder of results: the run's own gets what the zoo leaves of a run, its lines of the table and its record
    :param device: Device
    :param command: Command line that asked for it, to be put on record
    :raises BusyError: if another process is training it.
    :raises KeyboardInterrupt: after SIGINT, when a checkpoint is written.
    :raises SystemExit: after SIGTERM, in the same way.
    """
    folder = ResultsFolder(results)
    paths = folder.run(run)
    with paths.claim():
        if paths.is_finished:
            return
        paths.error.unlink(missing_ok=True)
        th.set_num_threads(1)
        register()
        with _captured_output(paths.log), _command_line(command):
            record, run_files = _train(run, paths, device)
        folder.write_record(run, record, table_lines(run, run_files, record))
        shutil.rmtree(paths.checkpoint, ignore_errors=True)


def _train(run: GridRun, paths: RunPaths, device: str) -> tuple[dict[str, Any], Path]:
    manager = _manager(run, paths, device)
    run_files, checkpoints = Path(manager.save_path), CheckpointFolder(paths.checkpoint)
    if not checkpoints.manifests():
        shutil.rmtree(run_files, ignore_errors=True)
    with registered(run.algorithm):
        model, _ = manager.setup_experiment()
    _prune(model, run)
    _randomize(manager.callbacks, run)
    parameters, stopwatch = count_parameters(model), Stopwatch()
    callbacks = [*manager.callbacks, stopwatch, ProgressFile(paths.progress)]
    callbacks += [TrainingMeans(run, run_files)] if hasattr(model, "take_training_means") else []
    saver = _checkpoints(run, paths)
    try:
        model.learn(run.agent_steps, callback=[*callbacks, *saver], log_interval=None)
        _obey_signals(saver)
        manager.save_trained_model(model)
        action_repeat = _action_repeat(model.get_env())
    finally:
        _let_go(saver, checkpoints)
        _close(model, callbacks)
    record = {
        "settings": run.settings(),
        "action_repeat": action_repeat,
        **parameters,
        **_simplicity(run),
        "command": list(sys.orig_argv),
        **provenance(model.device, *stopwatch.spent),
    }
    return record, run_files


def _prune(model: BaseAlgorithm, run: GridRun) -> None:
    """Prune the networks of a policy that does not do so itself."""
    pruning = pruning_of_stock_policy(run, type(model.policy))
    if pruning and any(pruning["sparsity"].values() if isinstance(pruning["sparsity"], Mapping) else [pruning["sparsity"]]):
        sparsify(model, **pruning)


def pruning_of_stock_policy(run: GridRun, policy: type) -> dict[str, Any]:
    """
    What of a run's arguments of the policy is not for the policy, but for :func:`~sb3_sparse.sparsify`.

    :param run: Run
    :param policy: Its policy's class
    """
    asked = {name: run.policy[name] for name in _PRUNING if name in run.policy}
    return {} if issubclass(policy, PrunedPolicy) or "sparsity" not in asked else asked


def _randomize(callbacks: Sequence[BaseCallback], run: GridRun) -> None:
    """Have some actions of evaluations be random, where the run asks for it."""
    if run.evaluation is None or run.evaluation.epsilon is None:
        return
    for callback in callbacks:
        if isinstance(callback, EvalCallback):
            envs = callback.eval_env.unwrapped.envs  # type: ignore[attr-defined]
            envs[:] = [RandomActions(env, run.evaluation.epsilon, run.seed + i) for i, env in enumerate(envs)]


def _checkpoints(run: GridRun, paths: RunPaths) -> list[ExactCheckpointCallback]:
    """The callback that a run goes on by, none if it is trained in one piece."""
    freq = math.ceil(run.agent_steps / run.checkpoints)
    return [ExactCheckpointCallback(paths.checkpoint, freq, verbose=1)] if run.checkpoints > 1 else []


def _let_go(saver: Sequence[ExactCheckpointCallback], folder: CheckpointFolder) -> None:
    """Of signals and of the folder, also after an error, where learn() does not."""
    for callback in saver:
        if callback.locals:  # training has begun
            callback.on_training_end()
    folder.release()


def _obey_signals(saver: Sequence[ExactCheckpointCallback]) -> None:
    """End as the signal would have ended the program, now that a checkpoint is written."""
    for callback in saver:
        if callback.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        if callback.stopped_by is not None:
            raise SystemExit(128 + callback.stopped_by)


def _manager(run: GridRun, paths: RunPaths, device: str) -> Any:
    manager_class = importlib.import_module("rl_zoo3.exp_manager").ExperimentManager
    evaluation = run.evaluation
    options = {
        "algo": run.algorithm,
        "env": run.task,
        "seed": run.seed,
        "n_timesteps": run.agent_steps,
        "eval_freq": -1 if evaluation is None else evaluation.freq,
        "eval_episodes": 0 if evaluation is None else evaluation.episodes,
        "n_eval_envs": 1 if evaluation is None else min(evaluation.episodes, _MOST_EVAL_ENVS),
        "device": device,
    }
    # The zoo gives those of a hyperparameter file to the training environment only.
    env_kwargs = run.hyperparameters.get("env_kwargs")
    manager = manager_class(
        argparse.Namespace(**options, env_kwargs=env_kwargs),
        run.algorithm,
        run.task,
        str(paths.folder),
        n_timesteps=run.agent_steps,
        eval_freq=options["eval_freq"],
        n_eval_episodes=options["eval_episodes"],
        n_eval_envs=options["n_eval_envs"],
        eval_env_kwargs=env_kwargs,
        seed=run.seed,
        verbose=0,
        device=device,
    )
    if evaluation is not None and evaluation.deterministic is not None:
        manager.deterministic_eval = evaluation.deterministic
    # The zoo would number the folder of a run that begins again.
    manager.save_path = str(Path(manager.log_path) / f"{manager.env_name}_1")
    manager.params_path = f"{manager.save_path}/{manager.env_name}"
    manager.custom_hyperparams = _changes(run, base_hyperparameters(run))
    return manager


def base_hyperparameters(run: GridRun) -> dict[str, Any]:
    """
    What the zoo's hyperparameter files, ours before others, say for a run's environment.

    :param run: Run
    :raises ValueError: if they say nothing, or these or the run's own hold text that is code.
    """
    manager_class = importlib.import_module("rl_zoo3.exp_manager").ExperimentManager
    with contextlib.redirect_stdout(None):  # it prints all of them
        base = manager_class(argparse.Namespace(), run.algorithm, run.task, "", verbose=0).read_hyperparameters()[0]
    # The zoo evaluates these, so they are read here first, which refuses what would have to be executed.
    for given, key in itertools.product((base, run.hyperparameters), _EVALUATED):
        if isinstance(given.get(key), str):
            read_value(given[key])
    return base


def _changes(run: GridRun, base: Mapping[str, Any]) -> dict[str, Any]:
    """What the run changes of the hyperparameter file: the networks are the grid's, and not those that the file recommends."""
    is_other = run.hyperparameters.get("policy", base.get("policy")) != base.get("policy")
    recommended = {} if is_other else _arguments(base.get("policy_kwargs", {}))
    kept = {key: value for key, value in recommended.items() if key not in POLICY_AXES}
    changes: dict[str, Any] = {**run.hyperparameters}
    if "policy_kwargs" in base or run.policy:
        sparsified = pruning_of_stock_policy(run, policy_class(run, changes.get("policy", base["policy"])))
        arm = {key: value for key, value in run.policy.items() if key not in sparsified}
        changes["policy_kwargs"] = {**kept, **arm, **_arguments(changes.get("policy_kwargs", {}))}
    buffer_size = changes.get("buffer_size", base.get("buffer_size", _default_buffer_size(run.algorithm)))
    if buffer_size is not None:  # what is never filled need not be allocated
        changes["buffer_size"] = min(int(buffer_size), run.agent_steps)
    callbacks = list(changes.get("callback", []))
    if run.plasticity is not None:
        callbacks.append({"sb3_sparse.PlasticityCallback": dict(run.plasticity)})
    if run.reset_freq is not None:
        callbacks.append({"sb3_sparse.ResetCallback": {"reset_freq": run.reset_freq}})
    if callbacks:
        changes["callback"] = callbacks
    return changes


def policy_class(run: GridRun, policy: str) -> Any:
    """
    Find a policy as the zoo does.

    :param run: Run
    :param policy: What a hyperparameter file has: a name that the algorithm knows, or "module.Class"
    """
    if "." in policy:
        module, _, name = policy.rpartition(".")
        return getattr(importlib.import_module(module), name)
    return importlib.import_module("rl_zoo3").ALGOS[run.algorithm].policy_aliases[policy]


def _arguments(given: str | Mapping[str, Any]) -> dict[str, Any]:
    return dict(read_value(given) if isinstance(given, str) else given)


def _default_buffer_size(algorithm: str) -> int | None:
    """Transitions, None if there is no replay buffer."""
    for kind in importlib.import_module("rl_zoo3").ALGOS[algorithm].__mro__:  # ours pass arguments on
        parameters = inspect.signature(kind.__init__).parameters
        if "buffer_size" in parameters:
            return parameters["buffer_size"].default
    return None


def _simplicity(run: GridRun) -> dict[str, float]:
    if run.simplicity_networks == 0:
        return {}
    return {"simplicity_bias": round(initial_simplicity(run.policy, run.simplicity_networks, run.seed), 4)}


def _action_repeat(env: Any) -> int:
    return int(env.get_attr("action_repeat")[0]) if env.has_attr("action_repeat") else 1


def _close(model: BaseAlgorithm, callbacks: Sequence[BaseCallback]) -> None:
    for env in [model.get_env(), *(getattr(callback, "eval_env", None) for callback in callbacks)]:
        if env is not None:
            env.close()


@contextlib.contextmanager
def _captured_output(path: Path) -> Iterator[None]:
    """The zoo prints, and warnings are of interest later: both go to a file of the run."""
    with path.open("a", buffering=1) as file, contextlib.redirect_stdout(file), warnings.catch_warnings(record=False):
        warnings.showwarning = lambda message, category, *_, **__: print(f"{category.__name__}: {message}", file=file)
        yield


@contextlib.contextmanager
def _command_line(command: Sequence[str]) -> Iterator[None]:
    """What is put on record is the command that the user typed, not that of a worker process."""
    given = sys.argv, sys.orig_argv
    if command:
        sys.argv, sys.orig_argv = list(command), list(command)
    try:
        yield
    finally:
        sys.argv, sys.orig_argv = given


class Stopwatch(BaseCallback):
    """Seconds and process time that a run takes, those before it was interrupted included."""

    def __init__(self) -> None:
        super().__init__()
        self._begin((0.0, 0.0))

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds, and seconds of process time."""
        seconds, cpu_seconds = self._before
        return seconds + time.monotonic() - self._begun[0], cpu_seconds + time.process_time() - self._begun[1]

    def _begin(self, before: tuple[float, float]) -> None:
        self._before, self._begun = before, (time.monotonic(), time.process_time())

    def _on_step(self) -> bool:
        return True

    def checkpoint_state(self) -> tuple[float, float]:
        """Time so far."""
        return self.spent

    def restore_checkpoint_state(self, state: tuple[float, float]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        self._begin(state)


class ProgressFile(BaseCallback):
    """
    Writes down how far a run is, for displays in other processes, at most once a second.

    :param path: File
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._last = -float("inf")

    def _on_step(self) -> bool:
        now = time.monotonic()
        # In a run that goes on, the last time may be that of another machine's clock.
        if not 0.0 <= now - self._last < _PROGRESS_SECONDS:
            self._last = now
            self.path.write_text(str(self.num_timesteps))
        return True


class TrainingMeans(BaseCallback):
    """
    Keeps step sizes and trace norms of a streaming algorithm, in the windows of its learning curve, with the measurements of
    plasticity.

    :param run: Run
    :param folder: Folder of its files
    """

    def __init__(self, run: GridRun, folder: Path):
        super().__init__()
        self.path = folder / FILE_NAME
        self.ends = {run.agent_steps * (i + 1) // run.windows for i in range(run.windows)}

    def _on_training_start(self) -> None:
        self._file = MeasurementFile(self.path)
        self._repeat = _action_repeat(self.training_env)

    def _on_step(self) -> bool:
        step = self.num_timesteps  # and updates, one in each
        if step in self.ends:
            means = self.model.take_training_means()  # type: ignore[attr-defined]
            self._file.append(
                Measurement(step, step * self._repeat, step, network, "", metric, value)
                for network, metric, value in _by_network(means)
            )
        return True

    def checkpoint_state(self) -> dict[str, bytes]:
        """The file so far."""
        return self._file.state()

    def restore_checkpoint_state(self, state: dict[str, bytes]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        self._file.restore(state)


def _by_network(means: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    for name, value in means.items():
        network, _, metric = name.partition("_")
        if network in ("actor", "critic"):
            yield network, metric, value
