"""The last frames of an environment as one observation."""

from collections import deque
from typing import Any

import numpy as np

from sb3_sparse.arguments import check_integer


class FrameStack:
    """
    The last frames of an episode, whose first one is repeated until there are others (as in DrQ-v2's code).

    :param frame_stack: Number of frames, at least 1
    :raises ValueError: if it is not.
    """

    def __init__(self, frame_stack: int):
        self._frames: deque[np.ndarray] = deque(maxlen=check_integer("frame_stack", frame_stack))

    def start(self, frame: np.ndarray) -> np.ndarray:
        """
        :param frame: First frame of an episode, (channels, height, width)
        :return: (frame_stack * channels, height, width), a new array
        """
        assert self._frames.maxlen is not None
        self._frames.extend([frame] * self._frames.maxlen)
        return np.concatenate(self._frames)

    def append(self, frame: np.ndarray) -> np.ndarray:
        """
        :param frame: Next frame
        :return: (frame_stack * channels, height, width), the oldest frame first, a new array
        """
        self._frames.append(frame)
        return np.concatenate(self._frames)


def image_shape(image_size: Any) -> tuple[int, int]:
    """
    :param image_size: Height and width of an image, or the two of them
    :return: Height and width
    :raises ValueError: if they are not integers of at least 1.
    """
    sizes = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sizes) != 2:
        raise ValueError(f"image_size must be one number or a height and a width, got {image_size!r}.")
    height, width = (check_integer("image_size", size) for size in sizes)
    return height, width
