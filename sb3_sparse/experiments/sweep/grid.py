"""Grids of runs, declared in YAML: tasks x algorithms x networks x seeds."""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.sweep.equal_parameters import equal_sparsity
from sb3_sparse.experiments.sweep.grid_run import POLICY_AXES, Evaluation, GridRun
from sb3_sparse.experiments.sweep.shipped_grids import FOLDER, figures, shipped_grids
from sb3_sparse.zoo.hyperparameter_files import our_hyperparameters, our_policy

SCORES = ("return", "dmc", "atari")
STATISTICS = ("mean", "iqm")
_KEYS = {
    "title", "figure", "score", "statistic", "algorithm", "task", "arms", "seeds", "agent_steps", "evaluation", "windows",
    "plasticity", "checkpoints", "simplicity_networks", "hyperparameters", "resources", "budgets",
}  # fmt: skip
_REQUIRED = ("algorithm", "task", "arms", "seeds", "agent_steps")
_ARM_KEYS = {*POLICY_AXES, "equal_parameters", "reset_freq", "algorithm", "task", "hyperparameters", "label"}
_SIZES = {"width_scale", "depth_scale"}
_FLOATS = ("width_scale", "depth_scale", "sparsity")
_RESOURCES = {"cpus": 1.0, "gpus": 0.25}


class GridError(ValueError):
    """A grid that cannot be run as it was written."""


@dataclass(frozen=True)
class Grid:
    """
    Runs, and what they are for.

    :param stem: Name of its file
    :param budget: Which of its budgets this is, None for the file as it is
    :param title: One line for the reader
    :param runs: All runs; seeds come last, so that a grid that is stopped has all its lines
    :param figure: Number of the paper's figure that it draws, None for learning curves
    :param anchor: Width and depth scale of the dense network whose parameters sparse ones are given
    :param score: How returns of several tasks are put on one scale: "dmc" (divided by 1000), "atari" (human-normalised) or
        "return" (as they are)
    :param statistic: What figures draw over several tasks: "mean", or "iqm" for the interquartile mean
    :param resources: CPU cores ("cpus") and part of a GPU ("gpus") of each run
    :param source: Text of its file
    """

    stem: str
    budget: str | None
    title: str
    runs: tuple[GridRun, ...]
    figure: int | None = None
    anchor: tuple[float, float] = (1.0, 1.0)
    score: str = "return"
    statistic: str = "mean"
    resources: Mapping[str, float] = field(default_factory=lambda: dict(_RESOURCES))
    source: str = ""

    @property
    def name(self) -> str:
        """Short name, for files."""
        return self.stem if self.budget is None else f"{self.stem}-{self.budget}"

    @property
    def tasks(self) -> list[str]:
        """Its tasks, in order."""
        return list(dict.fromkeys(run.task for run in self.runs))

    @property
    def algorithms(self) -> list[str]:
        """Its algorithms, in order."""
        return list(dict.fromkeys(run.algorithm for run in self.runs))


def figure_grid(
    number: int, budget: str, changes: Mapping[str, Any] | None = None, arms: Sequence[Mapping[str, Any]] = ()
) -> Grid:
    """
    The grid behind a figure of the paper.

    :param number: Number of the figure
    :param budget: "smoke" (minutes on two CPU cores), "short" (hours on a GPU) or "full" (the paper's)
    :param changes: As for :func:`load_grid`
    :param arms: As for :func:`load_grid`
    """
    if number not in figures():
        raise GridError(f"There is no grid for figure {number}: choose one of {', '.join(map(str, figures()))}.")
    return load_grid(FOLDER / f"figure-{number}.yml", budget, changes, arms)


