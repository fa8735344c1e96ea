"""Trains one run of a grid as the RL Zoo would, so that whatever the zoo can train can be in a grid."""

import argparse
import contextlib
import importlib
import math
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.common.sparsify import sparsify
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.experiments.sweep.final_evaluation import final_returns
from sb3_sparse.experiments.sweep.grid_hyperparameters import changed_hyperparameters, pruning_of_stock_policy
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.initial_simplicity import initial_simplicity
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder, RunPaths
from sb3_sparse.experiments.sweep.run_callbacks import ProgressFile, Stopwatch, TrainingMeans
from sb3_sparse.experiments.sweep.run_record import count_parameters, made_with, table_lines
from sb3_sparse.zoo.compiled_algorithms import registered
from sb3_sparse.zoo.registration import register

_MOST_EVAL_ENVS = 5


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


def build(run: GridRun, paths: RunPaths, device: str) -> tuple[Any, Any]:
    """
    Build what a run trains.

    :param run: Run
    :param paths: Its files
    :param device: Device
    :return: The zoo's manager, and the model
    """
    manager = _manager(run, paths, device)
    if not CheckpointFolder(paths.checkpoint).manifests():
        shutil.rmtree(manager.save_path, ignore_errors=True)
    with registered(run.algorithm):
        model, _ = manager.setup_experiment()
    _prune(model, run)
    return manager, model


def _train(run: GridRun, paths: RunPaths, device: str) -> tuple[dict[str, Any], Path]:
    manager, model = build(run, paths, device)
    run_files, checkpoints = Path(manager.save_path), CheckpointFolder(paths.checkpoint)
    _randomize(manager.callbacks, run)
    stopwatch = Stopwatch()
    callbacks = [*manager.callbacks, stopwatch, ProgressFile(paths.progress)]
    callbacks += [TrainingMeans(run, run_files)] if isinstance(model, OwnAlgorithm) and model.is_streaming else []
    saver = _checkpoints(run, paths)
    try:
        model.learn(run.agent_steps, callback=[*callbacks, *saver], log_interval=None)
        _obey_signals(saver)
        manager.save_trained_model(model)
        repeat = action_repeat(model.get_env())
        returns = final_returns(model, run, callbacks)
    finally:
        _let_go(saver, checkpoints)
        _close(model, callbacks)
    record = {
        "settings": run.settings(),
        "action_repeat": repeat,
        **count_parameters(model),  # at the end: their number may have changed
        **({} if returns is None else {"final_returns": returns}),
        **_simplicity(run),
        "command": list(sys.orig_argv),
        **made_with(model.device, *stopwatch.spent),
    }
    return record, run_files


def _prune(model: BaseAlgorithm, run: GridRun) -> None:
    """Prune the networks of a policy that does not do so itself."""
    pruning = pruning_of_stock_policy(run, type(model.policy))
    if pruning and any(pruning["sparsity"].values() if isinstance(pruning["sparsity"], Mapping) else [pruning["sparsity"]]):
        sparsify(model, **pruning)


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
    manager.custom_hyperparams = changed_hyperparameters(run)
    return manager


def _simplicity(run: GridRun) -> dict[str, float]:
    if run.simplicity_networks == 0:
        return {}
    return {"simplicity_bias": round(initial_simplicity(run.policy, run.simplicity_networks, run.seed), 4)}


def _close(model: BaseAlgorithm, callbacks: Sequence[BaseCallback]) -> None:
    for env in [model.get_env(), *(callback.eval_env for callback in callbacks if isinstance(callback, EvalCallback))]:
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
