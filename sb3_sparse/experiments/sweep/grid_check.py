"""Checks of a grid before anything is trained."""

import importlib
import json
from collections.abc import Iterable

import gymnasium as gym

from sb3_sparse.experiments.sweep.grid import Grid, GridError
from sb3_sparse.experiments.sweep.grid_hyperparameters import base_hyperparameters, policy_class, pruning_of_stock_policy
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.zoo.compiled_algorithms import registered
from sb3_sparse.zoo.policy_check import argument_names

# What the zoo takes out of hyperparameters before it builds an algorithm.
_ZOO_KEYS = {
    "callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps", "noise_std",
    "noise_type", "normalize", "policy", "policy_kwargs", "vec_env_wrapper",
}  # fmt: skip


def check_grid(grid: Grid) -> None:
    """
    Look whether algorithms, environments and their hyperparameters exist, and know what the grid sets of them.

    :param grid: Grid
    :raises GridError: if not.
    """
    algorithms = importlib.import_module("rl_zoo3").ALGOS
    kinds = {(run.algorithm, run.task, tuple(run.policy), json.dumps(run.hyperparameters)): run for run in grid.runs}
    for run in kinds.values():
        if run.algorithm not in algorithms:
            raise GridError(f"There is no algorithm {run.algorithm!r}: choose one of {', '.join(sorted(algorithms))}.")
        try:
            gym.spec(run.task)
        except gym.error.Error as error:
            raise GridError(f"The environment {run.task!r} is not known: {error}") from error
        _check_names(run)


def _check_names(run: GridRun) -> None:
    with registered(run.algorithm):
        algorithm = importlib.import_module("rl_zoo3").ALGOS[run.algorithm]
    given = {**base_hyperparameters(run), **run.hyperparameters}
    policy = policy_class(run, given["policy"])
    asked = set(run.policy) - set(pruning_of_stock_policy(run, policy))
    _refuse(asked, argument_names(policy), f"{policy.__name__}, the policy of {run.algorithm} on {run.task},")
    _refuse(run.hyperparameters, argument_names(algorithm) | _ZOO_KEYS, f"{algorithm.__name__}")


def _refuse(given: Iterable[str], known: set[str], who: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise GridError(f"{who} has no argument {', '.join(map(repr, unknown))}, which the grid sets.")
