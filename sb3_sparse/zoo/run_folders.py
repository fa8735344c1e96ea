"""Folders of training runs, whoever trained them: the RL Zoo, a script with SB3's callbacks, our own commands."""

import functools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

import sb3_sparse.envs  # noqa: F401, registers the DeepMind Control Suite
from sb3_sparse.callbacks.measurement_file import FILE_NAME, Measurement, read_measurements, saved_matrices
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.deployment.safe_file import SUFFIX
from sb3_sparse.zoo.model_files import policy_arguments, policy_tensors
from sb3_sparse.zoo.zoo_files import read_keywords, read_yaml

_EVALUATIONS = "evaluations.npz"
_MONITOR = "*monitor.csv"
_RUN_NUMBER = re.compile(r"([-_ ]?seed[-_]?\d+|_\d+)$")
T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """
    Returns of one run.

    :param env_steps: Environment steps
    :param returns: Mean return of each evaluation, or return of each training episode
    :param is_evaluation: Whether these are evaluations
    """

    env_steps: tuple[int, ...]
    returns: tuple[float, ...]
    is_evaluation: bool


@dataclass(frozen=True)
class RunFolder:
    """
    The folder of one run.

    :param path: Folder
    :param repeat: Environment steps per agent step, if given; found out otherwise
    :param may_go_on: Whether it may be written to at the moment: a file that cannot be read is told of and left out then,
        instead of an error
    """

    path: Path
    repeat: int | None = None
    may_go_on: bool = False

    def _read(self, read: Callable[[Path], T], file: Path) -> T | None:
        if not self.may_go_on:
            return read(file)
        try:
            return read(file)
        except Exception as error:  # numpy, torch, yaml and json each have their own for what is cut off
            warnings.warn(f"{file} is left out, it cannot be read (is it being written?): {type(error).__name__}: {error}")
            return None

    @property
    def name(self) -> str:
        """What the run shares with those of other seeds: the zoo's hyperparameters, or the folder's name without the seed."""
        if self.zoo_arguments:
            algo, kwargs = self.zoo_arguments["algo"], self.policy_kwargs
            size = f", w = {kwargs['width_scale']:g}" if "width_scale" in kwargs else ""
            sparsity = self.sparsity
            return f"{algo} {f'S = {sparsity:g}' if sparsity else 'dense'}{size}"
        stem = _RUN_NUMBER.sub("", self.path.name)
        return stem or self.path.parent.name

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that is known to tell the run from others but its seed."""
        found: dict[str, Any] = {"sparsity": self.sparsity or 0.0, "action_repeat": self.action_repeat}
        if not self.zoo_arguments:  # nothing but where it is
            parents = (_RUN_NUMBER.sub("", part) for part in Path(os.path.relpath(self.path)).parts[:-1])
            return {**found, "folder": "/".join(parents)}
        config = {key: value for key, value in self.zoo_config.items() if key != "policy_kwargs"}
        return {**found, **config, **self.policy_kwargs, "env_kwargs": self.zoo_arguments.get("env_kwargs")}

    @functools.cached_property
    def task(self) -> str:
        """Environment id, as SB3's monitor noted it; empty if it did not."""
        for file in sorted(self.path.glob(_MONITOR)):
            if noted := self._read(_env_id, file):
                return noted
        return str(self.zoo_arguments.get("env", ""))

    @functools.cached_property
    def sparsity(self) -> float | None:
        """Sparsity that the critic was built with, 0 if dense; None if nothing tells."""
        given = self.policy_kwargs.get("sparsity", 0.0 if self.policy_kwargs or self.model_file else None)
        if isinstance(given, Mapping):
            given = given["critic"]
        if given is None:
            match = re.search(r"S(0?\.\d+)", self.path.name)
            given = float(match[1]) if match else 0.0 if "dense" in self.path.name else None
        return None if given is None else float(given)

    @functools.cached_property
    def action_repeat(self) -> int:
        """Environment steps per agent step; 1, with a warning, where only the environment could tell and is not registered."""
        if self.repeat is not None:
            return self.repeat
        for measurement in self.measurements:
            if measurement.agent_steps > 0:
                return measurement.env_steps // measurement.agent_steps
        given = (self.zoo_arguments.get("env_kwargs") or {}).get("action_repeat")
        if given is not None or not self.task:
            return int(given or 1)
        try:
            return action_repeat(self.task)
        except gym.error.UnregisteredEnv:
            warnings.warn(
                f"{self.path}: {self.task} is not registered here, so an agent step counts as one environment step "
                "(plot --action-repeat N changes that)."
            )
            return 1

    @functools.cached_property
    def measurements(self) -> list[Measurement]:
        """What ``PlasticityCallback`` measured."""
        return self._read(read_measurements, self.path / FILE_NAME) or []

    @functools.cached_property
    def curve(self) -> Curve | None:
        """Evaluations, or training episodes if there were none; None without either."""
        file = self.path / _EVALUATIONS
        if file.exists():
            # Without it there is no curve: returns of training episodes are no evaluations.
            return self._read(self._evaluations, file)
        monitors = sorted(self.path.glob(_MONITOR))
        episodes = [episode for monitor in monitors for episode in self._read(_episodes, monitor) or []]
        if not episodes:
            return None
        episodes.sort(key=lambda episode: episode[2])  # several environments take their steps together
        ends = np.cumsum([length for _, length, _ in episodes]) * self.action_repeat
        return Curve(tuple(map(int, ends)), tuple(reward for reward, _, _ in episodes), False)

    def _evaluations(self, file: Path) -> Curve:
        with np.load(file) as saved:
            steps = [int(step) * self.action_repeat for step in saved["timesteps"]]
            return Curve(tuple(steps), tuple(map(float, saved["results"].mean(axis=1))), True)

    def matrices(self, network: str) -> dict[int, np.ndarray]:
        """
        Gradient covariance matrices.

        :param network: Name of the network
        :return: Environment steps -> (samples, samples)
        """
        found = {}
        for file, name, agent_steps in saved_matrices(self.path / FILE_NAME):
            if name == network and (matrix := self._read(_matrix, file)) is not None:
                found[agent_steps * self.action_repeat] = matrix
        return found

    @functools.cached_property
    def model_file(self) -> Path | None:
        """The saved model, the final one before the best, and what is safe to read before a zip."""
        found = [*self.path.glob("*.zip"), *self.path.glob(f"*{SUFFIX}")]
        files = sorted(found, key=lambda file: (file.stem == "best_model", file.suffix != SUFFIX, file.name))
        return files[0] if files else None

    @functools.cached_property
    def layer_sparsities(self) -> dict[str, float]:
        """Weight of the online networks -> fraction of it that is inactive, of the saved model."""
        if self.model_file is None:
            return {}
        state = self._read(policy_tensors, self.model_file) or {}
        found: dict[str, float] = {}
        for name, value in state.items():
            layer = name.removesuffix(".topology.indices")
            if name.split(".")[0].endswith("_target"):
                continue
            if layer != name:
                total = int(np.prod(state[f"{layer}.topology.weight_shape"].tolist()))
                found[layer] = 1.0 - value.numel() / total
            elif name.endswith(".weight") and value.ndim >= 2:
                found[name.removesuffix(".weight")] = 0.0
        return found

    @functools.cached_property
    def policy_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy, from the zoo's configuration or from the saved model."""
        if not self.zoo_config:
            return self._saved_arguments
        kwargs = self.zoo_config.get("policy_kwargs", {})
        asked = read_keywords(kwargs) if isinstance(kwargs, str) else dict(kwargs)
        # What sparsify() has pruned, the zoo does not know.
        pruned = {} if "sparsity" in asked else {k: v for k, v in self._saved_arguments.items() if k == "sparsity"}
        return {**asked, **pruned}

    @functools.cached_property
    def _saved_arguments(self) -> dict[str, Any]:
        return {} if self.model_file is None else self._read(policy_arguments, self.model_file) or {}

    @functools.cached_property
    def zoo_config(self) -> dict[str, Any]:
        """Hyperparameters of the RL Zoo; empty if it did not train this."""
        return next((self._read(_yaml_mapping, file) or {} for file in self.path.glob("*/config.yml")), {})

    @functools.cached_property
    def zoo_arguments(self) -> dict[str, Any]:
        """Command line of the RL Zoo; empty if it did not train this."""
        return next((self._read(_yaml_mapping, file) or {} for file in self.path.glob("*/args.yml")), {})