def load_grid(
    path: Path,
    budget: str | None = None,
    changes: Mapping[str, Any] | None = None,
    arms: Sequence[Mapping[str, Any]] = (),
) -> Grid:
    """
    Read a grid.

    :param path: YAML file, or the name of one that this package has
    :param budget: Entry of its ``budgets``, whose keys replace those of the file; None to take the file as it is
    :param changes: Keys to replace after that
    :param arms: Arms to add to its own
    :raises GridError: if it is no grid, has unknown keys or values, contradicts itself, or holds no run.
    """
    shipped = FOLDER / f"{path}.yml"
    try:
        text = (shipped if shipped.is_file() and not path.exists() else path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        names = ", ".join(shipped_grids())
        raise GridError(f"{path} cannot be read: {reason}. Grids that come with this package: {names}.") from error
    try:
        grid = parse_grid(text, path.stem, budget)
        return _changed(grid, text, changes or {}, arms) if changes or arms else grid
    except GridError as error:
        raise GridError(f"{path}: {error}") from error


def parse_grid(text: str, stem: str, budget: str | None) -> Grid:
    """
    Read a grid from its text.

    :param text: YAML
    :param stem: Name of its file
    :param budget: As for :func:`load_grid`
    :raises GridError: as :func:`load_grid`
    """
    content = _content(text)
    try:
        return _grid(_with_budget(content, budget), stem, budget, text)
    except (TypeError, ValueError) as error:
        raise GridError(str(error)) from error


def _content(text: str) -> dict[str, Any]:
    yaml = import_extra("yaml", "zoo")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GridError(f"it is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise GridError(f"it is no grid, but must be a mapping with the keys {', '.join(_REQUIRED)}.")
    return content


def _changed(grid: Grid, text: str, changes: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> Grid:
    """A grid with other keys, whose text is written anew."""
    _refuse_unknown(changes, _KEYS - {"budgets", "figure"}, "what is changed")
    content = {**_with_budget(_content(text), grid.budget), **changes}
    content["arms"] = [*_as_list(content["arms"]), *arms]
    return parse_grid(import_extra("yaml", "zoo").safe_dump(content, sort_keys=False), grid.name, None)


def _with_budget(content: dict[str, Any], budget: str | None) -> dict[str, Any]:
    _refuse_unknown(content, _KEYS, "the grid")
    budgets = content.get("budgets", {})
    if not isinstance(budgets, dict):
        raise GridError(f"budgets must map names to changed keys, got {budgets!r}.")
    for name, changes in budgets.items():
        _refuse_unknown(changes or {}, _KEYS - {"budgets", "figure", "title"}, f"the budget {name!r}")
    if budget is not None and budget not in budgets:
        raise GridError(f"There is no budget {budget!r} in it: choose one of {', '.join(budgets) or 'none'}.")
    changes = (budgets[budget] or {}) if budget is not None else {}
    return {key: value for key, value in {**content, **changes}.items() if key != "budgets"}


def _grid(content: Mapping[str, Any], stem: str, budget: str | None, source: str) -> Grid:
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise GridError(f"it lacks {', '.join(missing)}.")
    score = content.get("score", "return")
    if score not in SCORES:
        raise GridError(f"score must be one of {', '.join(SCORES)}, got {score!r}.")
    statistic = content.get("statistic", "mean")
    if statistic not in STATISTICS:
        raise GridError(f"statistic must be one of {', '.join(STATISTICS)}, got {statistic!r}.")
    runs = tuple({run.key: run for run in _runs(content)}.values())
    if not runs:
        raise GridError("it holds no run: an algorithm, task, arm or seed is missing.")
    label, count = Counter((run.label, run.algorithm, run.task, run.seed) for run in runs).most_common(1)[0]
    if count > 1:
        raise GridError(f"several of its arms are called {label[0]!r} in figures: give them labels.")
    return Grid(
        stem=stem,
        budget=budget,
        title=str(content.get("title", stem)),
        runs=runs,
        figure=content.get("figure"),
        anchor=_anchor(content["arms"]),
        score=score,
        statistic=statistic,
        resources=_resources(content.get("resources", {})),
        source=source,
    )


def _runs(content: Mapping[str, Any]) -> Iterator[GridRun]:
    arms = [arm for given in _as_list(content["arms"]) for arm in _products(given)]
    shared: dict[str, Any] = {
        "agent_steps": _positive(content["agent_steps"], "agent_steps"),
        "evaluation": _evaluation(content.get("evaluation"), content["agent_steps"]),
        "windows": _positive(content.get("windows", 40), "windows"),
        "plasticity": content.get("plasticity"),
        "checkpoints": _positive(content.get("checkpoints", 10), "checkpoints"),
        "simplicity_networks": int(content.get("simplicity_networks", 0)),
    }
    axes = (_seeds(content["seeds"]), _as_list(content["algorithm"]), _as_list(content["task"]), arms)
    for seed, algorithm, task, arm in itertools.product(*axes):
        if algorithm in _as_list(arm.get("algorithm", algorithm)) and task in _as_list(arm.get("task", task)):
            policy = _policy(arm, algorithm, task)
            hyperparameters = {**content.get("hyperparameters", {}), **arm.get("hyperparameters", {})}
            yield GridRun(
                algorithm=algorithm,
                task=task,
                policy=policy,
                seed=seed,
                is_solved="equal_parameters" in arm,
                reset_freq=arm.get("reset_freq"),
                hyperparameters={**_chosen_policy(policy, algorithm, task), **hyperparameters},
                own=tuple(arm.get("hyperparameters", {})),
                name=str(arm.get("label", "")),
                **shared,
            )


def _products(arm: Any) -> Iterator[dict[str, Any]]:
    """The arms that a mapping with lists stands for."""
    if not isinstance(arm, dict):
        raise GridError(f"an arm is a mapping such as {{width_scale: 5, sparsity: [0, 0.9]}}, got {arm!r}.")
    _refuse_unknown(arm, _ARM_KEYS, "an arm")
    if "equal_parameters" in arm and "sparsity" in arm:
        raise GridError(f"an arm gives its sparsity or has it solved for by equal_parameters, not both: {arm!r}.")
    fixed = {key: arm[key] for key in ("algorithm", "task", "hyperparameters", "equal_parameters", "label") if key in arm}
    axes = {key: _as_list(value) for key, value in arm.items() if key not in fixed}
    if "label" in arm and any(len(values) > 1 for values in axes.values()):
        raise GridError(f"a label is for one network, and this arm holds several: {arm!r}.")
    for values in itertools.product(*axes.values()):
        yield {**dict(zip(axes, values, strict=True)), **fixed}


def _policy(arm: Mapping[str, Any], algorithm: str, task: str) -> dict[str, Any]:
    # Numbers are one type, so that 0 and 0.0 are the same run.
    policy: dict[str, Any] = {
        key: float(arm[key]) if key in _FLOATS and _is_number(arm[key]) else arm[key] for key in POLICY_AXES if key in arm
    }
    if "sparsity" in policy:
        PruningConfig.create(policy["sparsity"], policy.get("distribution", "erdos_renyi"), policy.get("budget", "all"))
    if "equal_parameters" in arm:
        # Once for all seeds.
        policy["sparsity"] = _solved(algorithm, task, json.dumps(policy), json.dumps(arm["equal_parameters"]))
    return policy


def _chosen_policy(policy: Mapping[str, Any], algorithm: str, task: str) -> dict[str, str]:
    """The policy that knows an arm's size, where the zoo's own hyperparameters name one that has no such sizes."""
    ours = our_policy(algorithm)
    is_chosen = ours is not None and our_hyperparameters(algorithm, task) is None and not _SIZES.isdisjoint(policy)
    return {"policy": ours} if ours is not None and is_chosen else {}


@functools.lru_cache(maxsize=1_024)
def _solved(algorithm: str, task: str, policy: str, anchor: str) -> float:
    return equal_sparsity(algorithm, task, json.loads(policy), json.loads(anchor))


def _anchor(arms: Any) -> tuple[float, float]:
    given: dict[str, float] = next((arm["equal_parameters"] for arm in _as_list(arms) if "equal_parameters" in arm), {})
    return float(given.get("width_scale", 1.0)), float(given.get("depth_scale", 1.0))


def _evaluation(given: Any, agent_steps: int) -> Evaluation | None:
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) - {"deterministic", "epsilon", "final_episodes"} != {"freq", "episodes"}:
        raise GridError(f"evaluation must have freq (agent steps) and episodes, or be left out, got {given!r}.")
    deterministic = given.get("deterministic")
    if not isinstance(deterministic, bool | None):
        raise GridError(f"evaluation: deterministic must be true or false, got {deterministic!r}.")
    epsilon = given.get("epsilon")
    if epsilon is not None and not (_is_number(epsilon) and 0 <= epsilon <= 1):
        raise GridError(f"evaluation: epsilon must lie in [0, 1], got {epsilon!r}.")
    freq, episodes = (_positive(given[key], f"evaluation: {key}") for key in ("freq", "episodes"))
    if freq > agent_steps:
        raise GridError(f"evaluation: freq {freq} is more than agent_steps {agent_steps}: there would be no evaluation.")
    final = given.get("final_episodes")
    final = None if final is None else _positive(final, "evaluation: final_episodes")
    return Evaluation(freq, episodes, deterministic, epsilon, final)


def _seeds(given: Any) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool):
        return list(range(given))
    if isinstance(given, list) and all(isinstance(seed, int) and seed >= 0 for seed in given):
        return list(given)
    raise GridError(f"seeds must be a number of seeds or a list of them, got {given!r}.")


def _resources(given: Mapping[str, Any]) -> dict[str, float]:
    _refuse_unknown(given, set(_RESOURCES), "resources")
    chosen = {**_RESOURCES, **given}
    if not all(isinstance(value, int | float) and value >= 0 for value in chosen.values()):
        raise GridError(f"resources must be numbers of at least 0, got {given!r}.")
    return chosen


def _positive(given: Any, name: str) -> int:
    number = int(given) if isinstance(given, float) and given.is_integer() else given
    try:
        return check_integer(name, number)
    except ValueError as error:
        raise GridError(str(error)) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _refuse_unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    if not isinstance(given, Mapping):
        raise GridError(f"{where} must be a mapping, got {given!r}.")
    unknown = sorted(set(map(str, given)) - known)
    if unknown:
        raise GridError(f"{where} has no key {', '.join(map(repr, unknown))}: choose from {', '.join(sorted(known))}.")
