"""Makes our environments and hyperparameter files known to the RL Zoo (https://github.com/DLR-RM/rl-baselines3-zoo)."""

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_device

from sb3_sparse.installation import install_command
from sb3_sparse.deployment.known_classes import OWN
from sb3_sparse.zoo.compiled_algorithms import COMPILED, train_compiled
from sb3_sparse.zoo.hyperparameter_files import hyperparameter_file, our_hyperparameters
from sb3_sparse.zoo.optimization import search_der, search_drqv2, search_sparse_networks, search_stream_ac
from sb3_sparse.zoo.policy_check import explain_policies
from sb3_sparse.zoo.recording import record_provenance
from sb3_sparse.zoo.resuming import write_checkpoints
from sb3_sparse.zoo.zoo_files import read_value

# The zoo's name of an algorithm -> the algorithm, where the zoo knows none.
OUR_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {kind.known_as.zoo: kind for kind in OWN if kind.known_as.zoo not in COMPILED}
# The zoo's experiment managers that know us.
_CHANGED: set[type] = set()


def register() -> None:
    """
    Register the DeepMind Control Suite's environments and our algorithms, have the zoo read our hyperparameter files for the
    ids in them, train with our compiled classes where it does, have ``-optimize`` search our policies' sizes, and put on
    record what runs of our policies were made with. For other ids, other algorithms, with ``-conf`` and for other policies
    the zoo behaves as without us. Calling it again changes nothing.

    :raises ImportError: If the zoo is not installed
    """
    importlib.import_module("sb3_sparse.envs")
    zoo = _import_zoo()
    importlib.import_module("rl_zoo3.utils").ALGOS.update(OUR_ALGORITHMS)
    if "ExperimentManager" in vars(zoo):
        _change(zoo.ExperimentManager)
    else:
        zoo.__class__ = _ModuleBeingImported


class _ModuleBeingImported(ModuleType):
    """
    ``rl_zoo3.exp_manager`` when it imports, by way of ``custom_envs``, us: half-way, before it defines its class. The first
    access to that class from outside, which can only come afterwards, finds it changed.
    """

    @property
    def ExperimentManager(self) -> type:
        if "ExperimentManager" not in vars(self):
            raise AttributeError("ExperimentManager")
        self.__class__ = ModuleType  # type: ignore[assignment]
        _change(self.ExperimentManager)
        return self.ExperimentManager


def _import_zoo() -> Any:
    try:
        return importlib.import_module("rl_zoo3.exp_manager")
    except ModuleNotFoundError as error:
        if error.name != "rl_zoo3":
            raise
        raise ImportError(f"The RL Zoo is not installed, run: {install_command('zoo')}") from error


def _change(manager_class: Any) -> None:
    if manager_class not in _CHANGED:
        _CHANGED.add(manager_class)
        _prefer_our_files(manager_class)
        explain_policies(manager_class)
        record_provenance(manager_class)
        train_compiled(manager_class)
        write_checkpoints(manager_class)
        manager_class.load_trial = _keep_our_policy_kwargs(manager_class.load_trial)
        tables = importlib.import_module("rl_zoo3.hyperparams_opt")
        search_sparse_networks(manager_class, tables.HYPERPARAMS_SAMPLER, tables.HYPERPARAMS_CONVERTER)
        search_stream_ac(tables.HYPERPARAMS_SAMPLER, tables.HYPERPARAMS_CONVERTER)
        search_der(tables.HYPERPARAMS_SAMPLER, tables.HYPERPARAMS_CONVERTER)
        search_drqv2(tables.HYPERPARAMS_SAMPLER, tables.HYPERPARAMS_CONVERTER)


def _prefer_our_files(manager_class: Any) -> None:
    original = manager_class.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not signature.bind(self, *args, **kwargs).arguments.get("config"):
            _choose_file(self)

    manager_class.__init__ = __init__


def _choose_file(manager: Any) -> None:
    hyperparameters = our_hyperparameters(manager.algo, manager.env_name.gym_id)
    if hyperparameters is not None:
        manager.config = str(hyperparameter_file(manager.algo))
        _warn_of_large_network(manager, hyperparameters)


def _keep_our_policy_kwargs(load_trial: Callable) -> Callable:
    # What a trial does not search is not recorded in it, and the zoo replaces policy_kwargs as a whole.
    @functools.wraps(load_trial)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        params = load_trial(self, *args, **kwargs)
        ours = our_hyperparameters(self.algo, self.env_name.gym_id)
        if ours is not None and self.config == str(hyperparameter_file(self.algo)) and "policy_kwargs" in params:
            params["policy_kwargs"] = {**read_value(ours.get("policy_kwargs", "{}")), **params["policy_kwargs"]}
        return params

    return wrapped


def _warn_of_large_network(manager: Any, hyperparameters: dict[str, Any]) -> None:
    # Only the large networks set their width. A loaded agent has the size that it was trained with.
    is_ours = "policy_kwargs" not in (manager.custom_hyperparams or {})
    is_large = is_ours and "width_scale" in hyperparameters.get("policy_kwargs", "")
    if is_large and not manager.continue_training and get_device(manager.device).type == "cpu":
        print(
            f"sb3-sparse: without a GPU, training the network for {manager.env_name.gym_id} takes weeks; "
            'for a smaller one add -params policy_kwargs:"dict(sparsity=0.2, width_scale=0.25)"'
        )
