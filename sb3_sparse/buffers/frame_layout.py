"""What a replay buffer of frames consists of, and the memory that it takes."""

import math
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_sparse.arguments import check_integer


@dataclass(frozen=True)
class FrameLayout:
    """What a buffer consists of, for the number of transitions that it is to hold."""

    rows: int
    n_envs: int
    frame_stack: int
    frame_shape: tuple[int, ...]
    frame_type: np.dtype
    action_dim: int
    action_type: np.dtype
    episode_length: int

    @classmethod
    def of(
        cls,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int = 1,
        frame_stack: int = 1,
        episode_length: int = 25,
    ) -> "FrameLayout":
        """
        Lay out a buffer.

        :param buffer_size: Number of transitions
        :param observation_space: A ``Box`` whose first axis holds the stacked frames
        :param action_space: Action space
        :param n_envs: Number of environments
        :param frame_stack: Number of stacked frames
        :param episode_length: Mean number of steps in an episode
        :raises ValueError: if a number is out of range, or the stack does not fit the observations.
        """
        return cls(
            rows=max(buffer_size // n_envs, 1),
            n_envs=n_envs,
            frame_stack=int(frame_stack),
            frame_shape=_frame_shape(observation_space, frame_stack),
            frame_type=np.dtype(observation_space.dtype),
            action_dim=get_action_dim(action_space),
            action_type=np.dtype(ReplayBuffer._maybe_cast_dtype(action_space.dtype)),
            episode_length=check_integer("episode_length", episode_length),
        )

    @property
    def frame_capacity(self) -> int:
        """One frame per transition and one per episode; and as many as one row and its stacks can hold at most."""
        transitions = self.rows * self.n_envs
        return transitions + math.ceil(transitions / self.episode_length) + self.n_envs * (self.frame_stack + 1) ** 2

    @property
    def nbytes(self) -> int:
        """Bytes of all of it on the storage device."""
        frames = (self.frame_capacity + 1) * math.prod(self.frame_shape) * self.frame_type.itemsize
        places, position, outcome = 4 * (self.frame_stack + 1), 8, 16
        row = places + position + outcome + self.action_dim * self.action_type.itemsize
        return frames + self.rows * self.n_envs * row


def _frame_shape(space: spaces.Space, frame_stack: int) -> tuple[int, ...]:
    if not isinstance(space, spaces.Box) or not space.shape:
        raise ValueError(f"FrameReplayBuffer stores observations of a Box with at least one axis, got {space}.")
    check_integer("frame_stack", frame_stack)
    if space.shape[0] % frame_stack:
        raise ValueError(
            f"frame_stack must divide the first axis of the observations, which holds the stacked "
            f"frames and has {space.shape[0]} entries (their shape is {space.shape}), got {frame_stack!r}."
        )
    return space.shape[0] // frame_stack, *space.shape[1:]
