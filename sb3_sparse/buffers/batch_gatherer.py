"""Batches of SB3's replay buffer, gathered into memory that is used again."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class BatchGatherer:
    """
    Draws the batches that ``buffer.sample`` draws, by one gather per array and without copies after it. A batch is good until
    the next one is drawn.

    :param buffer: Buffer that :meth:`takes` says yes to
    :param batch_size: Number of transitions
    """

    def __init__(self, buffer: ReplayBuffer, batch_size: int):
        self._buffer, self._batch_size = buffer, batch_size
        self._batch = [np.empty((batch_size, *rows.shape[1:]), rows.dtype) for rows in self._rows()]
        observations, next_observations, actions, dones, _, rewards = map(th.from_numpy, self._batch)
        self._samples = ReplayBufferSamples(
            observations, actions, next_observations, dones.reshape(-1, 1), rewards.reshape(-1, 1)
        )

    def _rows(self) -> list[np.ndarray]:
        """Of every array one row for every transition; those of one step lie side by side."""
        buffer, count = self._buffer, self._buffer.buffer_size * self._buffer.n_envs
        arrays = buffer.observations, buffer.next_observations, buffer.actions, buffer.dones, buffer.timeouts, buffer.rewards
        return [array.reshape(count, *array.shape[2:]) for array in arrays]

    @staticmethod
    def takes(buffer: Any, env: VecNormalize | None) -> bool:
        """
        :param buffer: Any replay buffer
        :param env: What normalises its samples
        :return: Whether it is SB3's own for plain observations, on the CPU
        """
        return (
            type(buffer) is ReplayBuffer
            and env is None
            and not buffer.optimize_memory_usage
            and buffer.device.type == "cpu"
            and vars(buffer).keys().isdisjoint(("sample", "_get_samples"))
        )

    def sample(self) -> ReplayBufferSamples:
        """Draw transitions uniformly, with the random numbers of ``buffer.sample``."""
        buffer, count = self._buffer, self._batch_size
        steps = np.random.randint(0, buffer.buffer_size if buffer.full else buffer.pos, size=count)
        positions = steps * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=(count,))
        for rows, batch in zip(self._rows(), self._batch, strict=True):
            rows.take(positions, axis=0, out=batch, mode="clip")  # other modes take a detour over a copy
        _, _, _, dones, timeouts, _ = self._batch
        # Episodes that end by time go on being bootstrapped.
        np.multiply(dones, np.subtract(1, timeouts, out=timeouts), out=dones)
        return self._samples
