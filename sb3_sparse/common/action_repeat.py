"""Environment steps per agent step."""

from stable_baselines3.common.vec_env import VecEnv


def action_repeat(env: VecEnv) -> int:
    """
    Environment steps per agent step; 1 if the environment does not say.

    :param env: Vectorised environment
    """
    return int(env.get_attr("action_repeat", [0])[0]) if env.has_attr("action_repeat") else 1
