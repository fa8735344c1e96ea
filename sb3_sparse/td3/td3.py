"""TD3 and DDPG with a compiled update."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import stable_baselines3
import torch as th

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.training.compiled_training import CompiledTraining, Constants, copy_statistics, frozen, smallest, total_error
from sb3_sparse.training.static_samples import Samples


class TD3Training(CompiledTraining):
    """Mixin for SB3's TD3 and DDPG: their gradient step."""

    actor_target: Any
    critic_target: Any
    policy_delay: int
    target_policy_noise: float
    target_noise_clip: float
    actor_batch_norm_stats: list[th.Tensor]
    actor_batch_norm_stats_target: list[th.Tensor]
    critic_batch_norm_stats: list[th.Tensor]
    critic_batch_norm_stats_target: list[th.Tensor]

    def _optimizers(self) -> list[th.optim.Optimizer]:
        return [self.actor.optimizer, self.critic.optimizer]

    def _constants(self) -> Constants:
        return Constants(self.gamma, self.tau, noise=self.target_policy_noise, noise_clip=self.target_noise_clip)

    def _variant(self, gradient_step: int) -> bool:
        return self._n_updates % self.policy_delay == 0

    def _loss_names(self, variant: bool) -> Sequence[str]:
        return ("critic_loss", "actor_loss") if variant else ("critic_loss",)

    def _update(self, samples: Samples, constants: Constants, variant: bool) -> list[th.Tensor]:
        if self.update_rule == "paper":
            return self._update_as_paper(samples, constants)
        critic_loss = self._update_critic(samples, self._target(samples, self._next_actions(samples, constants), constants))
        if not variant:
            return [critic_loss]
        actor_loss = self._update_actor(samples, self.actor(samples.observations))
        self._update_targets(constants)
        return [critic_loss, actor_loss]

    def _update_as_paper(self, samples: Samples, constants: Constants) -> list[th.Tensor]:
        actor_loss = self._update_actor(samples, self._noisy(self.actor(samples.observations), constants))
        with th.no_grad():
            next_actions = self._noisy(self.actor(samples.next_observations), constants)
        critic_loss = self._update_critic(samples, self._target(samples, next_actions, constants))
        self._update_targets(constants)
        return [critic_loss, actor_loss]

    def _noisy(self, actions: th.Tensor, constants: Constants) -> th.Tensor:
        return (actions + constants.noise * th.randn_like(actions)).clamp(-1, 1)

    @th.no_grad()
    def _next_actions(self, samples: Samples, constants: Constants) -> th.Tensor:
        noise = th.empty_like(samples.actions).normal_(0, constants.noise)
        noise = noise.clamp(-constants.noise_clip, constants.noise_clip)
        return (self.actor_target(samples.next_observations) + noise).clamp(-1, 1)

    @th.no_grad()
    def _target(self, samples: Samples, next_actions: th.Tensor, constants: Constants) -> th.Tensor:
        q_values = smallest(self.critic_target(samples.next_observations, next_actions))
        discounts = constants.gamma if samples.discounts is None else samples.discounts
        return samples.rewards + (1 - samples.dones) * discounts * q_values

    def _update_critic(self, samples: Samples, target: th.Tensor) -> th.Tensor:
        loss = total_error(self.critic(samples.observations, samples.actions), target)
        self._step_optimizer(self.critic.optimizer, loss)
        return loss.detach()

    def _update_actor(self, samples: Samples, actions: th.Tensor) -> th.Tensor:
        with frozen(set(self.critic.parameters()) - set(self.actor.parameters())):
            loss = -self.critic.q1_forward(samples.observations, actions).mean()
        self._step_optimizer(self.actor.optimizer, loss)
        return loss.detach()

    def _update_targets(self, constants: Constants) -> None:
        self._average(self.critic, self.critic_target, constants.tau)
        self._average(self.actor, self.actor_target, constants.tau)
        copy_statistics(self.critic_batch_norm_stats, self.critic_batch_norm_stats_target)
        copy_statistics(self.actor_batch_norm_stats, self.actor_batch_norm_stats_target)


class TD3(TD3Training, stable_baselines3.TD3):
    """
    Stable-Baselines3's TD3 with a faster update: the same arguments, checkpoints, callbacks and logged values, and the same
    numbers for the same batches and noise, up to rounding. Further arguments: :class:`CompiledTraining`.

    The paper has no TD3, so there is no ``update_rule="paper"``.
    """

    known_as = replace(STOCK[stable_baselines3.TD3], name="TD3", mark="update_rule")
    has_paper_rule = False


class DDPG(TD3Training, stable_baselines3.DDPG):
    """
    Stable-Baselines3's DDPG with a faster update: the same arguments, checkpoints, callbacks and logged values, and the same
    numbers for the same batches and noise, up to rounding. Further arguments: :class:`CompiledTraining`.

    ``update_rule="paper"`` is the update of the paper's code (SimBa's): the actor first, then the critic; Gaussian noise of
    standard deviation 0.1 (``target_policy_noise``) on the actions of the actor's loss and of the target, which the online
    actor chooses. The target actor is averaged all the same, for a training that goes on with SB3's rule.
    """

    known_as = replace(STOCK[stable_baselines3.DDPG], name="DDPG", mark="update_rule")
