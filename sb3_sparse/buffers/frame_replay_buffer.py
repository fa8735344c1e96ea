"""A replay buffer that stores each frame of stacked observations once."""

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.arguments import check_integer, check_number
from sb3_sparse.buffers.frame_layout import FrameLayout
from sb3_sparse.buffers.frame_store import ZERO_FRAME, FrameStore, torch_type
from sb3_sparse.buffers.memory import check_memory
from sb3_sparse.buffers.n_step_returns import Window, following_steps, n_step_window, normalized_reward
from sb3_sparse.buffers.present_device import present_device
from sb3_sparse.buffers.seeding import new_generator, seed_generator
from sb3_sparse.buffers.seen_frames import as_stacks, check_overlap, number_frames, same
from sb3_sparse.buffers.start_queue import StartQueue

# Its name in buffers that former versions saved, which are read without the rest of the package.
_Layout = FrameLayout
# What is kept of a transition beside frames and action, as float32: its reward; whether the episode terminated; whether it
# ended, however that was; the environment's own discount.
_REWARD, _TERMINAL, _END, _DISCOUNT = range(4)
_ROW_TENSORS, _ROW_ARRAYS = ("_places", "_actions", "_outcomes"), ("_first_frames", "_is_start")
_REMEDY = (
    "choose a smaller buffer_size, store smaller or fewer frames (image size, frame_stack), or give storage_device a device "
    "that has more memory."
)


