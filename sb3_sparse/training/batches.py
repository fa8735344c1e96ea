"""The batches of an update: drawn within a graph, or on the host and copied to where a graph reads them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_sparse.buffers.batch_gatherer import BatchGatherer
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer

Samples = ReplayBufferSamples | DictReplayBufferSamples


def sampling(model: OffPolicyAlgorithm, batch_size: int) -> Callable[[], Samples]:
    """
    Find what draws batches.

    :param model: Model with a replay buffer
    :param batch_size: Number of transitions
    :return: Function that draws a batch, which is good until the next one
    """
    buffer, env = model.replay_buffer, model._vec_normalize_env
    assert buffer is not None
    if BatchGatherer.takes(buffer, env):
        return BatchGatherer(buffer, batch_size).sample
    return functools.partial(buffer.sample, batch_size, env=env)


def generators_on_device(model: OffPolicyAlgorithm) -> list[th.Generator]:
    """
    Find what batches are drawn with if that can be part of a graph.

    :param model: Model with a replay buffer
    :return: Generators; none if batches come from the host or another device
    """
    buffer = model.replay_buffer
    if model._vec_normalize_env is not None or not isinstance(buffer, DeviceReplayBuffer | FrameReplayBuffer):
        return []
    generator = buffer.generator  # None for frames in the host's memory
    return [generator] if generator is not None and generator.device == model.policy.device else []


class StaticSamples:
    """A batch that always lies at the same address: every batch is copied into the first one's tensors."""

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
