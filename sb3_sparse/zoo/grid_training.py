"""Trains one run of a grid as the RL Zoo would, so that whatever the zoo can train can be in a grid."""

import argparse
import contextlib
import importlib
import inspect
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.callbacks.measurement_file import FILE_NAME, Measurement, MeasurementFile
from sb3_sparse.experiments.grid_run import POLICY_AXES, GridRun
from sb3_sparse.experiments.initial_simplicity import initial_simplicity
from sb3_sparse.experiments.results_folder import ResultsFolder, RunPaths
from sb3_sparse.experiments.run_record import count_parameters, provenance, table_lines
from sb3_sparse.zoo.compiled_algorithms import registered
from sb3_sparse.zoo.registration import register
from sb3_sparse.zoo.run_checkpoints import Checkpoint, CheckpointKeeper, latest_checkpoint

_MOST_EVAL_ENVS = 5
_PROGRESS_SECONDS = 1.0
Spent = Callable[[], tuple[float, float]]


def train_run(run: GridRun, results: Path, device: str = "auto", command: Sequence[str] = ()) -> None:
    """
    Train a run, from its last checkpoint if there is one; a finished one is left alone. Uses one CPU thread.

    :param run: What to train
    :param results: Folder of results: the run's own gets what the zoo leaves of a run, its lines of the table and its record
    :param device: Device
    :param command: Command line that asked for it, to be put on record
    :raises BusyError: if another process is training it.
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
    checkpoint = latest_checkpoint(paths.checkpoint)
    spent = _stopwatch(checkpoint)
    manager = _manager(run, paths, device)
    run_files = Path(manager.save_path)
    shutil.rmtree(run_files, ignore_errors=True)
    if checkpoint is not None:
        _continue_from(checkpoint, manager, run_files)
    with registered(run.algorithm):
        model, _ = manager.setup_experiment()
    model.seed = run.seed
    parameters = count_parameters(model)
    callbacks = list(manager.callbacks)
    callbacks += [TrainingMeans(run, run_files)] if hasattr(model, "take_training_means") else []
    if checkpoint is not None:
        checkpoint.restore_callbacks(callbacks, run_files)
    own: list[BaseCallback] = [
        ProgressFile(paths.progress),
        CheckpointKeeper(_steps(run), paths.checkpoint, run_files, run.seed, str(manager.env_name), callbacks, spent),
    ]
    try:
        model.learn(
            run.agent_steps - model.num_timesteps,
            callback=[*callbacks, *own],
            log_interval=None,
            reset_num_timesteps=checkpoint is None,
        )
        manager.save_trained_model(model)
        action_repeat = _action_repeat(model.get_env())
    finally:
        _close(model, callbacks)
    record = {
        "settings": run.settings(),
        "action_repeat": action_repeat,
        **parameters,
        **_simplicity(run),
        "command": list(sys.orig_argv),
        **provenance(model.device, *spent()),
    }
    return record, run_files


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
    :raises ValueError: if they say nothing.
    """
    manager_class = importlib.import_module("rl_zoo3.exp_manager").ExperimentManager
    with contextlib.redirect_stdout(None):  # it prints all of them
        return manager_class(argparse.Namespace(), run.algorithm, run.task, "", verbose=0).read_hyperparameters()[0]


def _changes(run: GridRun, base: Mapping[str, Any]) -> dict[str, Any]:
    """What the run changes of the hyperparameter file: the networks are the grid's, and not those that the file recommends."""
    given = base.get("policy_kwargs", {})
    recommended = eval(given) if isinstance(given, str) else dict(given)  # as the zoo itself reads it
    is_other = run.hyperparameters.get("policy", base.get("policy")) != base.get("policy")
    kept = {key: value for key, value in recommended.items() if key not in POLICY_AXES and not is_other}
    changes: dict[str, Any] = {**run.hyperparameters}
    if kept or run.policy:
        changes["policy_kwargs"] = {**kept, **run.policy, **changes.get("policy_kwargs", {})}
    buffer_size = changes.get("buffer_size", base.get("buffer_size", _default_buffer_size(run.algorithm)))
    if buffer_size is not None:  # what is never filled need not be allocated, and saved at every checkpoint
        changes["buffer_size"] = min(int(buffer_size), run.agent_steps)
    callbacks = list(changes.get("callback", []))
    if run.plasticity is not None:
        callbacks.append({"sb3_sparse.PlasticityCallback": dict(run.plasticity)})
    if run.reset_freq is not None:
        callbacks.append({"sb3_sparse.ResetCallback": {"reset_freq": run.reset_freq}})
    if callbacks:
        changes["callback"] = callbacks
    return changes


def _default_buffer_size(algorithm: str) -> int | None:
    """Transitions, None if there is no replay buffer."""
    for kind in importlib.import_module("rl_zoo3").ALGOS[algorithm].__mro__:  # ours pass arguments on
        parameters = inspect.signature(kind.__init__).parameters
        if "buffer_size" in parameters:
            return parameters["buffer_size"].default
    return None


def _continue_from(checkpoint: Checkpoint, manager: Any, run_files: Path) -> None:
    checkpoint.restore_files(run_files)
    manager.trained_agent = str(checkpoint.model)
    manager.continue_training = True
    manager.seed = None  # given a seed, Stream AC would not go on where it was; others begin anew at checkpoints in any case
    manager.monitor_kwargs = {"override_existing": False}


def _steps(run: GridRun) -> list[int]:
    return [run.agent_steps * piece // run.checkpoints for piece in range(1, run.checkpoints)]


def _stopwatch(checkpoint: Checkpoint | None) -> Spent:
    before = (0.0, 0.0) if checkpoint is None else (checkpoint.state["seconds"], checkpoint.state["cpu_seconds"])
    begun = (time.monotonic(), time.process_time())
    return lambda: (before[0] + time.monotonic() - begun[0], before[1] + time.process_time() - begun[1])


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
        if now - self._last >= _PROGRESS_SECONDS:
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
        self._file = MeasurementFile(self.path, resume_from=self.num_timesteps)
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


def _by_network(means: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    for name, value in means.items():
        network, _, metric = name.partition("_")
        if network in ("actor", "critic"):
            yield network, metric, value
