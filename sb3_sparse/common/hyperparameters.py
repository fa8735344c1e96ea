"""The paper's constructor arguments for SB3's algorithms, which a policy cannot set."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.arguments import check_continuous
from sb3_sparse.common.environment_steps import episode_length

UPDATES_PER_STEP = 2  # replay ratio, per agent step
EXPLORATION_STD = 0.1  # Table 3
CROSSQ_LEARNING_RATE = 1e-3  # sb3-contrib's default, with its normalisation and betas
DEFAULT_DISCOUNT = 0.99  # for tasks without a time limit, of which the heuristic knows nothing
_EXPLORATION = {row.zoo: row.exploration for row in STOCK.values() if row.exploration}


def hyperparameters(algo: str | type[BaseAlgorithm], env: str | gym.Env | VecEnv) -> dict[str, Any]:
    """
    The constructor arguments that the paper uses with its networks (Tables 2 and 3)::

        model = SAC(SparseSimBaPolicy, env, policy_kwargs=dict(sparsity=0.8), **hyperparameters("sac", env))

    The discount follows the heuristic of TD-MPC2 (Hansen et al., 2024) from the episode's length in agent steps. There are two
    updates per agent step, also with several environments. TD3, TQC and CrossQ, which the paper does not use, get the
    shared values, CrossQ but for its own learning rate.

    :param algo: "sac", "ddpg", "td3", "tqc" or "crossq", or the algorithm's class
    :param env: Environment that will be trained on: an id, a gymnasium environment or a vectorised one
    :return: Keyword arguments for the algorithm's constructor
    :raises ValueError: for another algorithm, or if actions are not continuous.
    """
    name = algo if isinstance(algo, str) else algo.__name__
    if name.lower() not in _EXPLORATION:
        raise ValueError(f"No hyperparameters for {name!r}: choose one of {', '.join(map(repr, _EXPLORATION))}.")
    if isinstance(env, str) and env.startswith("dm_control/") and env not in gym.registry:
        env = f"sb3_sparse.envs:{env}"  # gymnasium imports what stands before the colon, which registers the id
    action_shape = _action_shape(env)
    length = episode_length(env)
    arguments: dict[str, Any] = {
        "learning_rate": 1e-4,
        "buffer_size": 1_000_000,
        "learning_starts": 5_000,
        "batch_size": 256,
        "tau": 0.005,
        "gamma": DEFAULT_DISCOUNT if length is None else discount_heuristic(length),
        "train_freq": 1,
        "gradient_steps": UPDATES_PER_STEP * (env.num_envs if isinstance(env, VecEnv) else 1),
    }
    if name.lower() == "crossq":
        del arguments["tau"]  # there is no target network
        arguments["learning_rate"] = CROSSQ_LEARNING_RATE
    if _EXPLORATION[name.lower()] == "entropy":
        arguments.update(ent_coef="auto_0.01", target_entropy=-math.prod(action_shape) / 2)
    else:
        arguments["action_noise"] = NormalActionNoise(np.zeros(action_shape), np.full(action_shape, EXPLORATION_STD))
    return arguments


def discount_heuristic(episode_length: float) -> float:
    """
    Discount factor from the length of an episode, ``clip((T / 5 - 1) / (T / 5), 0.95, 0.995)``: the effective horizon is a
    fifth of the episode (Hansen et al. 2023, TD-MPC2, https://arxiv.org/abs/2310.16828).

    :param episode_length: Length T of a full episode in agent steps; with repeated actions these are fewer than control steps
    :return: Discount factor in [0.95, 0.995]; 0.99 for 500 steps
    :raises ValueError: If the length is not a positive, finite number
    """
    if not (math.isfinite(episode_length) and episode_length > 0):
        raise ValueError(f"episode_length must be a positive, finite number of agent steps, got {episode_length!r}.")
    fifth = episode_length / 5
    return min(max((fifth - 1) / fifth, 0.95), 0.995)


def _action_shape(env: str | gym.Env | VecEnv) -> tuple[int, ...]:
    if isinstance(env, str):
        made = gym.make(env)
        space = made.action_space
        made.close()
    else:
        space = env.action_space
    return check_continuous(space, "The paper's algorithms need")
