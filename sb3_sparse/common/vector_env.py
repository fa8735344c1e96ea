"""Vectorised environments of gymnasium, which SB3 does not take."""

from typing import Any

from gymnasium.vector import VectorEnv


def refuse_vector_env(env: Any) -> None:
    """
    Say what to give instead of a vectorised environment of gymnasium, which SB3 would take for a single one.

    :param env: What an algorithm was given as its environment
    :raises ValueError: if it is one.
    """
    if isinstance(env, VectorEnv):
        raise ValueError(
            f"{type(env).__name__} is a vectorised environment of gymnasium, which Stable-Baselines3 does not take: give one "
            f"of its own, make_vec_env(env_id, n_envs={env.num_envs}) of stable_baselines3.common.env_util; for Atari with "
            "wrapper_class=sb3_sparse.envs.atari.AtariWrapper."
        )
