"""Data-Efficient Rainbow."""

from collections.abc import Hashable
from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule, get_parameters_by_name

from sb3_sparse.algorithms.known_algorithms import KnownAlgorithm
from sb3_sparse.algorithms.losses import Losses
from sb3_sparse.arguments import check_number
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.der.acting_network import RainbowValues
from sb3_sparse.der.categorical import clipped_mass, cross_entropy, project
from sb3_sparse.der.networks import RainbowNetwork
from sb3_sparse.der.policies import CnnPolicy, DERPolicy, MlpPolicy, check_actions
from sb3_sparse.der.prioritized_frame_replay_buffer import PrioritizedFrameReplayBuffer
from sb3_sparse.training.batches import generators_on_device
from sb3_sparse.training.frame_replay_training import FrameReplayTraining
from sb3_sparse.training.programs import EagerProgram
from sb3_sparse.training.weight_updates import copy_statistics

_NOT_SAVED = ("_drawn", "_drawn_by")
_EXPLORATION = ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
# Added to a loss before it becomes a priority, as in Dopamine: no transition is out of reach.
PRIORITY_EPS = 1e-10
# A support is called too narrow where most of the targets lie beyond it, over about as many calls of ``train()`` as this.
_CLIPPED, _CLIPPED_CALLS = 0.5, 100


