"""Hyperparameters of a grid's run: the RL Zoo's for its environment, and the grid's changes."""

import argparse
import contextlib
import importlib
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.experiments.sweep.grid_run import POLICY_AXES, GridRun
from sb3_sparse.zoo.policy_check import named_policy
from sb3_sparse.zoo.zoo_files import read_value

# Hyperparameters whose text the zoo evaluates.
_EVALUATED = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize")
# Arguments of our policies that sparsify() takes for all others.
_PRUNING = ("sparsity", "distribution", "budget", "mask_seed")


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


def changed_hyperparameters(run: GridRun) -> dict[str, Any]:
    """
    What a run changes of the hyperparameter file: the networks are the grid's, and not those that the file recommends.

    :param run: Run
    :raises ValueError: as :func:`base_hyperparameters`
    """
    base = base_hyperparameters(run)
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
    :raises ValueError: if there is none of this name.
    """
    found = named_policy(policy, run.algorithm)
    if found is None:
        known = importlib.import_module("rl_zoo3").ALGOS[run.algorithm].policy_aliases
        raise ValueError(
            f"There is no policy {policy!r} for {run.algorithm}: give module.Class, or one of {', '.join(known)}."
        )
    return found


def _arguments(given: str | Mapping[str, Any]) -> dict[str, Any]:
    return dict(read_value(given) if isinstance(given, str) else given)


def _default_buffer_size(algorithm: str) -> int | None:
    """Transitions, None if there is no replay buffer."""
    for kind in importlib.import_module("rl_zoo3").ALGOS[algorithm].__mro__:  # ours pass arguments on
        parameters = inspect.signature(kind.__init__).parameters
        if "buffer_size" in parameters:
            return parameters["buffer_size"].default
    return None


def pruning_of_stock_policy(run: GridRun, policy: type) -> dict[str, Any]:
    """
    What of a run's arguments of the policy is not for the policy, but for :func:`~sb3_sparse.sparsify`.

    :param run: Run
    :param policy: Its policy's class
    """
    asked = {name: run.policy[name] for name in _PRUNING if name in run.policy}
    return {} if issubclass(policy, PrunedPolicy) or "sparsity" not in asked else asked
