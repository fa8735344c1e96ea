"""Environments as the algorithms want them. Importing this registers the DeepMind Control Suite with gymnasium."""

from sb3_sparse.common.hyperparameters import discount_heuristic
from sb3_sparse.common.environment_steps import episode_length
from sb3_sparse.envs.action_repeat import ActionRepeat
from sb3_sparse.envs.dependencies import NoRendererError
from sb3_sparse.envs.dm_control_env import DMControlEnv
from sb3_sparse.envs.dm_control_pixel_env import DMControlPixelEnv
from sb3_sparse.envs.pixel_observations import PixelObservations, pixel_observations
from sb3_sparse.envs.registration import env_id, register_dm_control

register_dm_control()

__all__ = [
    "ActionRepeat",
    "DMControlEnv",
    "DMControlPixelEnv",
    "NoRendererError",
    "PixelObservations",
    "discount_heuristic",
    "env_id",
    "episode_length",
    "pixel_observations",
    "register_dm_control",
]
