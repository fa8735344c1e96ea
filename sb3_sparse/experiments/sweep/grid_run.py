"""One run of a grid: everything that decides what comes out of it, and a name that follows from that."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from sb3_sparse.experiments.sweep.run_defaults import without_defaults

# What an arm of a grid may set of the policy, and how it is called in legends and file names.
POLICY_AXES = {
    "width_scale": "w",
    "depth_scale": "d",
    "width": "width",
    "init": "init",
    "sparsity": "S",
    "distribution": "distribution",
    "budget": "budget",
    "mask_seed": "mask_seed",
    "prune_modules": "prune",
}


# Initialisations that have a name, besides which "dense" need not be said.
INITIALISATIONS = {"sparse": "SparseInit", "frozen_sparse": "frozen SparseInit"}


@dataclass(frozen=True)
class Evaluation:
    """
    Evaluations while a run trains, and at its end.

    :param freq: Agent steps between two of them
    :param episodes: Episodes of each
    :param deterministic: Whether actions are; None: as the zoo does, which explores in Atari games
    :param epsilon: Probability of a random action instead, None for never
    :param final_episodes: Episodes of the one at the end that is a run's final return; None: the mean of the last tenth of the
        others is
    """

    freq: int
    episodes: int
    deterministic: bool | None = None
    epsilon: float | None = None
    final_episodes: int | None = None


@dataclass(frozen=True)
class GridRun:
    """
    What to train. Runs with equal settings are the same run, whichever grids they belong to.

    :param algorithm: The RL Zoo's name of the algorithm
    :param task: Environment id
    :param policy: Arguments of the policy that this arm of the grid sets, e.g. ``width_scale`` and ``sparsity``; those of a
        policy that does not prune itself are :func:`~sb3_sparse.sparsify`'s
    :param seed: Seed of everything
    :param agent_steps: Length of the run in agent steps
    :param evaluation: Evaluations; None: the curve is that of the returns of training episodes
    :param windows: Points of a curve of training episodes
    :param plasticity: Arguments of ``PlasticityCallback``, None to measure nothing
    :param reset_freq: Agent steps between two resets of the whole agent, None for never
    :param simplicity_networks: Networks to score the simplicity bias of, at initialisation; 0 for none
    :param hyperparameters: Changes to what the zoo's hyperparameter file says
    :param checkpoints: Pieces of the run, between which it can go on after a crash; what comes out does not depend on them
    :param is_solved: Whether the sparsity was solved for, so that it differs a little between tasks in the same arm; decides
        nothing about the run either
    :param own: Names of the hyperparameters that this arm sets; as above
    :param name: What legends call this arm, what it sets if empty; as above
    """

    algorithm: str
    task: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    agent_steps: int = 500_000
    evaluation: Evaluation | None = None
    windows: int = 40
    plasticity: Mapping[str, Any] | None = None
    reset_freq: int | None = None
    simplicity_networks: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: int = field(default=10, compare=False)
    is_solved: bool = field(default=False, compare=False)
    own: tuple[str, ...] = field(default=(), compare=False)
    name: str = field(default="", compare=False)

    def settings(self) -> dict[str, Any]:
        """All that decides what comes out, as plain data."""
        deciding = [entry.name for entry in fields(self) if entry.compare]
        return json.loads(json.dumps({name: value for name, value in asdict(self).items() if name in deciding}))

    @cached_property
    def key(self) -> str:
        """Hash of the settings; runs with the same one are the same run."""
        # Without what is not set, so that a setting that comes with a later version does not rename older runs.
        left = without_defaults(self.settings())
        return hashlib.sha256(json.dumps(left, sort_keys=True).encode()).hexdigest()[:8]

    @cached_property
    def id(self) -> str:
        """Name of its folder: what a reader knows it by, and the key."""
        words = self._words(without_defaults(self.settings())["policy"])
        # SparseInit is what Stream AC does by default.
        given = self.policy.get("init", "sparse" if self.algorithm == "stream_ac" else "dense")
        initialisation = INITIALISATIONS.get(given, "dense")
        network = self.name or ", ".join(words if self.sparsity or initialisation in words else [*words, initialisation])
        words = [self.algorithm, short_task(self.task), network.replace(" = ", ""), f"seed{self.seed}", self.key]
        return re.sub(r"[^\w.=+-]+", "-", "-".join(words))

    @property
    def label(self) -> str:
        """What this arm sets, for legends."""
        changes = [f"{name} = {self.hyperparameters[name]}" for name in self.own]
        return self.name or ", ".join([*self._words(self.policy), *changes]) or "default"

    def _words(self, policy: Mapping[str, Any]) -> list[str]:
        words = [_word(name, policy[name]) for name in POLICY_AXES if name in policy]
        if policy.get("init") in INITIALISATIONS and not self.sparsity:
            words = [word for word in words if word != "dense"]
        return [*filter(None, words), *(["reset"] if self.reset_freq else [])]

    @property
    def sparsity(self) -> float:
        """Sparsity asked for; that of the critic where networks differ."""
        given = self.policy.get("sparsity", 0.0)
        return float(given["critic"] if isinstance(given, Mapping) else given)

    @property
    def arm(self) -> tuple[tuple[str, str], ...]:
        """What tells lines of a figure apart: all that the arm sets, and nothing else."""
        changes = {key: json.dumps(value, sort_keys=True) for key, value in self.policy.items()}
        if self.is_solved:
            changes["sparsity"] = "solved"
        hyperparameters = [(name, json.dumps(self.hyperparameters[name], sort_keys=True)) for name in sorted(self.own)]
        return (*sorted(changes.items()), ("reset", str(self.reset_freq)), *hyperparameters)


def key_of(name: str) -> str:
    """
    Key of a run.

    :param name: Its name, which may have another label than the grid at hand gives it
    """
    return name.rpartition("-")[2]


def short_task(task: str) -> str:
    """
    A task as figures call it.

    :param task: Environment id
    """
    return re.sub(r"^(dm_control|dm_control_pixels|ALE)/", "", re.sub(r"-v\d+$", "", task))


def _word(name: str, value: Any) -> str:
    """What a legend says of one argument; what is the usual is not said."""
    if name == "sparsity":
        if isinstance(value, Mapping):
            return "S = " + "/".join(f"{part:.3g}" for part in value.values())
        return f"S = {value:.3g}" if value else "dense"
    if name == "init":
        return INITIALISATIONS.get(value, "")
    if (name, value) == ("depth_scale", 1):
        return ""
    return f"{POLICY_AXES[name]} = {value:g}" if isinstance(value, int | float) else f"{POLICY_AXES[name]} = {value}"
