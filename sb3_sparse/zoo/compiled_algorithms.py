"""Our compiled classes in the RL Zoo, in place of SB3's, for runs with our hyperparameters."""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.deployment.known_classes import OWN
from sb3_sparse.zoo.hyperparameter_files import hyperparameter_file

# The zoo's name -> the class that updates faster and saves the same checkpoints.
COMPILED: dict[str, type[BaseAlgorithm]] = {kind.known_as.zoo: kind for kind in OWN if issubclass(kind, tuple(STOCK))}


def train_compiled(manager_class: Any) -> None:
    """
    Have the zoo train with our classes where the hyperparameters come from our files. ``enjoy`` and ``record_video`` go on
    loading with SB3's classes, which can.

    :param manager_class: The zoo's ``ExperimentManager``, changed in place
    """
    for name in ("setup_experiment", "objective"):
        setattr(manager_class, name, _with_ours(getattr(manager_class, name)))


def _with_ours(method: Callable) -> Callable:
    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.config != str(hyperparameter_file(self.algo)):
            return method(self, *args, **kwargs)
        with registered(self.algo):
            return method(self, *args, **kwargs)

    return wrapped


@contextmanager
def registered(algo: str) -> Iterator[None]:
    """
    Have the zoo train with our class.

    :param algo: The zoo's name of the algorithm; one without a class of ours stays as it is
    """
    # One dictionary for the whole zoo, whichever of its modules it is looked up in.
    algorithms = importlib.import_module("rl_zoo3").ALGOS
    before = algorithms[algo]
    algorithms[algo] = COMPILED.get(algo, before)
    try:
        yield
    finally:
        algorithms[algo] = before
