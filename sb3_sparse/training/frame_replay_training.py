"""Base of the algorithms that learn from stacked frames."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.arguments import check_integer, check_number
from sb3_sparse.buffers.frame_layout import FrameLayout
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.buffers.frame_stacks import stacked_frames
from sb3_sparse.training.compiled_training import CompiledTraining

SelfFrameReplayTraining = TypeVar("SelfFrameReplayTraining", bound="FrameReplayTraining")

# Fraction of a GPU's free memory that the replay buffer may take; networks and what an update computes need the rest.
_SHARE_OF_GPU = 0.7
# Channels of a single image, in grey or in colour; others are likely to be stacked.
_GREY, _COLOURS = 1, 3


class FrameReplayTraining(CompiledTraining):
    """
    Base of algorithms with a replay buffer of frames, on the GPU where they fit. It is made when training begins, as acting
    does not need it: a loaded model has none before ``load_replay_buffer`` or ``learn``.

    :param args: Positional arguments of SB3's ``OffPolicyAlgorithm``
    :param frame_stack: Frames that an observation consists of; None asks the environment, and stores every observation as a
        whole where that does not tell
    :param kwargs: Keyword arguments of SB3's ``OffPolicyAlgorithm`` and of :class:`CompiledTraining`
    """

    # Arguments that are integers -> the least, and numbers of at least 0 -> the most.
    integers: ClassVar[Mapping[str, int]]
    numbers: ClassVar[Mapping[str, float]]

    def __init__(self, *args: Any, frame_stack: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, support_multi_env=True, sde_support=False, **kwargs)
        # Among the buffer's arguments is where models of former versions have it.
        self.frame_stack = self.replay_buffer_kwargs.get("frame_stack", frame_stack)
        if frame_stack not in (None, self.frame_stack):
            raise ValueError(
                f"frame_stack={frame_stack}, but replay_buffer_kwargs has frame_stack={self.frame_stack}: give one."
            )

    def _build(self) -> None:
        self._check_spaces(self.observation_space, self.action_space)
        self._check_options()
        self._convert_train_freq()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._setup_for_env()
        build: Any = self.policy_class
        self.policy = build(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs).to(self.device)
        self._create_aliases()

    @classmethod
    def _wrap_env(cls, env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:  # type: ignore[override]
        wrapped = CompiledTraining._wrap_env(env, verbose, monitor_wrapper)
        # Before SB3 advises a MultiInputPolicy, which there is not. What else does not fit may be another model's environment.
        if isinstance(wrapped.observation_space, spaces.Dict):
            cls._check_spaces(wrapped.observation_space, wrapped.action_space)
        return wrapped

    @staticmethod
    def _check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Refuse what the networks cannot take."""
        raise NotImplementedError

    def _create_aliases(self) -> None:
        """Name the policy's networks."""
        raise NotImplementedError

    def _check_options(self) -> None:
        name, aliases = type(self).__name__, " or ".join(f'"{alias}"' for alias in self.policy_aliases)
        if not issubclass(self.policy_class, self.known_as.policy):
            raise ValueError(f"{name} has policies of its own, got {self.policy_class.__name__}: give {aliases}.")
        for argument in ("n_steps", "gamma"):
            if self.replay_buffer_kwargs.get(argument, getattr(self, argument)) != getattr(self, argument):
                raise ValueError(
                    f"{argument} is an argument of {name}, not of its buffer: take it out of replay_buffer_kwargs."
                )
        for argument, least in self.integers.items():
            setattr(self, argument, check_integer(argument, getattr(self, argument), least))
        for argument, most in self.numbers.items():
            check_number(argument, getattr(self, argument), most)
        if self.frame_stack is not None:
            self.frame_stack = check_integer("frame_stack", self.frame_stack)
            if self._entries % self.frame_stack:
                raise ValueError(
                    f"{self.frame_stack} frames cannot make up {self._entries} channels: give another frame_stack."
                )

    def _setup_for_env(self) -> None:
        """Choose what depends on the environment; a model that is loaded to act may have none and needs none of it."""
        if self.env is not None and self.frame_stack is None:
            self.frame_stack = self._find_frame_stack(self.env)

    def _find_frame_stack(self, env: VecEnv) -> int:
        found, entries = stacked_frames(env), self._entries
        if found is not None and entries % found == 0:
            return found
        if self._has_images and entries not in (_GREY, _COLOURS):
            colours = "" if entries % _COLOURS else f"frame_stack={entries // _COLOURS} if these are colour images, "
            self._warn_once(
                f"Nothing tells how many frames an observation of {entries} channels consists of, so all of it is stored at "
                f"every step: give {colours}frame_stack={entries} if they are grey, to store each frame once."
            )
        return 1

    @property
    def _entries(self) -> int:
        return self.observation_space.shape[0]  # type: ignore[index]

    @property
    def _has_images(self) -> bool:
        return len(self.observation_space.shape) == 3  # type: ignore[arg-type]

    def _ensure_buffer(self) -> None:
        if self.env is not None and self.replay_buffer is None:
            self.replay_buffer = self._make_buffer()

    def _make_buffer(self) -> ReplayBuffer:
        self.replay_buffer_class = buffer_class = self._buffer_class()
        kwargs = dict(self.replay_buffer_kwargs)
        if issubclass(buffer_class, FrameReplayBuffer):
            kwargs = {**self._frame_options(), **kwargs}
            kwargs.setdefault("storage_device", self._choose_storage(kwargs))
        elif self.n_steps > 1 and "n_steps" not in kwargs:
            raise ValueError(
                f"{buffer_class.__name__} must be told of n_steps={self.n_steps} itself, by replay_buffer_kwargs="
                f"dict(n_steps={self.n_steps}, gamma={self.gamma}); give n_steps=1 if it has no such argument."
            )
        spaces_ = self.observation_space, self.action_space
        buffer = buffer_class(self.buffer_size, *spaces_, device=self.device, n_envs=self.n_envs, **kwargs)
        if isinstance(buffer, FrameReplayBuffer):
            buffer.seed(self.seed)
        return buffer

    def _buffer_class(self) -> type[ReplayBuffer]:
        return self.replay_buffer_class or FrameReplayBuffer

    def _frame_options(self) -> dict[str, Any]:
        # Memory for a last frame of every step costs little where observations are vectors.
        shape = {} if self._has_images else {"episode_length": 1}
        return {"n_steps": self.n_steps, "gamma": self.gamma, "frame_stack": self.frame_stack, **shape}

    def _choose_storage(self, kwargs: dict[str, Any]) -> th.device:
        host = th.device("cpu")
        if self.device.type != "cuda" or self.replay_buffer_device == "cpu" or self._vec_normalize_env is not None:
            return host
        spaces_ = self.observation_space, self.action_space
        layout = {name: value for name, value in kwargs.items() if name in ("frame_stack", "episode_length")}
        needed = FrameLayout.of(self.buffer_size, *spaces_, self.n_envs, **layout).nbytes
        free, _ = th.cuda.mem_get_info(self.device)
        if needed <= _SHARE_OF_GPU * free:
            return self.device
        if self.verbose:
            sizes = f"it needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on the GPU"
            print(f"The replay buffer lies in main memory: {sizes}.")
        return host

    def _check_loaded_buffer(self, buffer: ReplayBuffer) -> None:
        super()._check_loaded_buffer(buffer)
        if isinstance(buffer, FrameReplayBuffer):
            buffer.adopt_returns(self.n_steps, self.gamma)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Change the environment.

        :param env: Environment
        :param force_reset: As in SB3
        """
        super().set_env(env, force_reset)
        self._setup_for_env()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._ensure_buffer()  # callbacks ask for it
        return super()._setup_learn(*args, **kwargs)

    def learn(
        self: SelfFrameReplayTraining,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfFrameReplayTraining:
        """
        Learn.

        :param total_timesteps: Number of agent steps, over all environments
        :param callback: Called at every step
        :param log_interval: Number of episodes between two lines of the log
        :param tb_log_name: Name of the run in the TensorBoard log; the algorithm's if None
        :param reset_num_timesteps: Whether to count steps anew, which also begins schedules anew
        :param progress_bar: Whether to show a progress bar
        :return: The model
        """
        name = tb_log_name or self.known_as.name
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Update the networks, see :meth:`CompiledTraining.train`. A run that goes on without its replay buffer is past its
        warm-up with a new one: until that holds ``n_steps`` steps of one episode there is no update.

        :param gradient_steps: Number of updates
        :param batch_size: Number of transitions in each batch
        """
        if not self._is_waiting_for_steps():
            super().train(gradient_steps, batch_size)

    def _is_waiting_for_steps(self) -> bool:
        buffer = self.replay_buffer
        if not isinstance(buffer, FrameReplayBuffer) or buffer.has_starts:
            return False
        # After more than a batch of steps it is not that they are few: episodes are too short, and sampling says so.
        return buffer.size() < self.batch_size
