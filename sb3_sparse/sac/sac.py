"""SAC with a compiled update."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import stable_baselines3
import torch as th

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.training.compiled_training import CompiledTraining, Constants, copy_statistics, frozen, smallest, total_error
from sb3_sparse.training.static_samples import Samples


class SAC(CompiledTraining, stable_baselines3.SAC):
    """
    Stable-Baselines3's SAC with a faster update: the same arguments, checkpoints, callbacks and logged values, and the same
    numbers for the same batches and noise, up to rounding. Further arguments: :class:`CompiledTraining`.

    ``update_rule="paper"`` is the update of the paper's code (SimBa's): actor, temperature, then critic with the new actor and
    temperature, then target; the critic's loss is the mean squared error without the factor 1/2, the temperature's is
    ``exp(log_alpha) (entropy - target)``.
    """

    known_as = replace(STOCK[stable_baselines3.SAC], name="SAC", mark="update_rule")

    def _optimizers(self) -> list[th.optim.Optimizer]:
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.ent_coef_optimizer is None else [*optimizers, self.ent_coef_optimizer]

    def _constants(self) -> Constants:
        return Constants(self.gamma, self.tau, target_entropy=self.target_entropy)  # type: ignore[arg-type]

    def _replaceable(self) -> list[Any]:
        temperature = self.ent_coef_tensor if self.ent_coef_optimizer is None else self.log_ent_coef
        return [*super()._replaceable(), temperature]

    def _variant(self, gradient_step: int) -> bool:
        return gradient_step % self.target_update_interval == 0

    def _loss_names(self, variant: bool) -> Sequence[str]:
        names = ("ent_coef", "actor_loss", "critic_loss")
        return names if self.ent_coef_optimizer is None else (*names, "ent_coef_loss")

    def _update(self, samples: Samples, constants: Constants, variant: bool) -> list[th.Tensor]:
        update = self._update_as_paper if self.update_rule == "paper" else self._update_as_sb3
        losses = update(samples, constants)
        if variant:
            self._average(self.critic, self.critic_target, constants.tau)
            copy_statistics(self.batch_norm_stats, self.batch_norm_stats_target)
        return losses

    def _update_as_sb3(self, samples: Samples, constants: Constants) -> list[th.Tensor]:
        actions, log_prob = self._act(samples.observations)
        temperature = self._temperature()
        temperature_losses = self._update_temperature(log_prob, constants)
        target = self._target(samples, constants, temperature)
        critic_loss = 0.5 * self._critic_error(samples, target)
        self._step_optimizer(self.critic.optimizer, critic_loss)
        actor_loss = self._actor_loss(samples, actions, log_prob, temperature)
        self._step_optimizer(self.actor.optimizer, actor_loss)
        return _scalars(temperature, actor_loss, critic_loss, *temperature_losses)

    def _update_as_paper(self, samples: Samples, constants: Constants) -> list[th.Tensor]:
        actions, log_prob = self._act(samples.observations)
        temperature = self._temperature()
        actor_loss = self._actor_loss(samples, actions, log_prob, temperature)
        self._step_optimizer(self.actor.optimizer, actor_loss)
        temperature_losses = self._update_temperature(log_prob, constants)
        target = self._target(samples, constants, self._temperature())
        critic_loss = self._critic_error(samples, target)
        self._step_optimizer(self.critic.optimizer, critic_loss)
        return _scalars(temperature, actor_loss, critic_loss, *temperature_losses)

    def _act(self, observations: Any) -> tuple[th.Tensor, th.Tensor]:
        actions, log_prob = self.actor.action_log_prob(observations)
        return actions, log_prob.reshape(-1, 1)

    def _temperature(self) -> th.Tensor:
        # A copy: the temperature is stepped in place.
        return self.ent_coef_tensor if self.log_ent_coef is None else th.exp(self.log_ent_coef.detach())

    def _update_temperature(self, log_prob: th.Tensor, constants: Constants) -> list[th.Tensor]:
        if self.ent_coef_optimizer is None:
            return []
        assert self.log_ent_coef is not None
        scale = self.log_ent_coef.exp() if self.update_rule == "paper" else self.log_ent_coef
        loss = -(scale * (log_prob.detach() + constants.target_entropy)).mean()
        self._step_optimizer(self.ent_coef_optimizer, loss)
        return [loss]

    @th.no_grad()
    def _target(self, samples: Samples, constants: Constants, temperature: th.Tensor) -> th.Tensor:
        actions, log_prob = self._act(samples.next_observations)
        q_values = smallest(self.critic_target(samples.next_observations, actions))
        discounts = constants.gamma if samples.discounts is None else samples.discounts
        return samples.rewards + (1 - samples.dones) * discounts * (q_values - temperature * log_prob)

    def _critic_error(self, samples: Samples, target: th.Tensor) -> th.Tensor:
        return total_error(self.critic(samples.observations, samples.actions), target)

    def _actor_loss(self, samples: Samples, actions: th.Tensor, log_prob: th.Tensor, temperature: th.Tensor) -> th.Tensor:
        with frozen(set(self.critic.parameters()) - set(self.actor.parameters())):
            q_values = smallest(self.critic(samples.observations, actions))
        return (temperature * log_prob - q_values).mean()


def _scalars(*losses: th.Tensor) -> list[th.Tensor]:
    return [loss.detach().reshape(()) for loss in losses]
