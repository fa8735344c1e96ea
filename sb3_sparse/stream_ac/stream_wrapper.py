"""The environment as Stream AC wants it: flat observations, the time in the episode, scaled rewards, episodes that resume."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.preprocessing import is_image_space

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.environment_steps import episode_length

EPS = 1e-8
# An episode that has not ended after so many steps is not replayed when a run is resumed.
MAX_RECORDED_STEPS = 100_000


@dataclass
class RewardScaling:
    """
    Division of rewards by the standard deviation of their discounted running sum, without centring or clipping:
    u <- gamma u (1 - end of episode) + r, whose unbiased variance (Welford; 1 until there are two) is that of all u so far.

    As in the reference, at the end of an episode u becomes the last reward alone, which is not cleared and leaks, discounted
    once, into the next episode. ``resets`` mends that.

    :param gamma: Discount factor
    :param resets: Whether u starts from 0 in each episode
    """

    gamma: float = 0.99
    resets: bool = False
    trace: float = 0.0
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def scale(self, reward: float, done: bool) -> float:
        """
        Count a reward, then scale it.

        :param reward: Reward
        :param done: Whether it is the last one of an episode
        """
        self.trace = reward if done and not self.resets else self.gamma * self.trace + reward
        self.count += 1
        difference = self.trace - self.mean
        self.mean += difference / self.count
        self.squares += difference * (self.trace - self.mean)
        if done and self.resets:
            self.trace = 0.0
        variance = self.squares / (self.count - 1) if self.count > 1 else 1.0
        return reward / math.sqrt(variance + EPS)


@dataclass
class EpisodeRecord:
    """
    What an episode can be replayed from.

    :param generator_state: State of the environment's random generator before the reset
    :param reset_arguments: Arguments of ``reset``
    :param actions: Actions so far
    :param observation: The latest observation
    """

    # SB3 writes the representation of what it saves into the file, too; this would be most of it.
    generator_state: Mapping[str, Any] = field(repr=False)
    reset_arguments: dict[str, Any]
    actions: list[Any] = field(default_factory=list, repr=False)
    observation: np.ndarray | None = None


class StreamWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    What training and evaluation environments of :class:`~sb3_sparse.stream_ac.StreamAC` have in common. The algorithm wraps
    environments that are not, except inside of vectorised ones: ``make_vec_env(id, wrapper_class=StreamWrapper)``.

    - Observations (Dict, Tuple, Discrete, Box of any shape) are flattened; images are refused.
    - The time in the episode is appended, from -0.5 to 0.5, if the environment has a time limit: the algorithm treats the end
      of time as any other end, and this makes it foreseeable. As in the reference the first two observations of an episode
      both carry -0.5, the k-th one after it -0.5 + (k - 1) / limit.
    - Rewards pass through as they are. During training ``info["scaled_reward"]`` has what the algorithm learns from.
    - During training, the episode is recorded, so that a run can be resumed in its middle by replaying it: that takes an
      environment whose randomness comes from ``np_random``, as gymnasium asks for.

    :param env: Environment
    :param time_feature: Whether to append the time; needs a time limit. None appends it if there is one
    :param time_limit: Steps until an episode is truncated; found out if None
    :param reset_reward_trace: Whether the running sum behind the reward scaling starts anew in each episode; the reference
        lets it leak
    :raises ValueError: for images, spaces that cannot be flattened, and a time feature without a time limit, or one below 1.
    """

    def __init__(
        self, env: gym.Env, time_feature: bool | None = None, time_limit: int | None = None, reset_reward_trace: bool = False
    ):
        time_limit = None if time_limit is None else check_integer("time_limit", time_limit)
        RecordConstructorArgs.__init__(
            self, time_feature=time_feature, time_limit=time_limit, reset_reward_trace=reset_reward_trace
        )
        super().__init__(env)
        space = env.observation_space
        _check_flattens(space)
        # Most environments return a vector already, and flattening it costs as much as all the rest here.
        self._flattens = not (isinstance(space, spaces.Box) and len(space.shape) == 1)
        limit = episode_length(env) if time_limit is None else time_limit
        if time_feature and limit is None:
            raise ValueError(f"{env} has no time limit, which the time feature needs: give time_limit, or time_feature=False.")
        self.time_limit = None if time_feature is False else limit
        self.observation_space = self._extended(spaces.flatten_space(space))
        self._shape, self._dtype = (spaces.flatdim(self.observation_space),), self.observation_space.dtype
        self._reward_scaling = RewardScaling(resets=reset_reward_trace)
        self._training = False
        # Whether somebody else stepped or reset the environment since training left it.
        self._astray = True
        self._episode: EpisodeRecord | None = None
        self._steps = 0
        self.scaled_reward = math.nan

    @property
    def has_time_feature(self) -> bool:
        """Whether the last entry of an observation is the time."""
        return self.time_limit is not None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: As in gymnasium
        """
        arguments: dict[str, Any] = {
            key: value for key, value in {"seed": seed, "options": options}.items() if value is not None
        }
        self._astray = not self._training
        if self._training:
            self._episode = EpisodeRecord(self.unwrapped.np_random.bit_generator.state, arguments)
        observation, info = self.env.reset(**arguments)
        self._steps = 0
        return self._finish(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """
        Step the environment; its reward passes through.

        :param action: Action
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._training:
            self._record(action)
            self.scaled_reward = info["scaled_reward"] = self._scale(float(reward), terminated or truncated)
        else:
            self._astray = True
        # As in the reference, the time is that before the step.
        time, self._steps = self._steps, self._steps + 1
        return self._finish(observation, time), reward, terminated, truncated, info

    def start_training(self, gamma: float) -> bool:
        """
        Scale rewards and record the episode from now on.

        :param gamma: Discount factor of the running sum of rewards
        :return: Whether the environment is where training left it
        """
        self._training = True
        self._reward_scaling.gamma = gamma
        return not self._astray

    def stop_training(self) -> None:
        """Leave statistics and record as they are."""
        self._training = False

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs: statistics of the rewards and the record of the episode."""
        return {"reward_scaling": self._reward_scaling, "episode": self._episode}

    def set_training_state(self, state: dict[str, Any]) -> None:
        """
        Take over what a run has left; :meth:`replay` then leads into its episode.

        :param state: What :meth:`training_state` returned
        """
        state["reward_scaling"].resets = self._reward_scaling.resets
        self._reward_scaling, self._episode, self._astray = state["reward_scaling"], state["episode"], True

    def replay(self) -> np.ndarray | None:
        """
        Bring the environment to where the recorded episode is.

        :return: The latest observation; None if there is nothing to replay, or it leads elsewhere
        """
        record = self._episode
        if record is None or record.observation is None or len(record.actions) > MAX_RECORDED_STEPS:
            return None
        self.unwrapped.np_random.bit_generator.state = record.generator_state
        observation, _ = self.env.reset(**record.reset_arguments)
        over = False
        for action in record.actions:
            if over:
                return None
            observation, _, terminated, truncated, _ = self.env.step(action)
            over = terminated or truncated
        self._steps = len(record.actions)
        self._astray = not np.array_equal(self._extend(observation, max(self._steps - 1, 0)), record.observation)
        return None if self._astray else record.observation

    def _record(self, action: Any) -> None:
        assert self._episode is not None, "reset() comes before step()"
        if len(self._episode.actions) <= MAX_RECORDED_STEPS:
            self._episode.actions.append(np.array(action))

    def _scale(self, reward: float, done: bool) -> float:
        # The algorithm refuses a reward that is no number; until then it must not spoil the statistics.
        return self._reward_scaling.scale(reward, done) if math.isfinite(reward) else reward

    def _finish(self, observation: Any, time: int = 0) -> np.ndarray:
        extended = self._extend(observation, time)
        if self._training and self._episode is not None:
            self._episode.observation = extended
        return extended

    def _extend(self, observation: Any, time: int) -> np.ndarray:
        if self._flattens:
            observation = spaces.flatten(self.env.observation_space, observation)
        extended: np.ndarray = np.empty(self._shape, self._dtype)
        if self.time_limit is None:
            extended[:] = observation
        else:
            extended[:-1] = observation
            extended[-1] = -0.5 + time / self.time_limit
        return extended

    def _extended(self, flat: spaces.Space) -> spaces.Box:
        assert isinstance(flat, spaces.Box)
        dtype = flat.dtype if np.issubdtype(flat.dtype, np.floating) else np.dtype(np.float32)
        low, high = flat.low.astype(dtype), flat.high.astype(dtype)
        if self.has_time_feature:
            low, high = np.append(low, dtype.type(-0.5)), np.append(high, dtype.type(0.5))
        return spaces.Box(low, high, dtype=dtype.type)


def _check_flattens(space: spaces.Space) -> None:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(is_image_space(part) for part in parts):
        raise ValueError(
            f"StreamAC learns from vectors, and {space} has images. A network for images would be another one; to try this "
            "one on pixels, wrap the environment in gymnasium.wrappers.FlattenObservation."
        )
    if not isinstance(space, spaces.Space) or not space.is_np_flattenable:
        raise ValueError(f"StreamAC learns from vectors, and observations of {space} cannot be flattened.")
