"""Number of frames that an environment's observations stack."""

from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

# Attributes of environments and wrappers that stack frames: ours, and gymnasium's FrameStackObservation.
_ATTRIBUTES = ("frame_stack", "stack_size")


def stacked_frames(env: VecEnv) -> int | None:
    """
    Find how many frames an environment stacks, whichever of SB3's ``VecFrameStack``, gymnasium's ``FrameStackObservation``
    and our environments of pixels does it.

    :param env: Vectorised environment
    :return: Number of frames, None if nothing tells
    """
    wrapper = _frame_stack_wrapper(env)
    if wrapper is not None:
        return int(wrapper.stacked_obs.n_stack)
    for name in _ATTRIBUTES:
        if env.has_attr(name):
            counts: set[Any] = set(env.get_attr(name))
            if len(counts) > 1:
                raise ValueError(f"The environments stack different numbers of frames: {sorted(counts)}.")
            return int(counts.pop())
    return None


def _frame_stack_wrapper(env: VecEnv) -> VecFrameStack | None:
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecFrameStack):
            return env
        env = env.venv
    return None
