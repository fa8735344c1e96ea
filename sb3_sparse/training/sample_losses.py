"""The losses of SB3's algorithms, sample by sample."""

from collections.abc import Callable
from typing import Any

import torch as th
import torch.nn.functional as F
from sb3_contrib import TQC
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

Losses = Callable[[], th.Tensor]


def sample_losses(model: BaseAlgorithm, network: str, batch: Any) -> Losses | None:
    """
    The loss that an algorithm trains a network with, for every sample of a batch by itself; its mean is SB3's loss. A model
    can offer its own by a method ``sample_losses(network, batch)`` of the same result.

    Targets are computed at once, without gradients; noise is drawn from torch's generator.

    :param model: Off-policy model
    :param network: Name of one of its networks, e.g. "critic"
    :param batch: Batch of its replay buffer
    :return: Function that runs the network and returns the losses, (samples,); None if they are not known
    """
    if hasattr(model, "sample_losses"):
        return model.sample_losses(network, batch)
    for kind, losses in _LOSSES.items():
        if isinstance(model, kind):
            return losses[network](model, batch) if network in losses else None
    return None


def knows_sample_losses(model: BaseAlgorithm, network: str) -> bool:
    """
    Tell whether :func:`sample_losses` knows a loss.

    :param model: Off-policy model
    :param network: Name of one of its networks
    """
    if hasattr(model, "sample_losses"):
        return True
    return any(network in losses for kind, losses in _LOSSES.items() if isinstance(model, kind))


def _discounts(model: Any, batch: Any) -> Any:
    return model.gamma if batch.discounts is None else batch.discounts


def _bellman(model: Any, batch: Any, next_values: th.Tensor) -> th.Tensor:
    return batch.rewards + (1 - batch.dones) * _discounts(model, batch) * next_values


def temperature(model: Any) -> th.Tensor:
    """
    :param model: SAC, TQC or CrossQ
    :return: Present weight of the entropy
    """
    return model.ent_coef_tensor if model.ent_coef_optimizer is None else th.exp(model.log_ent_coef.detach())


@th.no_grad()
def _sac_target(model: SAC, batch: Any) -> th.Tensor:
    actions, log_prob = model.actor.action_log_prob(batch.next_observations)
    values = th.cat(model.critic_target(batch.next_observations, actions), dim=1).min(dim=1, keepdim=True).values
    return _bellman(model, batch, values - temperature(model) * log_prob.reshape(-1, 1))


def _sac_critic(model: SAC, batch: Any) -> Losses:
    target = _sac_target(model, batch)
    return lambda: 0.5 * _squared_errors(model.critic(batch.observations, batch.actions), target)


def _sac_actor(model: SAC, batch: Any) -> Losses:
    def losses() -> th.Tensor:
        actions, log_prob = model.actor.action_log_prob(batch.observations)
        values = th.cat(model.critic(batch.observations, actions), dim=1).min(dim=1).values
        return temperature(model) * log_prob.reshape(-1) - values

    return losses


@th.no_grad()
def _td3_target(model: TD3, batch: Any) -> th.Tensor:
    noise = (th.randn_like(batch.actions) * model.target_policy_noise).clamp(-model.target_noise_clip, model.target_noise_clip)
    actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
    values = th.cat(model.critic_target(batch.next_observations, actions), dim=1).min(dim=1, keepdim=True).values
    return _bellman(model, batch, values)


def _td3_critic(model: TD3, batch: Any) -> Losses:
    target = _td3_target(model, batch)
    return lambda: _squared_errors(model.critic(batch.observations, batch.actions), target)


def _td3_actor(model: TD3, batch: Any) -> Losses:
    return lambda: -model.critic.q1_forward(batch.observations, model.actor(batch.observations)).reshape(-1)


@th.no_grad()
def _tqc_target(model: TQC, batch: Any) -> th.Tensor:
    actions, log_prob = model.actor.action_log_prob(batch.next_observations)
    quantiles = model.critic_target(batch.next_observations, actions).flatten(1).sort(dim=1).values
    kept = model.critic.quantiles_total - model.top_quantiles_to_drop_per_net * model.critic.n_critics
    return _bellman(model, batch, quantiles[:, :kept] - temperature(model) * log_prob.reshape(-1, 1)).unsqueeze(1)


def _tqc_critic(model: TQC, batch: Any) -> Losses:
    target = _tqc_target(model, batch)

    def losses() -> th.Tensor:
        current = model.critic(batch.observations, batch.actions)
        pairs = zip(current.split(1), target.split(1), strict=True)
        return th.stack([quantile_huber_loss(c, t, sum_over_quantiles=False) for c, t in pairs])

    return losses


def _tqc_actor(model: TQC, batch: Any) -> Losses:
    def losses() -> th.Tensor:
        actions, log_prob = model.actor.action_log_prob(batch.observations)
        values = model.critic(batch.observations, actions).flatten(1).mean(dim=1)
        return temperature(model) * log_prob.reshape(-1) - values

    return losses


def _dqn_q_net(model: DQN, batch: Any) -> Losses:
    with th.no_grad():
        values = model.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
        target = _bellman(model, batch, values)

    def losses() -> th.Tensor:
        current = model.q_net(batch.observations).gather(1, batch.actions.long())
        return F.smooth_l1_loss(current, target, reduction="none").reshape(-1)

    return losses


def _squared_errors(values: tuple[th.Tensor, ...], target: th.Tensor) -> th.Tensor:
    return th.stack([(value - target).square().reshape(-1) for value in values]).sum(0)


# By base class: DDPG is a TD3 for SB3. QR-DQN is none of these.
_LOSSES: dict[type[BaseAlgorithm], dict[str, Callable[[Any, Any], Losses]]] = {
    TQC: {"critic": _tqc_critic, "actor": _tqc_actor},
    SAC: {"critic": _sac_critic, "actor": _sac_actor},
    TD3: {"critic": _td3_critic, "actor": _td3_actor},
    DQN: {"q_net": _dqn_q_net},
}
