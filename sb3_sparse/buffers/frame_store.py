"""A ring of frames, each stored once, from which stacks of them are read by one gather."""

from typing import Any

import numpy as np
import torch as th

from sb3_sparse.buffers.present_device import present_device

#: Number of a frame of zeros, which takes no place.
ZERO_FRAME = -1


class FrameStore:
    """
    Frames in the order in which they came, numbered from 0; a new one takes the place of the oldest when all places are taken.

    :param capacity: Number of frames
    :param frame_shape: Shape of a frame, at least one axis
    :param dtype: Type of its numbers
    :param device: Where they lie. Main memory is taken as frames come in, that of a GPU at once
    """

    def __init__(self, capacity: int, frame_shape: tuple[int, ...], dtype: np.dtype, device: th.device):
        self.capacity, self.frame_shape, self.device = capacity, frame_shape, device
        self.dtype, self.torch_type = dtype, torch_type(dtype)
        self.count = 0
        self._frames = self._allocate()

    @property
    def oldest(self) -> int:
        """Number of the oldest frame that is still there."""
        return max(self.count - self.capacity, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all places."""
        return self._frames.nbytes

    def add(self, frames: np.ndarray) -> None:
        """
        Store frames, which get the next numbers.

        :param frames: (number of frames, *frame_shape), at most as many as there are places
        """
        write_ring(self._frames[1:], self.count, th.from_numpy(frames))
        self.count += len(frames)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """
        Where frames lie, for :meth:`read`.

        :param numbers: Numbers of frames, of any shape; :data:`ZERO_FRAME` for one of zeros
        :return: Their places, of the same shape
        """
        return np.where(numbers == ZERO_FRAME, 0, 1 + numbers % self.capacity)

    def read(self, places: th.Tensor, pinned: bool = False) -> th.Tensor:
        """
        Copy frames out of the store.

        :param places: (batch, stack) places, int32 or int64, on the store's device
        :param pinned: Whether to copy into page-locked memory, from which a GPU can fetch them while the host goes on
        :return: (batch, stack * first axis of a frame, *other axes)
        """
        frames = self._empty(places.numel(), pinned)
        th.index_select(self._frames, 0, places.reshape(-1), out=frames)
        return frames.view(len(places), places.shape[1] * self.frame_shape[0], *self.frame_shape[1:])

    def _allocate(self) -> th.Tensor:
        # Not touched here, so the system hands out main memory little by little, later.
        frames = self._empty(1 + self.capacity)
        frames[0] = 0  # the frame of zeros
        return frames

    def _empty(self, count: int, pinned: bool = False) -> th.Tensor:
        if self.device.type == "cpu" and not pinned:
            # NumPy asks for large pages, which saves most of the time that the system takes to hand out a new batch's memory.
            return th.from_numpy(np.empty((count, *self.frame_shape), self.dtype))
        return th.empty(count, *self.frame_shape, dtype=self.torch_type, device=self.device, pin_memory=pinned)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": self._frames[: 1 + min(self.count, self.capacity)].cpu().numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        frames = state.pop("_frames")
        self.__dict__.update(state)
        self.device = present_device(self.device)
        if len(frames) == 1 + self.capacity and self.device.type == "cpu":  # memory for a second copy may be wanting
            self._frames = th.from_numpy(frames)
        else:
            self._frames = self._allocate()
            self._frames[: len(frames)].copy_(th.from_numpy(frames))


def write_ring(ring: th.Tensor, start: int, new: th.Tensor) -> None:
    """
    Write entries one after the other, from the ring's end on to its beginning.

    :param ring: (capacity, ...) entries
    :param start: Place of the first one, taken modulo the capacity
    :param new: (count, ...) entries, at most as many as there are places
    """
    start %= len(ring)
    until_end = min(len(new), len(ring) - start)
    ring[start : start + until_end].copy_(new[:until_end])
    if until_end < len(new):
        ring[: len(new) - until_end].copy_(new[until_end:])


def torch_type(dtype: np.dtype) -> th.dtype:
    """
    :param dtype: NumPy's type of numbers
    :return: torch's
    :raises TypeError: if torch has none.
    """
    return th.from_numpy(np.zeros(0, dtype)).dtype
