"""Environments as the algorithms want them. Importing this registers the DeepMind Control Suite with gymnasium."""

from sb3_sparse.common.discount import discount_heuristic
from sb3_sparse.common.episode import episode_length
from sb3_sparse.envs.dm_control_env import DMControlEnv
from sb3_sparse.envs.registration import env_id, register_dm_control

register_dm_control()

__all__ = ["DMControlEnv", "discount_heuristic", "env_id", "episode_length", "register_dm_control"]
