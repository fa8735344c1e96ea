"""A replay buffer that lies on the device, so that sampling costs neither copies nor time on the host."""

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.arguments import check_integer
from sb3_sparse.buffers.n_step_returns import following_steps, n_step_window, normalized_reward
from sb3_sparse.buffers.present_device import present_device
from sb3_sparse.buffers.seeding import new_generator, seed_generator

Observations = th.Tensor | dict[str, th.Tensor]


class DeviceReplayBuffer(ReplayBuffer):
    """
    Replay buffer in the memory of a device: one row of float32 numbers per transition, written by one copy and read by one
    gather, whatever the observation consists of. Vectors, dictionaries of them, several environments and n-step returns (which
    follow SB3's ``NStepReplayBuffer``) are supported. Nothing in :meth:`sample` waits for the device, so it can be part of a
    CUDA graph.

    Batches come from a generator of its own, not from NumPy's global one as in SB3.

    :param buffer_size: Number of transitions, over all environments
    :param observation_space: Vectors, or a dictionary of them; stored as float32
    :param action_space: Action space
    :param device: Device to store on
    :param n_envs: Number of environments
    :param optimize_memory_usage: Not supported
    :param handle_timeout_termination: Whether an episode that ends by time goes on being bootstrapped
    :param n_steps: Number of steps whose rewards are summed
    :param gamma: Discount of these rewards
    :raises ValueError: for images, ``optimize_memory_usage``, or ``n_steps`` below 1.
    :raises torch.OutOfMemoryError: if the device has not that much memory; it says how much is needed.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
    ):
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage or not self.takes(observation_space):
            raise ValueError(
                f"A replay buffer on the device takes vectors and no optimize_memory_usage; got {observation_space}, "
                f"optimize_memory_usage={optimize_memory_usage}."
            )
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        self.n_steps, self.gamma = check_integer("n_steps", n_steps), gamma
        self._shapes = self.obs_shape if isinstance(self.obs_shape, dict) else {"": self.obs_shape}
        self._observation_dim = sum(math.prod(shape) for shape in self._shapes.values())
        self._rows = self._allocate()
        # Step at which the next transitions go, and how many transitions there are, read by captured graphs.
        self._cursor = th.zeros(2, dtype=th.int64, device=self.device)
        self.generator = new_generator(self.device)

    @staticmethod
    def takes(observation_space: spaces.Space) -> bool:
        """
        :param observation_space: Any space
        :return: Whether observations of it are stored here: numbers of at most 32 bits, no images
        """
        parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
        return all(part.dtype != np.uint8 for part in parts)

    @property
    def row_dim(self) -> int:
        """Numbers per transition: two observations, action, reward, whether the episode ended, and whether by time."""
        return 2 * self._observation_dim + self.action_dim + 3

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return 4 * self.buffer_size * self.n_envs * self.row_dim

    @property
    def observations(self) -> Observations:  # type: ignore[override]
        """(buffer_size, n_envs, ...) views of the stored observations, as SB3's buffers have them."""
        pieces = self._rows[..., : self._observation_dim].split([math.prod(s) for s in self._shapes.values()], dim=-1)
        found = {key: piece.unflatten(-1, shape) for (key, shape), piece in zip(self._shapes.items(), pieces, strict=True)}
        return found if isinstance(self.obs_shape, dict) else found[""]

    @property
    def device(self) -> th.device:
        """Where transitions are stored. SB3 sets this after loading, which moves them."""
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        # With its number: "cuda" and "cuda:0" are not equal.
        self._device = th.empty(0, device=device).device
        if "_rows" in self.__dict__ and self._rows.device != self._device:
            self._rows, self._cursor = self._rows.to(self._device), self._cursor.to(self._device)
            seed = self.generator.initial_seed()
            self.generator = th.Generator(self._device)
            self.generator.manual_seed(seed)

    def seed(self, seed: int | None) -> None:
        """
        Seed the batches.

        :param seed: Seed, or None to take it from torch's default generator
        """
        seed_generator(self.generator, seed)

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self._cursor.zero_()

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every environment.

        :param obs: (n_envs, ...) observations, or a dictionary of them
        :param next_obs: The same after the action
        :param action: (n_envs, ...) actions
        :param reward: (n_envs,) rewards
        :param done: (n_envs,) whether the episode ended
        :param infos: One dictionary per environment
        """
        timeouts = [info.get("TimeLimit.truncated", False) and self.handle_timeout_termination for info in infos]
        terminal = np.logical_and(done, np.logical_not(timeouts))  # the only end that is not bootstrapped
        parts = [*self._flat(obs), *self._flat(next_obs), action, reward, terminal, timeouts]
        rows = np.concatenate([np.asarray(part, np.float32).reshape(self.n_envs, -1) for part in parts], axis=1)
        self._rows[self.pos].copy_(th.from_numpy(rows))
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0
        self._set_cursor()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: Number of transitions
        :param env: Normalises observations and rewards on the host, if given, which waits for the device
        :return: ReplayBufferSamples, or DictReplayBufferSamples for dictionaries
        """
        # Doubles, as float32 cannot tell the transitions of a large buffer apart.
        uniform = th.rand(batch_size, dtype=th.float64, device=self.device, generator=self.generator)
        return self._read((uniform * self._cursor[1]).long(), env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        steps = th.as_tensor(batch_inds, device=self.device)
        envs = th.randint(self.n_envs, steps.shape, device=self.device, generator=self.generator)
        return self._read(steps * self.n_envs + envs, env)

    def _read(self, positions: th.Tensor, env: VecNormalize | None) -> Any:
        """Read transitions by their position: those of one step lie side by side, one of every environment."""
        observations, next_observations, actions, rewards, terminal, _ = self._rows_at(positions)
        rewards, discounts = normalized_reward(rewards, env), None
        if self.n_steps > 1:
            next_observations, rewards, terminal, discounts = self._n_step(positions, env)
        is_dict = isinstance(self.obs_shape, dict)
        return (DictReplayBufferSamples if is_dict else ReplayBufferSamples)(
            self._observations(observations, env),  # type: ignore[arg-type]
            actions,
            self._observations(next_observations, env),  # type: ignore[arg-type]
            terminal,
            rewards,
            discounts=discounts,
        )

    def _n_step(self, positions: th.Tensor, env: VecNormalize | None) -> tuple[th.Tensor, ...]:
        steps = following_steps(positions, self.n_steps, self.n_envs, self.buffer_size)
        _, _, _, rewards, terminal, timeouts = self._rows_at(steps)
        newest = (self._cursor[0] - 1) % self.buffer_size
        ends = (terminal + timeouts).squeeze(-1) + (steps // self.n_envs == newest) > 0
        factors = self.gamma ** th.arange(self.n_steps + 1, device=self.device)
        window = n_step_window(steps, normalized_reward(rewards, env).squeeze(-1), ends, factors[None])
        _, next_observations, _, _, terminal, _ = self._rows_at(window.last)
        return next_observations, window.returns, terminal, window.discounts

    def _rows_at(self, positions: th.Tensor) -> tuple[th.Tensor, ...]:
        rows = self._rows.view(-1, self.row_dim).index_select(0, positions.reshape(-1))
        sizes = [self._observation_dim] * 2 + [self.action_dim, 1, 1, 1]
        return rows.view(*positions.shape, self.row_dim).split(sizes, dim=-1)

    def _observations(self, flat: th.Tensor, env: VecNormalize | None) -> Observations:
        pieces = flat.split([math.prod(shape) for shape in self._shapes.values()], dim=1)
        found = {key: piece.view(-1, *shape) for (key, shape), piece in zip(self._shapes.items(), pieces, strict=True)}
        observations: Any = found if isinstance(self.obs_shape, dict) else found[""]
        if env is None:
            return observations
        return _to(self.device, env.normalize_obs(_to_numpy(observations)))

    def _flat(self, observations: np.ndarray | dict[str, np.ndarray]) -> list[np.ndarray]:
        if isinstance(observations, dict):
            return [observations[key] for key in self._shapes]
        return [observations]

    def _allocate(self) -> th.Tensor:
        try:
            return th.zeros(self.buffer_size, self.n_envs, self.row_dim, device=self.device)
        except th.OutOfMemoryError as error:
            raise th.OutOfMemoryError(
                f"A replay buffer of {self.buffer_size * self.n_envs:,} transitions needs {self.nbytes / 2**30:.1f} GiB on "
                f"{self.device}: choose a smaller buffer_size, or replay_buffer_device='cpu' to keep it in the host's memory."
            ) from error

    def _set_cursor(self) -> None:
        filled = self.buffer_size if self.full else self.pos
        # Only n-step returns need the position once the buffer is full.
        if not self.full or self.n_steps > 1 or self.pos == 0:
            self._cursor.copy_(th.tensor([self.pos, filled * self.n_envs], device="cpu"))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        filled = self.buffer_size if self.full else self.pos
        state["_rows"] = self._rows[:filled].cpu().numpy()
        state["generator"] = (self.generator.initial_seed(), self.generator.get_state())
        state["_device"] = str(self._device)
        del state["_cursor"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows, (seed, random_state), device = state.pop("_rows"), state.pop("generator"), th.device(state.pop("_device"))
        self.__dict__.update(state)
        # SB3 says where it is wanted after loading; a machine without the former device must be able to load it.
        self._device = present_device(device)
        self._rows = self._allocate()
        self._rows[: len(rows)].copy_(th.from_numpy(rows))
        self._cursor = th.zeros(2, dtype=th.int64, device=self._device)
        self._cursor.copy_(th.tensor([self.pos, len(rows) * self.n_envs], device="cpu"))
        self.generator = th.Generator(self._device)
        self.generator.manual_seed(seed)
        if self._device == device:
            self.generator.set_state(random_state)


def _to_numpy(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: value.cpu().numpy() for key, value in observations.items()}
    return observations.cpu().numpy()


def _to(device: th.device, observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: _to(device, value) for key, value in observations.items()}
    return th.as_tensor(observations, dtype=th.float32, device=device)
