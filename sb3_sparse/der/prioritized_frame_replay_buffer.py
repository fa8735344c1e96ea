"""Prioritised replay of stacked frames."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.der.sum_tree import SumTree


class PrioritizedSamples(NamedTuple):
    """
    A batch of SB3's :class:`~stable_baselines3.common.type_aliases.ReplayBufferSamples`, and where it comes from.

    :param observations: (batch, *shape)
    :param actions: (batch, action size)
    :param next_observations: (batch, *shape)
    :param dones: (batch, 1)
    :param rewards: (batch, 1)
    :param discounts: (batch, 1)
    :param weights: (batch, 1) importance-sampling weights, at most 1
    :param positions: (batch,) int64 positions in the buffer, on its storage device
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor
    positions: th.Tensor


class PrioritizedFrameReplayBuffer(FrameReplayBuffer):
    """
    Replay buffer that draws transitions with probabilities proportional to their priorities (Schaul et al., 2016,
    "Prioritized Experience Replay", section 3.3, without stratification, as in Dopamine).

    A transition comes in with the largest priority that there has been, at least 1, so it is seen soon. Batches carry weights
    ``(smallest priority in the batch / priority)^beta``.

    :param args: Arguments of :class:`~sb3_sparse.buffers.frame_replay_buffer.FrameReplayBuffer`
    :param kwargs: Its keyword arguments
    """

    checkpoint_parts = (*FrameReplayBuffer.checkpoint_parts, "_tree")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._make_tree()

    def _make_tree(self) -> None:
        device = self.storage_device
        self._tree = SumTree(self.buffer_size * self.n_envs, device)
        # Tensors, as captured graphs read them.
        self.max_priority = th.ones((), dtype=th.float64, device=device)
        self.beta = th.full((), 0.5, dtype=th.float64, device=device)

    def set_beta(self, beta: float) -> None:
        """
        :param beta: How far weights make up for the priorities: 0 not at all, 1 wholly
        """
        self.beta.fill_(beta)

    def priorities(self, positions: th.Tensor) -> th.Tensor:
        """
        :param positions: (batch,) int64 positions
        :return: (batch,) float64 priorities, 0 of what is no possible start
        """
        return self._tree.get(positions)

    def update_priorities(self, positions: th.Tensor, priorities: th.Tensor) -> None:
        """
        Set the priorities of transitions that were drawn.

        :param positions: (batch,) int64 positions
        :param priorities: (batch,) greater than 0
        :raises ValueError: if a priority is not a positive, finite number. On a GPU, where nothing waits for that, such a
            priority counts as the largest one.
        """
        priorities = priorities.detach().to(self.storage_device, th.float64).reshape(-1)
        sound = th.isfinite(priorities) & (priorities > 0)
        if self.generator is None and not bool(sound.all()):
            raise ValueError(f"Priorities must be positive and finite, got {priorities[~sound][:5].tolist()}.")
        priorities = th.where(sound, priorities, self.max_priority)
        self._tree.set(positions, priorities)
        self.max_priority.copy_(th.maximum(self.max_priority, priorities.max()))

    def draw(self, batch_size: int) -> th.Tensor:
        """
        Draw positions in proportion to their priorities, with replacement.

        :param batch_size: Number of positions
        :return: (batch_size,) int64 positions, on the storage device
        :raises ValueError: if there is no start yet.
        """
        if len(self._starts) == 0:
            return super().draw(batch_size)  # which says why there is none
        if self.generator is None:
            fractions = th.from_numpy(np.random.random_sample(batch_size))
        else:
            device = self.storage_device
            fractions = th.rand(batch_size, dtype=th.float64, device=device, generator=self.generator)
        return self._tree.find(fractions)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedSamples:  # type: ignore[override]
        """
        Draw transitions in proportion to their priorities, with replacement.

        :param batch_size: Number of transitions
        :param env: Normalises observations and rewards on the host, if given
        """
        positions = self.draw(batch_size)
        batch = self.read(positions, env)
        priorities = self._tree.get(positions)
        weights = (priorities.min() / priorities) ** self.beta
        assert batch.discounts is not None
        return PrioritizedSamples(
            batch.observations,
            batch.actions,
            batch.next_observations,
            batch.dones,
            batch.rewards,
            batch.discounts,
            weights.to(self.device, th.float32).unsqueeze(1),
            positions,
        )

    def reset(self) -> None:
        """Forget all transitions and priorities."""
        super().reset()
        self._make_tree()

    def _dropped(self, positions: np.ndarray) -> None:
        self._set_all(positions, th.zeros((), dtype=th.float64, device=self.storage_device))

    def _started(self, positions: np.ndarray) -> None:
        self._set_all(positions, self.max_priority)

    def _set_all(self, positions: np.ndarray, priority: th.Tensor) -> None:
        where = th.from_numpy(positions).to(self.storage_device)
        self._tree.set(where, priority.expand(len(where)))

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.update({name: state[name].cpu().numpy() for name in ("max_priority", "beta")})
        return {**state, "_tree": self._tree.leaves.cpu().numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        numbers = {name: th.from_numpy(np.asarray(state.pop(name))) for name in ("max_priority", "beta", "_tree")}
        super().__setstate__(state)
        self._make_tree()
        self._tree.fill(numbers["_tree"])
        self.max_priority.copy_(numbers["max_priority"])
        self.beta.copy_(numbers["beta"])