class DER(FrameReplayTraining):
    """
    Data-Efficient Rainbow (van Hasselt et al., 2019, "When to use parametric models in reinforcement learning?"): Rainbow
    (Hessel et al., 2018) with 10-step returns and an update per agent step, for 100 000 steps of Atari; with networks that can
    be wide and statically sparse (Ma et al., ICML 2025, appendix C.3).

    Defaults are those of the paper's Table 5, and of Dopamine's ``DER.gin`` where it is silent. Every part of Rainbow can be
    switched off: ``double_q``, ``prioritized``, ``n_steps=1``, ``tau`` here; ``distributional``, ``dueling``, ``noisy`` in
    ``policy_kwargs``. On a GPU a gradient step is one CUDA graph, see
    :class:`~sb3_sparse.training.compiled_training.CompiledTraining`.

    Deviations from Dopamine's code:

    - Returns end with the episode: the last transitions of an episode are stored with the shorter returns that they have. Its
      JAX accumulator drops a reward and the last transition there.
    - The first ``learning_starts`` actions are uniformly random, as in SB3, and not those of the untrained network.
    - Every forward pass draws noise of its own: online network for s, online network for s', target network for s'. There, the
      last two share it.
    - Noise begins with ``sigma_0=0.5`` (Table 5), where its code has 0.1.

    :param policy: "CnnPolicy", "MlpPolicy" or a policy class
    :param env: Environment or its id. Images hold all stacked frames in their channels
    :param learning_rate: Learning rate, a float or a schedule
    :param buffer_size: Number of transitions. Dopamine's million is never filled in 100 000 steps
    :param learning_starts: Agent steps before the first update
    :param batch_size: Transitions of an update
    :param tau: Weight of the online network when the target network is updated; 1 copies it
    :param gamma: Discount factor
    :param train_freq: As in SB3
    :param gradient_steps: As in SB3
    :param n_steps: Number of steps whose rewards are summed
    :param target_update_interval: Agent steps between two updates of the target network
    :param double_q: Whether the online network chooses the action whose value the target network tells
    :param prioritized: Whether transitions are drawn in proportion to their priorities, otherwise uniformly
    :param priority_exponent: Exponent of the loss in a priority; 0.5 is its square root
    :param priority_beta: Exponent of the importance-sampling weights, at the beginning
    :param priority_beta_final: The same at the end, with a line in between; constant if None
    :param exploration_fraction: Without noisy layers: part of the training over which random actions become fewer
    :param exploration_initial_eps: Without noisy layers: probability of a random action at the beginning
    :param exploration_final_eps: Without noisy layers: that probability from then on
    :param max_grad_norm: Bound of the gradient's norm, None for none
    :param frame_stack: Frames that an observation consists of; None asks the environment, and stores every observation as a
        whole where that does not tell. The replay buffer stores each frame once, and refuses a wrong number
    :param replay_buffer_kwargs: Further arguments of
        :class:`~sb3_sparse.buffers.frame_replay_buffer.FrameReplayBuffer`
    :param stats_window_size: As in SB3
    :param tensorboard_log: As in SB3
    :param policy_kwargs: Keyword arguments of :class:`~sb3_sparse.der.DERPolicy` or :class:`~sb3_sparse.der.CnnPolicy`
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: Seed of everything
    :param device: Device
    :param matmul_precision: Precision of matrix products in updates, see ``CompiledTraining``
    :param replay_buffer_device: "auto": on the model's GPU; "cpu": in the host's memory
    :param _init_setup_model: Whether to build the networks
    :raises ValueError: for a hyperparameter out of its range, actions that are not discrete, ``Dict`` observations.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy}
    known_as = KnownAlgorithm(
        "DER",
        DERPolicy,
        RainbowValues,
        "der",
        losses={"q_net": lambda model, batch: model._losses_of_q_net(batch)},
    )
    networks_with_gradients = ("q_net",)
    integers: ClassVar = dict.fromkeys(("n_steps", "target_update_interval", "batch_size", "buffer_size"), 1)
    numbers: ClassVar = dict.fromkeys(("gamma", "tau", "priority_exponent", "priority_beta", *_EXPLORATION), 1.0)
    policy: DERPolicy
    q_net: RainbowNetwork
    q_net_target: RainbowNetwork
    replay_buffer: FrameReplayBuffer | None  # type: ignore[assignment]
    # Of a buffer in the host's memory: positions and new priorities of the update that was made or captured last; and of each
    # program's, always at the same place.
    _drawn: tuple[th.Tensor, th.Tensor] | None
    _drawn_by: dict[EagerProgram, tuple[th.Tensor, th.Tensor]]

    def __init__(
        self,
        policy: str | type[DERPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 1_600,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        n_steps: int = 10,
        target_update_interval: int = 2_000,
        double_q: bool = True,
        prioritized: bool = True,
        priority_exponent: float = 0.5,
        priority_beta: float = 0.5,
        priority_beta_final: float | None = None,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.01,
        max_grad_norm: float | None = None,
        frame_stack: int | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        matmul_precision: str | None = None,
        replay_buffer_device: str = "auto",
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
            replay_buffer_kwargs=replay_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.target_update_interval, self.double_q = target_update_interval, double_q
        self.prioritized, self.priority_exponent = prioritized, priority_exponent
        self.priority_beta, self.priority_beta_final = priority_beta, priority_beta_final
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps, self.exploration_final_eps = exploration_initial_eps, exploration_final_eps
        self.max_grad_norm = max_grad_norm
        self.exploration_rate = 0.0
        # Calls of env.step(), and how much of the targets was clipped lately.
        self._n_calls = 0
        self._clipped = 0.0
        if _init_setup_model:
            self._setup_model()
            self._ensure_buffer()

    def _build(self) -> None:
        super()._build()
        explored = self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        self.exploration_schedule = ConstantSchedule(0.0) if self.q_net.noisy else LinearSchedule(*explored)
        final = self.priority_beta if self.priority_beta_final is None else self.priority_beta_final
        self.beta_schedule = LinearSchedule(self.priority_beta, final, 1.0)

    def _create_aliases(self) -> None:
        self.q_net, self.q_net_target = self.policy.q_net, self.policy.q_net_target
        self.batch_norm_stats = get_parameters_by_name(self.q_net, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(self.q_net_target, ["running_"])

    @staticmethod
    def _check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
        check_actions(action_space)
        if not isinstance(observation_space, spaces.Box):
            raise ValueError(f"DER takes vectors or images (a Box), got {observation_space}: flatten or select them.")

    def _check_options(self) -> None:
        super()._check_options()
        if self.priority_beta_final is not None:
            check_number("priority_beta_final", self.priority_beta_final, 1.0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, is_positive=True, hint="or None for none")

    def _buffer_class(self) -> type[FrameReplayBuffer]:
        return PrioritizedFrameReplayBuffer if self.prioritized else FrameReplayBuffer

    def _frame_options(self) -> dict[str, Any]:
        return {**super()._frame_options(), "environment_discounts": False}

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions: the best ones by values without noise if ``deterministic``; otherwise with noise, or without noisy
        layers at random with the present probability.

        :param observation: Observations
        :param state: Not used
        :param episode_start: Not used
        :param deterministic: Whether to leave out exploration
        :return: Actions, and the state
        """
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if not deterministic and self.exploration_rate > 0:
            chosen = np.atleast_1d(actions)  # of one observation a number
            chosen = np.array([self._explore(action) for action in chosen]).reshape(np.shape(actions))
            return chosen, state
        return actions, state

    def _explore(self, action: int) -> int:
        return self.action_space.sample() if np.random.rand() < self.exploration_rate else action

    def _on_step(self) -> None:
        self._n_calls += 1
        # Each call makes a step in every environment.
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            self._weights.average(self.q_net, self.q_net_target, self.tau)
            copy_statistics(self.batch_norm_stats, self.batch_norm_stats_target)
        if not self.q_net.noisy:
            self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
            self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def train(self, gradient_steps: int, batch_size: int = 32) -> None:
        """
        Update the network.

        :param gradient_steps: Number of updates
        :param batch_size: Number of transitions in each batch
        :raises DivergenceError: if a loss is not finite.
        :raises torch.OutOfMemoryError: if the GPU's memory does not suffice; it says what would help.
        """
        if isinstance(self.replay_buffer, PrioritizedFrameReplayBuffer):
            self.replay_buffer.set_beta(self.beta_schedule(self._current_progress_remaining))
        super().train(gradient_steps, batch_size)
        self._warn_of_narrow_support(self.logger.name_to_value.get("train/clipped_targets", 0.0))

    def _warn_of_narrow_support(self, clipped: float) -> None:
        self._clipped += (clipped - self._clipped) / _CLIPPED_CALLS
        if self._clipped > _CLIPPED:
            support = f"[{float(self.q_net.support[0]):g}, {float(self.q_net.support[-1]):g}]"
            self._warn_once(
                f"Most of the targets lie beyond the support {support} of the value distribution, where they are clipped, so "
                "values cannot be learned: give policy_kwargs=dict(v_min=..., v_max=...) that returns lie between, or scale "
                "or clip the rewards."
            )

    def gradient_step(self, samples: Any, full: bool) -> dict[str, th.Tensor]:
        """See :meth:`CompiledTraining.gradient_step`."""
        target, clipped = self._target(samples, noisy=self.q_net.noisy)
        errors, values = self._errors_of(samples, target, noisy=self.q_net.noisy)
        weights = samples.weights.squeeze(1) if self.prioritized else th.ones_like(errors)
        loss = (weights * errors).mean()
        self._weights.step(loss, self.policy.optimizer, max_grad_norm=self.max_grad_norm)
        if self.prioritized:
            self._renew_priorities(samples, errors.detach())
        return {"loss": loss, "q_value": values.detach().mean(), **clipped}

    @th.no_grad()
    def _target(self, samples: Any, noisy: bool) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        :return: (batch, n_atoms) distribution or (batch, 1) value, and what of a distribution was clipped, by its name
        """
        output = self.q_net_target(samples.next_observations, noisy)  # (batch, n_actions, n_atoms)
        values = self.q_net.q_values(samples.next_observations, noisy) if self.double_q else self.q_net.expectation(output)
        chosen = _of_actions(output, values.argmax(dim=1, keepdim=True))
        discounts = samples.discounts * (1 - samples.dones)
        if not self.q_net.distributional:
            return samples.rewards + discounts * chosen, {}
        moved = th.softmax(chosen, dim=1), samples.rewards, discounts, self.q_net.support
        return project(*moved), {"clipped_targets": clipped_mass(*moved)}

    def _errors_of(self, samples: Any, target: th.Tensor, noisy: bool) -> tuple[th.Tensor, th.Tensor]:
        """
        :return: (batch,) losses and (batch,) values of the actions taken
        """
        output = _of_actions(self.q_net(samples.observations, noisy), samples.actions.long())
        if not self.q_net.distributional:
            return F.smooth_l1_loss(output, target, reduction="none").squeeze(1), output.squeeze(1)
        return cross_entropy(output, target), th.softmax(output, dim=1) @ self.q_net.support

    def _renew_priorities(self, samples: Any, errors: th.Tensor) -> None:
        # Losses that are not finite end training, after which the buffer shall be as sound as it was.
        priorities = (errors.nan_to_num(0.0, posinf=0.0) + PRIORITY_EPS) ** self.priority_exponent
        assert isinstance(self.replay_buffer, PrioritizedFrameReplayBuffer)
        if self._uses_graphs() and not generators_on_device(self):
            self._drawn = samples.positions, priorities
        else:
            self.replay_buffer.update_priorities(samples.positions, priorities)

    def _step(self, batch_size: int, full: bool) -> dict[str, th.Tensor]:
        losses = super()._step(batch_size, full)
        program = self._programs.last
        if self._drawn is not None:  # else the graph has run, and has written to the places that it was captured with
            self._drawn_by[program] = self._drawn
            self._drawn = None
        if program in self._drawn_by:  # of a buffer in the host's memory, for which this waits for the GPU
            assert isinstance(self.replay_buffer, PrioritizedFrameReplayBuffer)
            self.replay_buffer.update_priorities(*self._drawn_by[program])
        return losses

    def recapture(self) -> None:
        """See :class:`~sb3_sparse.training.compiled_training.CompiledTraining`."""
        super().recapture()
        self._drawn, self._drawn_by = None, {}

    def _losses_of_q_net(self, batch: Any) -> Losses:
        """Without noise and importance-sampling weights."""
        target, _ = self._target(batch, noisy=False)
        return lambda: self._errors_of(batch, target, noisy=False)[0]

    def update_settings(self) -> tuple[Hashable, ...]:
        """See :meth:`CompiledTraining.update_settings`."""
        return self.double_q, self.prioritized, self.priority_exponent, self.max_grad_norm, self.q_net.noisy

    def _check_loaded_buffer(self, buffer: ReplayBuffer) -> None:
        expected = self._buffer_class()
        if type(buffer) is not expected:
            raise ValueError(
                f"The saved replay buffer is a {type(buffer).__name__}, but prioritized={self.prioritized} needs a "
                f"{expected.__name__}."
            )
        super()._check_loaded_buffer(buffer)

    def _excluded_save_params(self) -> list[str]:
        aliases = ["q_net", "q_net_target", "batch_norm_stats", "batch_norm_stats_target"]
        return [*super()._excluded_save_params(), *aliases, *_NOT_SAVED]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in _NOT_SAVED}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _of_actions(output: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    :param output: (batch, n_actions, n_atoms)
    :param actions: (batch, 1) int64
    :return: (batch, n_atoms)
    """
    return output.gather(1, actions.unsqueeze(2).expand(-1, -1, output.shape[2])).squeeze(1)
