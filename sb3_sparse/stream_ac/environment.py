"""One environment, stepped one action at a time, from what SB3 calls an environment."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped, unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, is_vecenv_wrapped

from sb3_sparse.arguments import refuse_vector_env
from sb3_sparse.stream_ac.stream_wrapper import StreamWrapper


class Transition(NamedTuple):
    """
    What one step led to.

    :param observation: The next observation; at the end of an episode its last one
    :param start: First observation of the next episode, None within one
    :param reward: Reward as the environment gave it
    :param scaled_reward: Reward to learn from
    :param terminated: As in gymnasium
    :param truncated: As in gymnasium
    :param info: As SB3's vectorised environments return it
    """

    observation: np.ndarray
    start: np.ndarray | None
    reward: float
    scaled_reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def with_stream_wrapper(env: GymEnv) -> GymEnv:
    """
    Put a :class:`StreamWrapper` around an environment that has none, outside of its Monitor.

    :param env: Environment, or a vectorised one with one environment in it
    :raises ValueError: for several environments, for VecNormalize, and for vectorised environments that it cannot look into.
    """
    refuse_vector_env(env)
    if isinstance(env, VecEnv):
        return _vectorized(env)
    if is_wrapped(env, StreamWrapper):
        return env
    return StreamWrapper(env if is_wrapped(env, Monitor) else Monitor(env))


def stepper(env: VecEnv) -> "DirectStepper | VecStepper":
    """
    Find the fastest way to step an environment.

    :param env: Vectorised environment with one environment in it
    """
    return DirectStepper(env) if type(env) is DummyVecEnv else VecStepper(env)


class DirectStepper:
    """
    Steps the environment inside of a DummyVecEnv and does what that does, except for copying observations and infos several
    times.

    :param env: With one environment
    """

    def __init__(self, env: DummyVecEnv):
        self._vec_env, self._env = env, env.envs[0]
        wrapper = unwrap_wrapper(self._env, StreamWrapper)
        assert isinstance(wrapper, StreamWrapper)
        self._wrapper = wrapper

    def step(self, action: Any) -> Transition:
        """
        :param action: One action
        """
        observation, reward, terminated, truncated, info = self._env.step(action)
        start = None
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            start, self._vec_env.reset_infos[0] = self._env.reset()
        scaled_reward = self._wrapper.scaled_reward
        return Transition(observation, start, reward, scaled_reward, terminated, truncated, info)  # type: ignore[arg-type]


class VecStepper:
    """
    Steps any vectorised environment.

    :param env: With one environment
    """

    def __init__(self, env: VecEnv):
        self._env = env

    def step(self, action: Any) -> Transition:
        """
        :param action: One action
        """
        observations, rewards, dones, infos = self._env.step(np.asarray(action)[None])
        assert isinstance(observations, np.ndarray)
        done, info = bool(dones[0]), infos[0]
        truncated = bool(info.get("TimeLimit.truncated", False))
        observation = info["terminal_observation"] if done else observations[0]
        start = observations[0] if done else None
        return Transition(
            observation, start, float(rewards[0]), info["scaled_reward"], done and not truncated, done and truncated, info
        )


def _vectorized(env: VecEnv) -> VecEnv:
    if env.num_envs != 1:
        raise ValueError(f"StreamAC learns from one environment, one step at a time, got {env.num_envs}: give n_envs=1.")
    if is_vecenv_wrapped(env, VecNormalize):
        raise ValueError("StreamAC normalises observations and scales rewards itself: leave out VecNormalize.")
    if env.env_is_wrapped(StreamWrapper)[0]:
        space = env.get_attr("observation_space")[0]
        if env.observation_space != space:
            raise ValueError(
                f"The vectorised environment turns StreamWrapper's vectors, {space}, into {env.observation_space}: change "
                "observations inside of StreamWrapper, with gymnasium's wrappers."
            )
        return env
    if type(env) is DummyVecEnv:
        inner = env.envs[0]
        wrapped = DummyVecEnv([lambda: _as_env(with_stream_wrapper(inner))])
        # Given for the next reset, as by make_vec_env(..., seed=...).
        wrapped._seeds, wrapped._options = env._seeds, env._options
        return wrapped
    raise ValueError(
        f"StreamAC cannot look into a {type(env).__name__}: wrap the environment before it is vectorised, e.g. "
        "make_vec_env(env_id, wrapper_class=StreamWrapper)."
    )


def _as_env(env: GymEnv) -> gym.Env:
    assert isinstance(env, gym.Env)
    return env
