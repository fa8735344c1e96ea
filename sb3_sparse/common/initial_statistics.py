"""Observation statistics before the first update: those of what the replay buffer holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs

from sb3_sparse.common.extractor import SparseSimBaExtractor
from sb3_sparse.common.observations import ObservationNormalizer, flatten_observations
from sb3_sparse.networks import DeferredNormalizer, RunningNormalizer
from sb3_sparse.networks.normalization import pooled_moments

# Observations that are read from the buffer at once.
_PART = 65_536


def start_statistics(model: OffPolicyAlgorithm) -> None:
    """
    Have normalisers that have not seen anything begin with the stored observations, so that no network sees raw ones; others
    are left alone, so nothing is counted twice.

    :param model: Model with a replay buffer
    """
    untouched = _untouched_normalizers(model)
    if untouched and model.replay_buffer is not None and model.replay_buffer.size() > 0:
        moments = pooled_moments(_stored_observations(model))
        for normalizer in untouched:
            normalizer.start(*moments)


@contextmanager
def started_statistics(model: OffPolicyAlgorithm) -> Iterator[None]:
    """
    :func:`start_statistics` while this is open: a measurement must not change what it measures.

    :param model: Model with a replay buffer
    """
    buffers = [buffer for normalizer in _untouched_normalizers(model) for buffer in normalizer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    start_statistics(model)
    try:
        yield
    finally:
        for buffer, former in zip(buffers, before, strict=True):
            buffer.copy_(former)


def _untouched_normalizers(model: OffPolicyAlgorithm) -> list[RunningNormalizer | DeferredNormalizer]:
    """Those of whole observations, target networks' included."""
    found: list[RunningNormalizer | DeferredNormalizer] = []
    for module in model.policy.modules():
        if isinstance(module, ObservationNormalizer):
            found.append(module)
        elif isinstance(module, SparseSimBaExtractor):
            found.append(module.normalizer)
    return [normalizer for normalizer in found if normalizer.is_untouched]


def _stored_observations(model: OffPolicyAlgorithm) -> Iterator[th.Tensor]:
    """(n, dim) observations each, preprocessed and flattened as networks get them, on the CPU."""
    buffer: Any = model.replay_buffer
    space, steps = model.observation_space, max(1, _PART // buffer.n_envs)
    keys = tuple(space.spaces) if isinstance(buffer.observations, dict) else ()  # type: ignore[attr-defined]
    for first in range(0, buffer.size(), steps):
        chosen = slice(first, min(first + steps, buffer.size()))
        part = _map(buffer.observations, lambda stored: _on_cpu(stored[chosen]).flatten(0, 1).numpy())  # noqa: B023
        raw = ReplayBuffer._normalize_obs(part, model.get_vec_normalize_env())
        yield flatten_observations(preprocess_obs(_map(raw, _on_cpu), space), keys)  # type: ignore[arg-type]


def _on_cpu(array: Any) -> th.Tensor:
    return th.as_tensor(array, device="cpu")


def _map(observations: Any, function: Any) -> Any:
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)
