"""TD3 and DDPG with a compiled update."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, ClassVar

import stable_baselines3
import torch as th

from sb3_sparse.algorithms.known_algorithms import STOCK
from sb3_sparse.algorithms.losses import mean_over_samples, squared_errors, td3_actor_losses, td3_next_actions, td3_target
from sb3_sparse.arguments import check_choice
from sb3_sparse.training.batches import Samples
from sb3_sparse.training.stock_training import StockTraining
from sb3_sparse.training.weight_updates import copy_statistics


class TD3Training(StockTraining):
    """
    Mixin for SB3's TD3 and DDPG: their gradient step.

    :param args: Positional arguments of the SB3 algorithm
    :param update_rule: "sb3" for the order and losses of SB3, "paper" for those of the paper's code (DDPG only)
    :param kwargs: Keyword arguments of the SB3 algorithm and of :class:`CompiledTraining`
    :raises ValueError: for an unknown rule.
    """

    has_paper_rule: ClassVar[bool] = True
    actor_target: Any
    critic_target: Any
    policy_delay: int
    target_policy_noise: float
    target_noise_clip: float
    actor_batch_norm_stats: list[th.Tensor]
    actor_batch_norm_stats_target: list[th.Tensor]
    critic_batch_norm_stats: list[th.Tensor]
    critic_batch_norm_stats_target: list[th.Tensor]

    def __init__(self, *args: Any, update_rule: str = "sb3", **kwargs: Any) -> None:
        if update_rule == "paper" and not self.has_paper_rule:
            raise ValueError(f"The paper has no {type(self).__name__}, so there is no update_rule='paper': use SAC or DDPG.")
        self.update_rule = check_choice("update_rule", update_rule, ("sb3", "paper"))
        super().__init__(*args, **kwargs)

    def _needs_compiled_update(self) -> str:
        return "update_rule='paper'" if self.update_rule == "paper" else ""

    def update_settings(self) -> tuple[Hashable, ...]:
        """See :meth:`CompiledTraining.update_settings`."""
        return self.update_rule, self.gamma, self.tau, self.target_policy_noise, self.target_noise_clip

    def is_full(self, step: int) -> bool:
        """See :meth:`CompiledTraining.is_full`: with an update of the actor and of the targets."""
        return self._n_updates % self.policy_delay == 0

    def gradient_step(self, samples: Samples, full: bool) -> dict[str, th.Tensor]:
        """See :meth:`CompiledTraining.gradient_step`."""
        if self.update_rule == "paper":
            return self._update_as_paper(samples)
        critic_loss = self._update_critic(samples, td3_target(self, samples, td3_next_actions(self, samples)))
        if not full:
            return {"critic_loss": critic_loss}
        actor_loss = self._update_actor(samples, self.actor(samples.observations))
        self._update_targets()
        return {"critic_loss": critic_loss, "actor_loss": actor_loss}

    def _update_as_paper(self, samples: Samples) -> dict[str, th.Tensor]:
        actor_loss = self._update_actor(samples, self._noisy(self.actor(samples.observations)))
        with th.no_grad():
            next_actions = self._noisy(self.actor(samples.next_observations))
        critic_loss = self._update_critic(samples, td3_target(self, samples, next_actions))
        self._update_targets()
        return {"critic_loss": critic_loss, "actor_loss": actor_loss}

    def _noisy(self, actions: th.Tensor) -> th.Tensor:
        return (actions + self.target_policy_noise * th.randn_like(actions)).clamp(-1, 1)

    def _update_critic(self, samples: Samples, target: th.Tensor) -> th.Tensor:
        loss = mean_over_samples(squared_errors(self.critic(samples.observations, samples.actions), target))
        self._weights.step(loss, self.critic.optimizer)
        return loss

    def _update_actor(self, samples: Samples, actions: th.Tensor) -> th.Tensor:
        loss = td3_actor_losses(self, samples, actions).mean()
        self._weights.step(loss, self.actor.optimizer)
        return loss

    def _update_targets(self) -> None:
        self._weights.average(self.critic, self.critic_target, self.tau)
        self._weights.average(self.actor, self.actor_target, self.tau)
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
