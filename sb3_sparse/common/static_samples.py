"""A batch that always lies at the same address, for graphs whose replay buffer is not on the device."""

from collections.abc import Iterator

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

Samples = ReplayBufferSamples | DictReplayBufferSamples


class StaticSamples:
    """Copies every batch into the tensors of the first one."""

    def __init__(self) -> None:
        self._samples: Samples | None = None

    @property
    def samples(self) -> Samples:
        """The present batch."""
        assert self._samples is not None, "nothing was loaded yet"
        return self._samples

    def load(self, samples: Samples) -> None:
        """
        :param samples: Next batch, of the same sizes as the one before
        """
        if self._samples is None:
            self._samples = samples
        else:
            for kept, new in zip(_tensors(self._samples), _tensors(samples), strict=True):
                kept.copy_(new, non_blocking=True)


def _tensors(samples: Samples) -> Iterator[th.Tensor]:
    for part in samples:
        if isinstance(part, dict):
            yield from part.values()
        elif part is not None:
            yield part
