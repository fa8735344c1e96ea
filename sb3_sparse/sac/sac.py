"""SAC with a compiled update."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import stable_baselines3
import torch as th

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.algorithms.losses import act, mean_over_samples, sac_actor_losses, sac_target, squared_errors, temperature
from sb3_sparse.arguments import check_choice
from sb3_sparse.training.batches import Samples
from sb3_sparse.training.stock_training import StockTraining
from sb3_sparse.training.weight_updates import copy_statistics


class SAC(StockTraining, stable_baselines3.SAC):
    """
    Stable-Baselines3's SAC with a faster update: the same arguments, checkpoints, callbacks and logged values, and the same
    numbers for the same batches and noise, up to rounding. Further arguments: :class:`CompiledTraining`.

    ``update_rule="paper"`` is the update of the paper's code (SimBa's): actor, temperature, then critic with the new actor and
    temperature, then target; the critic's loss is the mean squared error without the factor 1/2, the temperature's is
    ``exp(log_alpha) (entropy - target)``.

    :param args: Positional arguments of SB3's SAC
    :param update_rule: "sb3" for the order and losses of SB3, "paper" for those of the paper's code
    :param kwargs: Keyword arguments of SB3's SAC and of :class:`CompiledTraining`
    :raises ValueError: for an unknown rule.
    """

    known_as = replace(STOCK[stable_baselines3.SAC], name="SAC", mark="update_rule")

    def __init__(self, *args: Any, update_rule: str = "sb3", **kwargs: Any) -> None:
        self.update_rule = check_choice("update_rule", update_rule, ("sb3", "paper"))
        super().__init__(*args, **kwargs)

    def _needs_compiled_update(self) -> str:
        return "update_rule='paper'" if self.update_rule == "paper" else ""

    def update_settings(self) -> tuple[Hashable, ...]:
        """See :meth:`CompiledTraining.update_settings`."""
        return self.update_rule, self.gamma, self.tau, self.target_entropy

    def is_full(self, step: int) -> bool:
        """See :meth:`CompiledTraining.is_full`: with an update of the target critic."""
        return step % self.target_update_interval == 0

    def gradient_step(self, samples: Samples, full: bool) -> dict[str, th.Tensor]:
        """See :meth:`CompiledTraining.gradient_step`."""
        losses = self._update_as_paper(samples) if self.update_rule == "paper" else self._update_as_sb3(samples)
        if full:
            self._weights.average(self.critic, self.critic_target, self.tau)
            copy_statistics(self.batch_norm_stats, self.batch_norm_stats_target)
        return losses

    def _update_as_sb3(self, samples: Samples) -> dict[str, th.Tensor]:
        actions, log_prob = act(self, samples.observations)
        weight = temperature(self)
        temperature_loss = self._update_temperature(log_prob)
        critic_loss = 0.5 * self._critic_loss(samples, sac_target(self, samples, weight))
        self._weights.step(critic_loss, self.critic.optimizer)
        actor_loss = sac_actor_losses(self, samples, actions, log_prob, weight).mean()
        self._weights.step(actor_loss, self.actor.optimizer)
        return {"ent_coef": weight, "actor_loss": actor_loss, "critic_loss": critic_loss, **temperature_loss}

    def _update_as_paper(self, samples: Samples) -> dict[str, th.Tensor]:
        actions, log_prob = act(self, samples.observations)
        weight = temperature(self)
        actor_loss = sac_actor_losses(self, samples, actions, log_prob, weight).mean()
        self._weights.step(actor_loss, self.actor.optimizer)
        temperature_loss = self._update_temperature(log_prob)
        critic_loss = self._critic_loss(samples, sac_target(self, samples, temperature(self)))
        self._weights.step(critic_loss, self.critic.optimizer)
        return {"ent_coef": weight, "actor_loss": actor_loss, "critic_loss": critic_loss, **temperature_loss}

    def _critic_loss(self, samples: Samples, target: th.Tensor) -> th.Tensor:
        return mean_over_samples(squared_errors(self.critic(samples.observations, samples.actions), target))

    def _update_temperature(self, log_prob: th.Tensor) -> dict[str, th.Tensor]:
        if self.ent_coef_optimizer is None:
            return {}
        assert self.log_ent_coef is not None
        scale = self.log_ent_coef.exp() if self.update_rule == "paper" else self.log_ent_coef
        loss = -scale * (log_prob.detach().mean() + self.target_entropy)  # type: ignore[operator]
        self._weights.step(loss, self.ent_coef_optimizer)
        return {"ent_coef_loss": loss}
