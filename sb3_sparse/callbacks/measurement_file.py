"""The measurements of one run, as a tidy table on disk."""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback, EventCallback
from stable_baselines3.common.logger import HumanOutputFormat
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

FILE_NAME = "plasticity.csv"


@dataclass(frozen=True)
class Measurement:
    """
    One line of the table.

    :param agent_steps: Steps that SB3 counts
    :param env_steps: Environment steps: agent steps times action repeat
    :param updates: Gradient steps so far
    :param network: Name of the network
    :param layer: Name of the layer within it, empty for the network as a whole
    :param metric: What was measured
    :param value: Its value
    """

    agent_steps: int
    env_steps: int
    updates: int
    network: str
    layer: str
    metric: str
    value: float


COLUMNS = tuple(field.name for field in fields(Measurement))


class MeasurementFile:
    """
    A CSV file that measurements are appended to, those of one moment by a single write, and matrices beside it. A line that
    was cut off by a crash is dropped when the run goes on, and so is everything of steps that the resumed model has yet to
    take.

    :param path: File, made together with its folder if missing
    :param resume_from: Agent steps of the model that goes on; 0 starts the file anew, as SB3's monitor and loggers do
    """

    def __init__(self, path: Path, resume_from: int = 0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_from == 0 else [m for m in read_measurements(path) if m.agent_steps <= resume_from]
        replacement = path.with_name(f".{path.name}.{os.getpid()}")
        replacement.write_text(",".join(COLUMNS) + "\n" + _lines(kept))
        os.replace(replacement, path)
        for matrix, _, agent_steps in saved_matrices(path):
            if resume_from == 0 or agent_steps > resume_from:
                matrix.unlink()

    def append(self, measurements: Iterable[Measurement]) -> None:
        """
        Add lines.

        :param measurements: What was measured
        """
        with self.path.open("a", newline="") as file:
            file.write(_lines(measurements))

    def save_matrix(self, network: str, agent_steps: int, **arrays: Any) -> None:
        """
        Save a gradient covariance matrix.

        :param network: Name of the network
        :param agent_steps: When it was measured
        :param arrays: What to save
        """
        name = f"{self.path.stem}-covariance-{network}-{agent_steps}.npz"
        np.savez_compressed(self.path.with_name(name), agent_steps=agent_steps, **arrays)

    def state(self) -> dict[str, bytes]:
        """Name -> content of the file and the matrices beside it, for checkpoints."""
        return {path.name: path.read_bytes() for path in (self.path, *(found[0] for found in saved_matrices(self.path)))}

    def restore(self, state: Mapping[str, bytes]) -> None:
        """
        Bring the files to what they were.

        :param state: What :meth:`state` returned
        """
        for matrix, *_ in saved_matrices(self.path):
            matrix.unlink()
        for name, content in state.items():
            self.path.with_name(name).write_bytes(content)


def saved_matrices(path: Path) -> list[tuple[Path, str, int]]:
    """
    Find the gradient covariance matrices of a run.

    :param path: Its file of measurements
    :return: File, network and agent steps of each, in the order of time
    """
    pattern = re.compile(re.escape(path.stem) + r"-covariance-(\w+)-(\d+)\.npz")
    matches = [(file, pattern.fullmatch(file.name)) for file in path.parent.glob("*.npz")]
    return sorted(((file, match[1], int(match[2])) for file, match in matches if match), key=lambda found: found[2])


def read_measurements(path: Path) -> list[Measurement]:
    """
    Read the measurements of a run.

    :param path: File; one that is missing holds nothing
    :return: In the order of the file; a last line that was cut off is left out
    """
    if not path.exists():
        return []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    return [
        Measurement(
            int(row["agent_steps"]),
            int(row["env_steps"]),
            int(row["updates"]),
            row["network"],
            row["layer"],
            row["metric"],
            float(row["value"]),
        )
        for row in csv.DictReader(io.StringIO(complete))
    ]


def run_folder(callback: BaseCallback) -> Path | None:
    """
    Find the folder that a run leaves its other files in: that of an ``EvalCallback`` or ``CheckpointCallback`` beside this
    callback (the RL Zoo has one), of the environment's ``Monitor``, of a logger that writes files.

    :param callback: Callback of a model that is being trained
    :return: Folder, None if the run writes nothing
    """
    model = callback.model
    return _from_callbacks(callback.locals.get("callback")) or _from_monitor(model) or _from_logger(model)


def _from_callbacks(callback: BaseCallback | None) -> Path | None:
    if isinstance(callback, EvalCallback) and callback.log_path is not None:
        return Path(callback.log_path).parent  # SB3 appends "evaluations"
    if isinstance(callback, CheckpointCallback):
        return Path(callback.save_path)
    if isinstance(callback, CallbackList):
        found = [_from_callbacks(part) for part in callback.callbacks]
        return next((folder for folder in found if folder is not None), None)
    return _from_callbacks(callback.callback) if isinstance(callback, EventCallback) else None


def _from_monitor(model: BaseAlgorithm) -> Path | None:
    env = None if model.env is None else model.env.unwrapped
    if not isinstance(env, DummyVecEnv):  # in another process, files are not reachable
        return None
    wrapped = env.envs[0]
    while isinstance(wrapped, gym.Wrapper):
        if isinstance(wrapped, Monitor) and wrapped.results_writer is not None:
            return Path(wrapped.results_writer.file_handler.name).parent
        wrapped = wrapped.env
    return None


def _from_logger(model: BaseAlgorithm) -> Path | None:
    writes_files = any(not isinstance(output, HumanOutputFormat) for output in model.logger.output_formats)
    return Path(model.logger.dir) if writes_files and model.logger.dir is not None else None


def _lines(measurements: Iterable[Measurement]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(asdict(measurement).values() for measurement in measurements)
    return text.getvalue()
