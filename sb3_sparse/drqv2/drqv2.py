"""DrQ-v2."""

import math
from collections.abc import Hashable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TrainFreq, TrainFrequencyUnit

from sb3_sparse.algorithms.known_algorithms import KnownAlgorithm
from sb3_sparse.algorithms.losses import (
    Losses,
    bellman_target,
    frozen,
    mean_over_samples,
    smallest,
    squared_errors,
    sum_over_critics,
)
from sb3_sparse.arguments import check_integer
from sb3_sparse.drqv2.acting_network import PixelActor
from sb3_sparse.drqv2.augmentation import random_shift
from sb3_sparse.drqv2.exploration import StddevSchedule, stddev_at
from sb3_sparse.drqv2.networks import noisy_actions
from sb3_sparse.drqv2.policies import DrQv2Policy, check_spaces
from sb3_sparse.training.batches import Samples
from sb3_sparse.training.frame_replay_training import FrameReplayTraining

SelfDrQv2 = TypeVar("SelfDrQv2", bound="DrQv2")


class DrQv2(FrameReplayTraining):
    """
    DrQ-v2 (Yarats et al., 2022, "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement Learning",
    https://arxiv.org/abs/2107.09645): DDPG from pixels with random shifts of the images, n-step returns and a schedule for the
    exploration noise; with a critic that can be wide and statically sparse (Ma et al., ICML 2025, section 5).

    Defaults are those of the authors' code (https://github.com/facebookresearch/drqv2) for tasks of medium difficulty, which
    the paper uses (Table 4). **Everything is counted in agent steps**, as always in SB3: ``learning_starts``, ``train_freq``,
    ``buffer_size``, the schedule. The authors' figures and "frames" count steps of the simulation, with an action repeat of 2
    twice as many: their 1M frames are ``learn(500_000)``.

    An update draws one batch, shifts observations and next observations, encodes both with the same encoder, steps critic and
    encoder on the critic's loss, then the actor (on the features that were computed before; its loss never reaches the
    encoder), then averages the target critic. Differences from the authors' loop:

    - They act, then update, then step the environment; SB3 makes ``train_freq`` steps, then updates. The number of updates is
      the same, each comes one agent step later.
    - Transitions can be drawn at once, theirs after their episode has ended; and uniformly over transitions, which is the same
      if all episodes are equally long. Batches are not drawn ahead of time, and of all that is stored, not of a quarter.
    - A discount of 0 at a terminal state stays 0; theirs becomes 1. No task of theirs terminates.
    - Shifts are gathers of whole pixels instead of bilinear interpolation at whole pixels, which rounds.

    On a GPU each update is one CUDA graph, and frames lie on the GPU where they fit; see :class:`CompiledTraining`.

    The model's file has all but the replay buffer, the position in the schedule (``num_timesteps``) included: go on with
    ``learn(..., reset_num_timesteps=False)``. A loaded model has no replay buffer, which acting does not need, before
    ``load_replay_buffer`` or ``learn``.

    :param policy: "CnnPolicy" or a policy class
    :param env: Environment of images: uint8, channels first or last, frames stacked along the channels
    :param learning_rate: Learning rate of encoder, actor and critic, a float or a schedule
    :param buffer_size: Agent steps that the replay buffer holds
    :param learning_starts: Agent steps with actions drawn uniformly, before the first update
    :param batch_size: Transitions in a batch
    :param tau: Weight of the critic in the averaging of its target
    :param gamma: Discount factor
    :param train_freq: Steps (of all environments at once) between two calls of ``train()``
    :param gradient_steps: Updates in such a call; None for one per environment, which keeps one update per two agent steps
        with ``train_freq=2`` and any number of environments
    :param n_steps: Steps whose rewards are summed
    :param stddev_schedule: Standard deviation of the noise on actions in [-1, 1]: a number, "linear(initial, final,
        duration)" with the duration in **agent steps**, or a function of the agent steps so far
    :param stddev_clip: Bound of the noise on actions in updates; acting is not bounded
    :param shift_pixels: Largest random shift of an image along each axis
    :param frame_stack: Frames that an observation consists of; None asks the environment. The replay buffer stores each frame
        once, and refuses a wrong number
    :param autocast: Whether updates run the encoder in bfloat16
    :param matmul_precision: Precision of matrix products in updates, see :class:`CompiledTraining`
    :param replay_buffer_device: "auto" for the GPU where frames fit, "cpu"
    :param replay_buffer_class: Replay buffer; :class:`FrameReplayBuffer` if None
    :param replay_buffer_kwargs: Its keyword arguments, e.g. ``partial_returns=True`` to learn from the last steps of episodes
        as well, which the authors' code leaves out
    :param stats_window_size: Number of episodes that the logged return is averaged over
    :param tensorboard_log: Folder of the TensorBoard log, None for none
    :param policy_kwargs: Keyword arguments of :class:`~sb3_sparse.drqv2.DrQv2Policy`: sparsity, width_scale, ...
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: Seed of everything
    :param device: Device
    :param _init_setup_model: Whether to build the networks
    :raises ValueError: for a hyperparameter out of its range, observations that are no images, discrete actions.
    :raises MemoryError: if the replay buffer does not fit into memory.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": DrQv2Policy}
    known_as = KnownAlgorithm(
        "DrQv2",
        DrQv2Policy,
        PixelActor,
        "drqv2",
        label="DrQ-v2",
        losses={
            "critic": lambda model, batch: model._losses_of_critic(batch),
            "actor": lambda model, batch: model._losses_of_actor(batch),
        },
    )
    networks_with_gradients = ("encoder", "actor", "critic")
    integers: ClassVar = {"n_steps": 1, "batch_size": 1, "buffer_size": 1, "learning_starts": 0, "shift_pixels": 0}
    numbers: ClassVar = {"tau": 1.0, "gamma": 1.0, "stddev_clip": math.inf}
    policy: DrQv2Policy
    encoder: Any
    critic_target: Any

    def __init__(
        self,
        policy: str | type[DrQv2Policy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 2_000,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 2,
        gradient_steps: int | None = None,
        n_steps: int = 3,
        stddev_schedule: StddevSchedule = "linear(1.0, 0.1, 500000)",
        stddev_clip: float = 0.3,
        shift_pixels: int = 4,
        frame_stack: int | None = None,
        autocast: bool = False,
        matmul_precision: str | None = None,
        replay_buffer_device: str = "auto",
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            n_steps=n_steps,
            frame_stack=frame_stack,
            matmul_precision=matmul_precision,
            replay_buffer_device=replay_buffer_device,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.stddev_schedule, self.stddev_clip = stddev_schedule, stddev_clip
        self.shift_pixels, self.autocast = shift_pixels, autocast
        # Saved with the model, which may go on with another number of environments.
        self._keeps_ratio = gradient_steps is None
        if _init_setup_model:
            self._setup_model()
            self._ensure_buffer()

    @staticmethod
    def _check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_spaces(observation_space, action_space)

    def _create_aliases(self) -> None:
        self.encoder, self.actor = self.policy.encoder, self.policy.actor
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target

    def _check_options(self) -> None:
        super()._check_options()
        stddev_at(self.stddev_schedule, 0)
        if not self._keeps_ratio:
            self.gradient_steps = check_integer("gradient_steps", self.gradient_steps, -1)

    def _setup_for_env(self) -> None:
        super()._setup_for_env()
        if self.env is not None and self._keeps_ratio:
            self.gradient_steps = self._one_per_environment()

    def _one_per_environment(self) -> int:
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError("With train_freq in episodes, give gradient_steps: -1 for as many updates as there were steps.")
        return self.n_envs

    def _frame_options(self) -> dict[str, Any]:
        # The authors' code never begins at the last n - 1 steps of an episode.
        return {**super()._frame_options(), "partial_returns": False}

    @property
    def stddev(self) -> float:
        """Standard deviation of the exploration noise at the present agent step."""
        return stddev_at(self.stddev_schedule, self.num_timesteps)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        self.actor.stddev.fill_(self.stddev)
        return super()._sample_action(learning_starts, action_noise, n_envs)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Update the networks, see :meth:`FrameReplayTraining.train`.

        :param gradient_steps: Number of updates
        :param batch_size: Number of transitions in each batch
        """
        stddev = self.stddev
        self.actor.stddev.fill_(stddev)
        super().train(gradient_steps, batch_size)
        self.logger.record("train/stddev", stddev)

    def gradient_step(self, samples: Samples, full: bool) -> dict[str, th.Tensor]:
        """See :meth:`CompiledTraining.gradient_step`."""
        features = self._encode(samples.observations)
        with th.no_grad():
            next_features = self._encode(samples.next_observations)
        target = self._target(samples, next_features)
        critic_loss = mean_over_samples(squared_errors(self.critic(features, samples.actions), target))
        self._weights.step(critic_loss, self.critic.optimizer, self.encoder.optimizer)
        # Of the encoder before its step, and for the critic after its own.
        features = features.detach()
        actor_loss = self._actor_losses(features).mean()
        self._weights.step(actor_loss, self.actor.optimizer)
        self._weights.average(self.critic, self.critic_target, self.tau)
        return {"critic_loss": critic_loss, "actor_loss": actor_loss, "target_q": target.mean()}

    def _encode(self, observations: Any) -> th.Tensor:
        images = random_shift(observations, self.shift_pixels)
        # Without its cache, which a captured graph would read after it is gone.
        with th.autocast(self.device.type, th.bfloat16, enabled=self.autocast, cache_enabled=False):
            return self.policy.extract_features(images, self.encoder).float()

    @th.no_grad()
    def _target(self, samples: Samples, next_features: th.Tensor) -> th.Tensor:
        actions = noisy_actions(self.actor(next_features), self.actor.stddev, self.stddev_clip)
        return bellman_target(self, samples, smallest(self.critic_target(next_features, actions)))

    def _actor_losses(self, features: th.Tensor) -> th.Tensor:
        """(batch, 1)"""
        actions = noisy_actions(self.actor(features), self.actor.stddev, self.stddev_clip)
        with frozen(self.critic.parameters()):
            return -smallest(self.critic(features, actions))

    @th.no_grad()
    def _features(self, samples: Samples) -> tuple[th.Tensor, th.Tensor]:
        return self._encode(samples.observations), self._encode(samples.next_observations)

    def _losses_of_critic(self, samples: Samples) -> Losses:
        features, next_features = self._features(samples)
        target = self._target(samples, next_features)
        return lambda: sum_over_critics(squared_errors(self.critic(features, samples.actions), target))

    def _losses_of_actor(self, samples: Samples) -> Losses:
        features, _ = self._features(samples)
        return lambda: self._actor_losses(features).reshape(-1)

    def update_settings(self) -> tuple[Hashable, ...]:
        """See :meth:`CompiledTraining.update_settings`."""
        return self.gamma, self.tau, self.stddev_clip, self.shift_pixels, self.autocast

    @classmethod
    def load(cls: type[SelfDrQv2], path: Any, env: GymEnv | None = None, *args: Any, **kwargs: Any) -> SelfDrQv2:  # type: ignore[override]
        """
        Load a model, see :meth:`~stable_baselines3.common.base_class.BaseAlgorithm.load`. With
        ``learn(..., reset_num_timesteps=False)`` it goes on at the same place of the noise's schedule.

        :param path: File or file-like object
        :param env: Environment to go on in; it may be another number of them
        :param args: As in SB3
        :param kwargs: As in SB3; attributes to change, e.g. ``buffer_size``
        """
        if kwargs.get("gradient_steps") is not None:
            kwargs["_keeps_ratio"] = False
        return super().load(path, env, *args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "encoder", "actor", "critic", "critic_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "encoder.optimizer", "actor.optimizer", "critic.optimizer"], []
