"""A batch that always lies at the same address, for graphs whose replay buffer is not on the device."""

from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

Samples = ReplayBufferSamples | DictReplayBufferSamples


class StaticSamples:
    """Copies every batch into tensors of its own."""

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
            # Those of the first batch may be parts of the buffer itself.
            self._samples = type(samples)(*map(_cloned, samples))
        else:
            for kept, new in zip(_tensors(self._samples), _tensors(samples), strict=True):
                kept.copy_(new, non_blocking=True)


def _cloned(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _cloned(value) for key, value in part.items()}
    return part.clone() if isinstance(part, th.Tensor) else part


def _tensors(samples: Samples) -> Iterator[th.Tensor]:
    for part in samples:
        if isinstance(part, dict):
            yield from (part[key] for key in sorted(part))
        elif part is not None:
            yield part