def find_runs(paths: Iterable[Path], repeat: int | None = None) -> list[RunFolder]:
    """
    Find the folders of runs.

    :param paths: Folders of runs, or folders that contain some at any depth
    :param repeat: Environment steps per agent step; found out for each run if None
    :return: Runs, in the order of their paths
    :raises ValueError: if a path is no folder, or there is no run in it.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path} is no folder.")
        files = [file for pattern in (FILE_NAME, _EVALUATIONS, _MONITOR) for file in path.rglob(pattern)]
        if not files:
            raise ValueError(f"{path} holds no run: none of {FILE_NAME}, {_EVALUATIONS}, {_MONITOR} is in it.")
        found.update({file.parent: RunFolder(file.parent, repeat, may_go_on=True) for file in files})
    return [found[path] for path in sorted(found)]


def _env_id(monitor: Path) -> str:
    with monitor.open() as lines:
        return str(json.loads(lines.readline()[1:]).get("env_id") or "")


def _matrix(file: Path) -> np.ndarray:
    with np.load(file) as saved:
        return saved["matrix"]


def _yaml_mapping(file: Path) -> dict[str, Any]:
    return dict(read_yaml(file))


def _episodes(monitor: Path) -> list[tuple[float, int, int]]:
    """
    Return and length of each episode of a monitor file, and steps of its environment until then; a line that was cut off is
    left out. The clock in the file is of no use: it begins anew in runs that went on later.
    """
    text = monitor.read_text()
    header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    if not header:
        raise ValueError("its first line is not there yet")
    if not lines:
        return []
    columns = lines[0].split(",")
    places = [columns.index(name) for name in ("r", "l")]
    cells = [line.split(",") for line in lines[1:]]
    lengths = [int(row[places[1]]) for row in cells]
    ends = np.cumsum(lengths).tolist()
    return [(float(row[places[0]]), length, end) for row, length, end in zip(cells, lengths, ends, strict=True)]