class FrameReplayBuffer(ReplayBuffer):
    """
    Replay buffer for observations that are stacks of frames. Each frame is stored once and observations are put together when
    they are sampled, so that a transition of three stacked RGB frames of 84x84 takes 22 KB instead of the 127 KB of SB3's
    buffer. With ``frame_stack=1`` any other ``Box`` is stored once instead of twice.

    What comes out is what went in, bit for bit: first stacks of episodes, be they padded with zeros or with copies of the
    first frame, and true last observations as well. Returns over ``n_steps`` steps stay within episodes:

    - ``partial_returns=True``: every stored transition is a start. Its steps are fewer where the episode terminates (nothing
      is bootstrapped then), is truncated, or has come no further yet; ``discounts`` is gamma to the power of their number.
    - ``partial_returns=False``: the rule of DrQ-v2's reference implementation: only starts whose ``n_steps`` steps lie within
      their episode. (There, an episode is not sampled from before it has ended.)

    If the environment has a discount of its own, ``info["discount"]`` of each step (dm_control's, multiplied over the
    repeated actions), then rewards and bootstrap are multiplied by those of the steps before them, as in DrQ-v2:
    ``rewards = sum_i gamma^i d_0 ... d_(i-1) r_i`` and ``discounts = gamma^k d_0 ... d_(k-1)``.

    An episode takes one frame more than it has steps, its last; memory is reserved for episodes of ``episode_length`` steps on
    average. Should they be shorter, the oldest transitions are forgotten before there are ``buffer_size``, with a warning.
    An observation that does not follow from the one before it (the environment was reset from outside) begins an episode.

    A *position* names a stored transition: row * n_envs + environment, with rows from 0 to buffer_size / n_envs - 1.
    A prioritised buffer overrides :meth:`draw` or :meth:`sample`, reads by :meth:`read`, and is told by :meth:`_dropped` and
    :meth:`_started`, in this order in each :meth:`add`, which positions can be drawn.

    Memory is checked and reserved by the constructor; main memory is used only as transitions come in.

    :param buffer_size: Number of transitions (agent steps), over all environments
    :param observation_space: A ``Box`` whose first axis holds the stacked frames, the oldest first: channel-first images
    :param action_space: Action space
    :param device: Device that batches are wanted on
    :param n_envs: Number of environments
    :param optimize_memory_usage: Must be False: there is nothing left to optimise
    :param handle_timeout_termination: Whether an episode that ends by time goes on being bootstrapped
    :param n_steps: Number of steps whose rewards are summed, at least 1
    :param gamma: Discount of these rewards, in [0, 1]
    :param frame_stack: How many frames the environment stacks along the first axis, which it must divide
    :param partial_returns: Whether sums of fewer than ``n_steps`` steps are sampled, see above
    :param storage_device: Where transitions lie: ``"cpu"``, or a GPU. There, batches are drawn from a generator of the
        buffer's own (:meth:`seed`), and nothing in :meth:`sample` waits for the GPU, so it can be part of a CUDA graph. On the
        CPU they are drawn from NumPy's global generator, as in SB3
    :param episode_length: Mean number of steps in an episode that memory is reserved for, at least 1
    :param environment_discounts: Whether ``info["discount"]`` is what is said above, and not something else
    :raises ValueError: if an argument is invalid.
    :raises MemoryError: if the machine has not that much memory (``torch.OutOfMemoryError`` if a GPU has not).
    """

    _count: int
    _warned: bool
    _numbers: np.ndarray
    _last_stacks: np.ndarray
    _step_in_episode: np.ndarray
    _first_frames: np.ndarray
    _is_start: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_steps: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        partial_returns: bool = True,
        storage_device: th.device | str = "cpu",
        episode_length: int = 25,
        environment_discounts: bool = True,
    ):
        if optimize_memory_usage:
            raise ValueError("FrameReplayBuffer stores every frame once already: leave optimize_memory_usage=False.")
        self._layout = FrameLayout.of(buffer_size, observation_space, action_space, n_envs, frame_stack, episode_length)
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = self._layout.rows
        self._set_returns(n_steps, gamma)
        if not partial_returns and n_steps > self.buffer_size:
            raise ValueError(f"n_steps={n_steps} does not fit into a buffer of {self.buffer_size} steps per environment.")
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        self.frame_stack, self.partial_returns = self._layout.frame_stack, partial_returns
        self.environment_discounts = environment_discounts
        # With its number: "cuda" and "cuda:0" are not equal.
        self.storage_device = th.empty(0, device=get_device(storage_device)).device
        self._allocate()
        self.generator = self._make_generator()
        self._forget()

    @property
    def nbytes(self) -> int:
        """Bytes on the storage device when the buffer is full."""
        return self._layout.nbytes

    #: What checkpoints of runs store like the buffer itself.
    checkpoint_parts: tuple[str, ...] = ("_frames", "_starts")

    def checkpoint_rings(self) -> dict[str, tuple[int, int]]:
        """What is written one after the other: name -> position of the next entry, number of entries."""
        rows = self.pos, self.buffer_size if self.full else self.pos
        frames, capacity = self._frames.count, self._frames.capacity
        return {**dict.fromkeys(_ROW_TENSORS, rows), "_frames/_frames": (1 + frames % capacity, 1 + min(frames, capacity))}

    def seed(self, seed: int | None) -> None:
        """
        Seed the batches drawn from a GPU. Those of a buffer on the CPU come from NumPy's global generator, which SB3 seeds.

        :param seed: Seed, or None to take it from torch's default generator
        """
        if self.generator is not None:
            seed_generator(self.generator, seed)

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self._forget()

    def adopt_returns(self, n_steps: int, gamma: float) -> None:
        """
        Sum rewards over another number of steps from now on, or with another discount, those of stored transitions, too.

        :param n_steps: Number of steps
        :param gamma: Discount
        :raises ValueError: for another number of steps with ``partial_returns=False``, where it decides which transitions
            can be drawn. Nothing has changed then.
        """
        if (self.n_steps, self.gamma) == (n_steps, gamma):
            return
        if n_steps != self.n_steps and not self.partial_returns:
            raise ValueError(
                f"The replay buffer was filled for returns of n_steps={self.n_steps} and cannot change to {n_steps}: give the "
                f"model n_steps={self.n_steps}."
            )
        warnings.warn(
            f"The replay buffer summed rewards over n_steps={self.n_steps} steps with gamma={self.gamma}; from now on it is "
            f"{n_steps} and {gamma}, as the model has them.",
            stacklevel=3,
        )
        self._set_returns(n_steps, gamma)

    def _set_returns(self, n_steps: int, gamma: float) -> None:
        check_number("gamma", gamma, 1.0)
        self.n_steps, self.gamma = check_integer("n_steps", n_steps), gamma

    def size(self) -> int:
        """
        :return: Number of steps stored of each environment
        """
        return self._count

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

        :param obs: (n_envs, ...) observations
        :param next_obs: The same after the action; at the end of an episode its last, not the first of the next one
        :param action: (n_envs, ...) actions
        :param reward: (n_envs,) rewards
        :param done: (n_envs,) whether the episode ended
        :param infos: One dictionary per environment; ``TimeLimit.truncated`` and ``discount`` are read
        :raises ValueError: if observations have another shape or type than the space's, ``next_obs`` is not ``obs`` without
            its oldest frame and with a new one, or a discount is not in [0, 1].
        """
        stacks, next_stacks = as_stacks(obs, self._layout), as_stacks(next_obs, self._layout)
        done = np.asarray(done, bool).reshape(self.n_envs)
        for env in np.flatnonzero(~done):  # VecNormalize rounds last observations
            check_overlap(stacks[env], next_stacks[env])
        outcomes = self._outcomes_of(reward, done, infos)
        begins = self._find_beginnings(stacks)
        if self._count == self.buffer_size:
            self._drop_oldest_row()
        numbers = self._store_frames(stacks, next_stacks, begins)
        self._write_row(numbers, action, outcomes)
        self._drop_rows_without_frames()
        self._step_in_episode[begins] = 0
        self._step_in_episode += 1
        self._publish_starts()
        self._step_in_episode[done] = 0
        self._last_stacks = next_stacks.copy()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw transitions uniformly among the possible starts, with replacement.

        :param batch_size: Number of transitions
        :param env: Normalises observations and rewards on the host, if given
        :return: A batch as of :meth:`read`
        """
        return self.read(self.draw(batch_size), env)

    def draw(self, batch_size: int) -> th.Tensor:
        """
        Draw positions uniformly among the possible starts, with replacement.

        :param batch_size: Number of positions
        :return: (batch_size,) int64 positions, on the storage device
        :raises ValueError: if there is no start yet.
        """
        if not self.has_starts:
            steps = 1 if self.partial_returns else self.n_steps
            remedy = "a smaller n_steps, or replay_buffer_kwargs partial_returns=True"
            raise ValueError(
                f"The replay buffer holds no sequence of {steps} steps within one episode yet ({self.size()} steps are "
                "stored): collect more before sampling (learning_starts)."
                + (f" Where episodes are shorter, give {remedy}." if steps > 1 else "")
            )
        return self._starts.draw(batch_size, self.generator)

    @property
    def has_starts(self) -> bool:
        """Whether there is a transition that :meth:`draw` can return."""
        return len(self._starts) > 0

    def is_start(self, positions: th.Tensor) -> th.Tensor:
        """
        Tell which positions :meth:`draw` can return now. Waits for the GPU if the positions lie there.

        :param positions: int64 positions, of any shape
        :return: Bools of the same shape and on the same device
        """
        return th.from_numpy(self._is_start.reshape(-1))[positions.cpu()].to(positions.device)

    def read(self, positions: th.Tensor, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Read transitions and the steps that follow them.

        :param positions: (batch,) int64 positions of stored transitions, on the storage device
        :param env: Normalises observations and rewards on the host, if given
        :return: On the buffer's device: ``observations`` and ``next_observations`` (batch, ...) of the observation space's
            type, ``actions`` (batch, action size), and as float32 (batch, 1): ``rewards``, the discounted sums; ``dones``, 1
            if the episode terminated within the steps; ``discounts``, what the value of ``next_observations`` is multiplied by
        """
        window = self._window(positions, env)
        places = self._places.view(-1, self.frame_stack + 1)
        return ReplayBufferSamples(
            self._observations(places[positions, :-1], env),
            self._on_device(self._actions.view(-1, self.action_dim)[positions]),
            self._observations(places[window.last, 1:], env),
            self._on_device(self._outcomes.view(-1, 4)[window.last, _TERMINAL, None]),
            self._on_device(window.returns),
            discounts=self._on_device(window.discounts),
        )

    def _dropped(self, positions: np.ndarray) -> None:
        """
        Called in every :meth:`add` that overwrites or forgets transitions, before the new one is stored.

        :param positions: int64 positions that were possible starts and no longer are
        """

    def _started(self, positions: np.ndarray) -> None:
        """
        Called in every :meth:`add` after the transition was stored.

        :param positions: int64 positions that became possible starts, which is ``n_steps`` - 1 steps after they were stored
            with ``partial_returns=False``
        """

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        rows = th.as_tensor(batch_inds, device=self.storage_device)
        envs = th.as_tensor(np.random.randint(0, self.n_envs, size=len(batch_inds)), device=self.storage_device)
        return self.read(rows * self.n_envs + envs, env)

    def _window(self, positions: th.Tensor, env: VecNormalize | None) -> Window:
        steps = following_steps(positions, self.n_steps, self.n_envs, self.buffer_size)
        outcomes = self._outcomes.view(-1, 4)[steps]  # (batch, n_steps, 4)
        ends = (outcomes[..., _END] > 0) | (steps // self.n_envs == self._newest)
        discounts = th.cumprod(self.gamma * outcomes[..., _DISCOUNT], dim=1)
        factors = th.cat([th.ones_like(discounts[:, :1]), discounts], dim=1)
        return n_step_window(steps, normalized_reward(outcomes[..., _REWARD], env), ends, factors)

    def _observations(self, places: th.Tensor, env: VecNormalize | None) -> th.Tensor:
        to_gpu = th.device(self.device).type == "cuda" and places.device.type == "cpu"
        observations = self._frames.read(places, pinned=to_gpu)
        if env is not None:
            observations = th.from_numpy(env.normalize_obs(observations.cpu().numpy()))  # type: ignore[arg-type]
        return self._on_device(observations)

    def _on_device(self, tensor: th.Tensor) -> th.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _outcomes_of(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        timeouts = [info.get("TimeLimit.truncated", False) and self.handle_timeout_termination for info in infos]
        outcomes = np.empty((self.n_envs, 4), np.float32)
        outcomes[:, _REWARD] = np.asarray(reward).reshape(self.n_envs)
        outcomes[:, _TERMINAL] = done & ~np.array(timeouts, bool)
        outcomes[:, _END] = done
        outcomes[:, _DISCOUNT] = _discounts_of(infos) if self.environment_discounts else 1.0
        return outcomes

    def _find_beginnings(self, stacks: np.ndarray) -> np.ndarray:
        """Tell whose episode begins; one that was broken off is truncated where it was."""
        follows = [same(stack, last) for stack, last in zip(stacks, self._last_stacks, strict=True)]
        begins = (self._step_in_episode == 0) | ~np.array(follows)
        for env in np.flatnonzero(begins & (self._step_in_episode > 0)):
            self._outcomes[self._newest_row, env, _END] = 1.0
        return begins

    def _store_frames(self, stacks: np.ndarray, next_stacks: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """
        Store the newest frame of every next observation, and first stacks as a whole.

        :return: (n_envs, frame_stack + 1) numbers of the observations' frames and the one after
        """
        new: list[np.ndarray] = []
        numbers = np.concatenate([self._numbers[:, 1:], np.zeros((self.n_envs, 1), np.int64)], axis=1)
        for env in range(self.n_envs):
            if begins[env]:
                numbers[env, :-1] = number_frames(stacks[env], self._frames.count, new)
            numbers[env, -1] = self._frames.count + len(new)
            new.append(next_stacks[env, -1])
        self._frames.add(np.stack(new))
        self._numbers = numbers
        return numbers

    def _write_row(self, numbers: np.ndarray, action: np.ndarray, outcomes: np.ndarray) -> None:
        row = self.pos
        self._first_frames[row] = numbers.min(where=numbers != ZERO_FRAME, initial=self._frames.count)
        self._places[row].copy_(th.from_numpy(self._frames.places(numbers)))
        actions = np.asarray(action, self._layout.action_type).reshape(self.n_envs, self.action_dim)
        self._actions[row].copy_(th.from_numpy(actions))
        self._outcomes[row].copy_(th.from_numpy(outcomes))
        self._newest.fill_(row)
        self._count += 1
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    @property
    def _newest_row(self) -> int:
        return (self.pos - 1) % self.buffer_size

    def _publish_starts(self) -> None:
        """Let those be drawn whose steps are complete now."""
        steps = 1 if self.partial_returns else self.n_steps
        if self._count >= steps:
            row = (self.pos - steps) % self.buffer_size
            envs = np.flatnonzero(self._step_in_episode >= steps)
            self._is_start[row, envs] = True
            self._starts.append(row * self.n_envs + envs)
            self._started(row * self.n_envs + envs)
        self._starts.publish()

    def _drop_oldest_row(self) -> None:
        row = (self.pos - self._count) % self.buffer_size
        envs = np.flatnonzero(self._is_start[row])
        self._is_start[row] = False
        self._count -= 1
        self._starts.pop(len(envs))
        self._dropped(row * self.n_envs + envs)

    def _drop_rows_without_frames(self) -> None:
        while self._first_frames[(self.pos - self._count) % self.buffer_size] < self._frames.oldest:
            self._drop_oldest_row()
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Episodes are shorter than {self._layout.episode_length} steps on average, so the replay buffer's "
                    f"frames are used up with {self._count * self.n_envs:,} of {self.buffer_size * self.n_envs:,} transitions "
                    "and the oldest are forgotten: pass a smaller episode_length (replay_buffer_kwargs) for more frames.",
                    stacklevel=3,
                )

    def _forget(self) -> None:
        layout = self._layout
        self._count, self._warned = 0, False
        self._frames.count = 0
        self._starts.clear()
        self._starts.publish()
        # Of each environment: the frames of its last transition (see _store_frames), its last next_obs, its steps so far.
        self._numbers = np.zeros((self.n_envs, layout.frame_stack + 1), np.int64)
        self._last_stacks = np.zeros((self.n_envs, layout.frame_stack, *layout.frame_shape), layout.frame_type)
        self._step_in_episode = np.zeros(self.n_envs, np.int64)
        self._first_frames = np.zeros(self.buffer_size, np.int64)
        self._is_start = np.zeros((self.buffer_size, self.n_envs), bool)

    def _allocate(self) -> None:
        layout, device = self._layout, self.storage_device
        what = f"A replay buffer of {layout.rows * layout.n_envs:,} transitions"
        check_memory(layout.nbytes, device, what, _REMEDY)
        try:
            self._frames = FrameStore(layout.frame_capacity, layout.frame_shape, layout.frame_type, device)
            self._starts = StartQueue(layout.rows * layout.n_envs, device)
            self._allocate_rows()
        except th.OutOfMemoryError as error:
            needed = f"{layout.nbytes:,} bytes ({layout.nbytes / 2**30:.1f} GiB)"
            raise th.OutOfMemoryError(f"{what} needs {needed} on {device}: {_REMEDY}") from error

    def _allocate_rows(self) -> None:
        layout, device = self._layout, self.storage_device
        size = (layout.rows, layout.n_envs)
        self._places = th.zeros(*size, layout.frame_stack + 1, dtype=th.int32, device=device)
        self._actions = th.zeros(*size, layout.action_dim, dtype=torch_type(layout.action_type), device=device)
        self._outcomes = th.zeros(*size, 4, device=device)
        # Row of the newest transition, read by captured graphs.
        self._newest = th.zeros((), dtype=th.int64, device=device)

    def _make_generator(self) -> th.Generator | None:
        return None if self.storage_device.type == "cpu" else new_generator(self.storage_device)

    def __getstate__(self) -> dict[str, Any]:
        rows = self.buffer_size if self.full else self.pos
        state = {key: value for key, value in self.__dict__.items() if key != "_newest"}
        state.update({name: getattr(self, name)[:rows].cpu().numpy() for name in _ROW_TENSORS})
        state.update({name: getattr(self, name)[:rows] for name in _ROW_ARRAYS})
        if self.generator is not None:
            state["generator"] = (self.generator.initial_seed(), self.generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows, random_state = {name: state.pop(name) for name in _ROW_TENSORS}, state.pop("generator")
        self.__dict__.update(state)
        is_there = present_device(self.storage_device) == self.storage_device
        self.storage_device = present_device(self.storage_device)
        self._allocate_rows()
        for name in _ROW_ARRAYS:
            stored = state[name]
            setattr(self, name, np.zeros((self.buffer_size, *stored.shape[1:]), stored.dtype))
            getattr(self, name)[: len(stored)] = stored
        for name, values in rows.items():
            getattr(self, name)[: len(values)].copy_(th.from_numpy(values))
        self._newest.fill_(self._newest_row)
        self.generator = self._make_generator()
        if self.generator is not None and is_there:
            self.generator.manual_seed(random_state[0])
            self.generator.set_state(random_state[1])


def _discounts_of(infos: list[dict[str, Any]]) -> list[float]:
    discounts = [info.get("discount", 1.0) for info in infos]
    for discount in discounts:
        if not isinstance(discount, (int, float, np.number)) or not 0 <= discount <= 1:
            raise ValueError(
                f"info['discount'] must be the environment's discount of a step, in [0, 1], got {discount!r}: give the replay "
                "buffer environment_discounts=False if it means something else."
            )
    return discounts
