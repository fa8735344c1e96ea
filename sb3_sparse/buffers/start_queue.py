"""The positions of a replay buffer that can be drawn."""

from typing import Any

import numpy as np
import torch as th

from sb3_sparse.buffers.frame_store import write_ring
from sb3_sparse.buffers.present_device import present_device


class StartQueue:
    """
    Positions in the order in which they became possible starts, which is also the order in which they cease to be; so a
    uniform draw among them takes one random number, however many positions in between are no starts.

    :param capacity: Largest number of positions
    :param device: Where they lie
    """

    def __init__(self, capacity: int, device: th.device):
        self._positions = th.zeros(capacity, dtype=th.int64, device=device)
        # The first one's place and their number once more, read by captured graphs.
        self._cursor = th.zeros(2, dtype=th.int64, device=device)
        self.clear()

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of all places."""
        return self._positions.nbytes

    def clear(self) -> None:
        """Forget all positions."""
        self._first = self._count = 0

    def append(self, positions: np.ndarray) -> None:
        """
        :param positions: int64 positions that became possible starts
        """
        write_ring(self._positions, self._first + self._count, th.from_numpy(positions))
        self._count += len(positions)

    def pop(self, count: int) -> None:
        """
        :param count: Number of positions to forget, the oldest ones
        """
        self._first = (self._first + count) % len(self._positions)
        self._count -= count

    def publish(self) -> None:
        """Let what has been appended and popped be drawn; before that, draws on a GPU see the former positions."""
        self._cursor.copy_(th.tensor([self._first, self._count], device="cpu"))

    def draw(self, batch_size: int, generator: th.Generator | None) -> th.Tensor:
        """
        Draw uniformly, with replacement.

        :param batch_size: Number of draws
        :param generator: Generator on the same device, or None for NumPy's global one
        :return: (batch_size,) int64 positions
        """
        if generator is None:
            numbers = th.from_numpy(np.random.randint(0, self._count, size=batch_size))
        else:
            # Doubles, as float32 cannot tell the transitions of a large buffer apart.
            uniform = th.rand(batch_size, dtype=th.float64, device=self._positions.device, generator=generator)
            numbers = (uniform * self._cursor[1]).long()
        return self._positions[(self._cursor[0] + numbers) % len(self._positions)]

    def __getstate__(self) -> dict[str, Any]:
        places = (self._first + np.arange(self._count)) % len(self._positions)
        positions = self._positions.cpu().numpy()[places]
        return {"capacity": len(self._positions), "device": self._positions.device, "positions": positions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["capacity"], present_device(state["device"]))  # type: ignore[misc]
        self.append(state["positions"])
        self.publish()
