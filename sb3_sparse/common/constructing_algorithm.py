"""The algorithm that builds a policy: SB3 does not tell it, but some mistakes can only be seen from there."""

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

from gymnasium import spaces
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.algorithms.known_algorithms import STOCK

_ANY_ALGORITHM = (
    "a stock policy and sparsify(model, sparsity), or a stock policy with "
    "policy_kwargs=dict(features_extractor_class=SparseSimBaExtractor)"
)


def constructing_algorithm() -> BaseAlgorithm | None:
    """
    Find the algorithm in whose ``_setup_model`` the caller runs.

    SB3 hands a policy its spaces and nothing else, so the only way to it is up the call stack.

    :return: The algorithm, or None for a policy that is built by hand or loaded alone
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_setup_model" and isinstance(algorithm := frame.f_locals.get("self"), BaseAlgorithm):
            return algorithm
        frame = frame.f_back
    return None


def check_algorithm(algorithm: BaseAlgorithm | None, policy: Any, others: Iterable[Any]) -> None:
    """
    Refuse an algorithm that a policy does not fit, which would otherwise end in an AttributeError somewhere inside SB3.

    :param algorithm: Algorithm that builds the policy, or None
    :param policy: Class of the policy, whose ``algorithm_class`` it is for; unknown algorithms are let through
    :param others: Policies of other algorithms, one of which may be recommended instead
    :raises ValueError: if the algorithm is a stock one of another kind.
    """
    if algorithm is None or isinstance(algorithm, policy.algorithm_class) or not isinstance(algorithm, tuple(STOCK)):
        return
    remedy = next((other.__name__ for other in others if isinstance(algorithm, other.algorithm_class)), _ANY_ALGORITHM)
    expected, given = policy.algorithm_class.__name__, type(algorithm).__name__
    raise ValueError(f"{policy.__name__} is a policy for {expected}, not for {given}: use {remedy}.")


def warn_of_single_critic(algorithm: BaseAlgorithm | None, n_critics: int | None) -> None:
    """
    Warn of TD3 with one critic: SB3's DDPG writes ``n_critics=1`` into the ``policy_kwargs`` given, which may be used again.

    :param algorithm: Algorithm that builds the policy, or None
    :param n_critics: Number of critics asked for, if any
    """
    if isinstance(algorithm, TD3) and not isinstance(algorithm, DDPG) and n_critics == 1:
        warnings.warn(
            "TD3 gets n_critics=1 and loses its clipped double Q-learning. If you did not ask for that, the policy_kwargs "
            "were used for DDPG before, which writes n_critics=1 into them: give each model a dictionary of its own.",
            stacklevel=2,
        )


def normalizes_already(algorithm: BaseAlgorithm | None) -> bool:
    """
    Tell whether the environment's observations reach the policy normalised by ``VecNormalize``, and say so.

    :param algorithm: Algorithm that builds the policy, or None
    """
    wrapper = None if algorithm is None else algorithm.get_vec_normalize_env()
    if wrapper is None or not wrapper.norm_obs:
        return False
    space, keys = wrapper.observation_space, wrapper.norm_obs_keys
    if isinstance(space, spaces.Dict) and keys is not None and set(keys) != set(space.spaces):
        warnings.warn(
            f"VecNormalize normalises the observations {sorted(keys)} and the policy all of them: set norm_obs=False in "
            "VecNormalize, or normalize_observations=False in policy_kwargs.",
            stacklevel=2,
        )
        return False
    warnings.warn(
        "The environment is wrapped in VecNormalize, which normalises observations already: a new policy's own normalisation "
        "is switched off, that of a loaded one stays as it was trained. Set norm_obs=False in VecNormalize to use the "
        "policy's.",
        stacklevel=2,
    )
    return True
