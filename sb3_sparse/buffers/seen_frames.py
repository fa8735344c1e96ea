"""Stacks of frames, and which of their frames were seen before."""

import numpy as np

from sb3_sparse.buffers.frame_layout import FrameLayout
from sb3_sparse.buffers.frame_store import ZERO_FRAME


def as_stacks(observations: np.ndarray, layout: FrameLayout) -> np.ndarray:
    """
    Take observations apart.

    :param observations: (n_envs, *shape of an observation)
    :param layout: Layout
    :return: (n_envs, frame_stack, *frame_shape), contiguous
    :raises ValueError: if they have another shape or type than the layout's.
    """
    observations, dtype = np.asarray(observations), layout.frame_type
    shape = (layout.n_envs, layout.frame_stack * layout.frame_shape[0], *layout.frame_shape[1:])
    if observations.shape != shape or not np.can_cast(observations.dtype, dtype, "same_kind"):
        raise ValueError(
            f"Observations of {layout.n_envs} environments must have shape {shape} and type {dtype}, as the observation "
            f"space says, got shape {observations.shape} and type {observations.dtype}."
        )
    return np.ascontiguousarray(observations, dtype).reshape(layout.n_envs, layout.frame_stack, *layout.frame_shape)


def check_overlap(stack: np.ndarray, following: np.ndarray) -> None:
    """
    Refuse an observation whose older frames are not the newer ones of the observation before it.

    :param stack: (frame_stack, *frame_shape)
    :param following: The next observation
    :raises ValueError: if they disagree; it says which number of frames they agree with.
    """
    if same(stack[1:], following[:-1]):
        return
    frames, shape = len(stack), (len(stack) * stack.shape[1], *stack.shape[2:])
    fits = _fitting_stack(stack.reshape(shape), following.reshape(shape))
    raise ValueError(
        f"The {frames - 1} older frames of an observation are not the newer ones of the observation before it, so "
        f"frame_stack={frames} is wrong for this environment, whose observations have shape {shape}: set frame_stack to the "
        f"number of frames that it stacks along the first axis, the oldest first. frame_stack={fits} fits this observation; 1 "
        "always does."
    )


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """
    Compare bit for bit, so that even NaN equals itself.

    :param first: Any array
    :param second: Another of the same type
    """
    return first.tobytes() == second.tobytes()


def number_frames(stack: np.ndarray, next_number: int, new: list[np.ndarray]) -> np.ndarray:
    """
    Number the frames of an episode's first stack, in which zeros and repetitions take no place of their own.

    :param stack: (frame_stack, *frame_shape), the oldest first
    :param next_number: Number of the first new frame
    :param new: New frames, to which those of the stack are appended
    :return: (frame_stack,) numbers
    """
    numbers = np.empty(len(stack), np.int64)
    for index, frame in enumerate(stack):
        if not frame.view(np.uint8).any():
            numbers[index] = ZERO_FRAME
        elif index > 0 and same(frame, stack[index - 1]):
            numbers[index] = numbers[index - 1]
        else:
            numbers[index] = next_number + len(new)
            new.append(frame)
    return numbers


def _fitting_stack(observation: np.ndarray, following: np.ndarray) -> int:
    """The largest number of frames that two observations agree with, at least 1."""
    entries = len(observation)
    divisors = [stack for stack in range(entries, 0, -1) if entries % stack == 0]
    return next(stack for stack in divisors if same(observation[entries // stack :], following[: entries - entries // stack]))
