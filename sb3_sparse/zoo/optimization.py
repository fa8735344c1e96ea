"""The RL Zoo's hyperparameter search (``-optimize``) for sparse networks."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sb3_sparse.common.simba_policy import SimBaPolicy
from sb3_sparse.der import CnnPolicy, DERPolicy
from sb3_sparse.drqv2 import DrQv2Policy
from sb3_sparse.sparsity import UnreachableSparsityError

# The zoo hands its samplers a trial and little else, so the trial carries what the search starts from.
_START = "sb3_sparse_policy_kwargs"
_TAKES_IMAGES = "sb3_sparse_takes_images"
_WIDTH_FACTORS = (0.5, 1.0, 2.0)
_DEPTH_FACTORS = (1.0, 2.0)
_MAX_SPARSITY = 0.95
_SEARCHED = ("width_scale", "depth_scale", "sparsity")

Params = dict[str, Any]


def search_sparse_networks(manager_class: Any, samplers: dict[str, Callable], converters: dict[str, Callable]) -> None:
    """
    Have the zoo search ``width_scale`` and ``depth_scale`` (around those of the hyperparameter file) and ``sparsity`` in place
    of ``net_arch``, which our policies have no use for, and keep their other ``policy_kwargs``. Only where the hyperparameters
    name one of our policies.

    :param manager_class: The zoo's ``ExperimentManager``, changed in place
    :param samplers: The zoo's ``HYPERPARAMS_SAMPLER``, changed in place
    :param converters: The zoo's ``HYPERPARAMS_CONVERTER``, changed in place
    """
    for algo in samplers:
        samplers[algo] = _search_size(samplers[algo])
    for algo in converters:
        converters[algo] = _convert_size(converters[algo])
    manager_class.objective = _tell_trial(manager_class.objective)


def search_stream_ac(samplers: dict[str, Callable], converters: dict[str, Callable]) -> None:
    """
    Have the zoo search Stream AC's options, and width, initialisation and sparsity of its networks.

    :param samplers: The zoo's ``HYPERPARAMS_SAMPLER``, changed in place
    :param converters: The zoo's ``HYPERPARAMS_CONVERTER``, changed in place
    """
    samplers["stream_ac"], converters["stream_ac"] = _sample_stream_ac, _convert_stream_ac


def search_der(samplers: dict[str, Callable], converters: dict[str, Callable]) -> None:
    """
    Have the zoo search options of Data-Efficient Rainbow, and sparsity and, of images, width of its network; the file's other
    ``policy_kwargs`` are kept.

    :param samplers: The zoo's ``HYPERPARAMS_SAMPLER``, changed in place
    :param converters: The zoo's ``HYPERPARAMS_CONVERTER``, changed in place
    """
    samplers["der"], converters["der"] = _sample_der, _convert_der


def search_drqv2(samplers: dict[str, Callable], converters: dict[str, Callable]) -> None:
    """
    Have the zoo search DrQ-v2's learning rate, averaging, returns and exploration noise, and the critic's width and sparsity;
    the policy's other options stay.

    :param samplers: The zoo's ``HYPERPARAMS_SAMPLER``, changed in place
    :param converters: The zoo's ``HYPERPARAMS_CONVERTER``, changed in place
    """
    samplers["drqv2"], converters["drqv2"] = _sample_drqv2, _convert_drqv2


class _WithoutNetArch:
    """A trial that neither searches nor records ``net_arch``."""

    def __init__(self, trial: Any) -> None:
        self._trial = trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[0] if name == "net_arch" else self._trial.suggest_categorical(name, choices)


def _tell_trial(objective: Callable) -> Callable:
    @functools.wraps(objective)
    def wrapped(self: Any, trial: Any) -> float:
        policy = self._hyperparams["policy"]
        if isinstance(policy, type) and issubclass(policy, SimBaPolicy | DERPolicy | DrQv2Policy):
            setattr(trial, _START, self._hyperparams.get("policy_kwargs", {}))
            setattr(trial, _TAKES_IMAGES, issubclass(policy, CnnPolicy))
        try:
            return objective(self, trial)
        except UnreachableSparsityError as error:  # a sampled size too small for the sampled sparsity ends the trial only
            import optuna  # comes with the zoo, and this module is imported without it too

            raise optuna.TrialPruned(str(error)) from error

    return wrapped


def _start(trial: Any) -> Mapping[str, Any] | None:
    return getattr(trial, _START, None)


def _search_size(sample: Callable) -> Callable:
    @functools.wraps(sample)
    def wrapped(trial: Any, n_actions: int, n_envs: int, additional_args: Params) -> Params:
        start = _start(trial)
        if start is None:
            return sample(trial, n_actions, n_envs, additional_args)
        params = sample(_WithoutNetArch(trial), n_actions, n_envs, additional_args)
        params["policy_kwargs"] = {**start, **_without_net_arch(params["policy_kwargs"]), **_suggest_size(trial, start)}
        return params

    return wrapped


def _suggest_size(trial: Any, start: Mapping[str, Any]) -> Params:
    widths = [factor * start.get("width_scale", 1.0) for factor in _WIDTH_FACTORS]
    depths = [factor * start.get("depth_scale", 1.0) for factor in _DEPTH_FACTORS]
    return {
        "width_scale": trial.suggest_categorical("width_scale", widths),
        "depth_scale": trial.suggest_categorical("depth_scale", depths),
        "sparsity": trial.suggest_float("sparsity", 0.0, _MAX_SPARSITY),
    }


def _convert_size(convert: Callable) -> Callable:
    @functools.wraps(convert)
    def wrapped(sampled: Params) -> Params:
        if "sparsity" not in sampled:
            return convert(sampled)
        rest = {name: value for name, value in sampled.items() if name not in _SEARCHED}
        params = convert({**rest, "net_arch": "small"})
        size = {name: sampled[name] for name in _SEARCHED}
        params["policy_kwargs"] = {**_without_net_arch(params["policy_kwargs"]), **size}
        return params

    return wrapped


def _without_net_arch(policy_kwargs: Params) -> Params:
    return {name: value for name, value in policy_kwargs.items() if name != "net_arch"}


def _sample_stream_ac(trial: Any, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    return _convert_stream_ac(
        {
            "gamma": 1 - trial.suggest_float("one_minus_gamma", 0.001, 0.1, log=True),
            "trace_lambda": trial.suggest_float("trace_lambda", 0.0, 0.95),
            "kappa_actor": trial.suggest_float("kappa_actor", 1.0, 10.0, log=True),
            "kappa_critic": trial.suggest_float("kappa_critic", 1.0, 10.0, log=True),
            "ent_coef": trial.suggest_float("ent_coef", 0.0001, 0.1, log=True),
            "width": trial.suggest_categorical("width", [64, 128, 256, 512]),
            "init": trial.suggest_categorical("init", ["sparse", "dense"]),
            "sparsity": trial.suggest_float("sparsity", 0.0, _MAX_SPARSITY),
        }
    )


def _convert_stream_ac(sampled: Params) -> Params:
    params = dict(sampled)
    if "one_minus_gamma" in params:
        params["gamma"] = 1 - params.pop("one_minus_gamma")
    params["policy_kwargs"] = {name: params.pop(name) for name in ("width", "init", "sparsity")}
    return params


def _sample_der(trial: Any, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    start = _start(trial) or {}
    sampled = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
        "n_steps": trial.suggest_categorical("n_steps", [1, 3, 5, 10, 20]),
        "target_update_interval": trial.suggest_categorical("target_update_interval", [100, 500, 2_000, 8_000]),
        "priority_exponent": trial.suggest_float("priority_exponent", 0.0, 1.0),
        "sigma_0": trial.suggest_float("sigma_0", 0.05, 1.0, log=True),
        "sparsity": trial.suggest_float("sparsity", 0.0, _MAX_SPARSITY),
    }
    if getattr(trial, _TAKES_IMAGES, False):
        widths = [factor * start.get("width_scale", 1.0) for factor in _WIDTH_FACTORS]
        sampled["width_scale"] = trial.suggest_categorical("width_scale", widths)
    params = _convert_der(sampled)
    params["policy_kwargs"] = {**start, **params["policy_kwargs"]}
    return params


def _convert_der(sampled: Params) -> Params:
    names = ("sigma_0", "sparsity", "width_scale")
    params = {name: value for name, value in sampled.items() if name not in names}
    params["policy_kwargs"] = {name: sampled[name] for name in names if name in sampled}
    return params


def _sample_drqv2(trial: Any, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    params = _convert_drqv2(
        {
            "learning_rate": trial.suggest_float("learning_rate", 2e-5, 5e-4, log=True),
            "tau": trial.suggest_float("tau", 0.003, 0.03, log=True),
            "n_steps": trial.suggest_categorical("n_steps", [1, 3, 5]),
            "stddev_clip": trial.suggest_float("stddev_clip", 0.1, 0.6),
            "width_scale": trial.suggest_categorical("width_scale", [1.0, 2.0, 4.0]),
            "sparsity": trial.suggest_float("sparsity", 0.0, _MAX_SPARSITY),
        }
    )
    params["policy_kwargs"] = {**(_start(trial) or {}), **params["policy_kwargs"]}
    return params


def _convert_drqv2(sampled: Params) -> Params:
    params = dict(sampled)
    params["policy_kwargs"] = {name: params.pop(name) for name in ("width_scale", "sparsity")}
    return params
