"""Check of ``policy_kwargs``: a sparsity for a stock policy, which the zoo would pass on, is refused."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.zoo.hyperparameter_files import our_policy


def explain_policies(manager_class: Any) -> None:
    """
    Have the zoo say which policy to choose where arguments of ours are given to another.

    :param manager_class: The zoo's ``ExperimentManager``, changed in place
    """
    manager_class._preprocess_hyperparams = _checking(manager_class._preprocess_hyperparams)


def named_policy(name: str, algo: str) -> Any:
    """
    Find a policy as the zoo does.

    :param name: What a hyperparameter file has: "module.Class", or a name that the algorithm knows
    :param algo: The zoo's name of the algorithm
    :return: The policy, None if there is none of this name
    """
    module, _, kind = name.rpartition(".")
    if module:
        # Which may import its names when they are asked for.
        return getattr(importlib.import_module(module), kind, None)
    return importlib.import_module("rl_zoo3").ALGOS[algo].policy_aliases.get(kind)


def argument_names(kind: type) -> set[str]:
    """
    :param kind: A class
    :return: Names of its constructor's arguments, those that it passes on to base classes included
    """
    constructors = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base) and base is not object]
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}


def _checking(preprocess: Callable) -> Callable:
    @functools.wraps(preprocess)
    def wrapped(self: Any, hyperparams: dict[str, Any]) -> Any:
        found = preprocess(self, hyperparams)
        policy, arguments = found[0].get("policy"), found[0].get("policy_kwargs") or {}
        if isinstance(policy, str):
            policy = named_policy(policy, self.algo)
        if isinstance(policy, type):  # SB3 says what is wrong with others
            _check(policy, arguments, self.algo)
        return found

    return wrapped


def _check(policy: type, arguments: Iterable[str], algo: str) -> None:
    name = our_policy(algo)
    ours: Any = PrunedPolicy if name is None else named_policy(name, algo)
    foreign = sorted(set(arguments) & (argument_names(ours) - argument_names(policy)))
    if foreign:
        remedy = f"""choose our policy by adding policy:"'{name}'" to -params."""
        if name is None:
            remedy = f"there is no sparse policy for {algo}; in a script, sb3_sparse.sparsify prunes any model."
        raise ValueError(f"{policy.__name__} has no argument {', '.join(map(repr, foreign))}: {remedy}")
