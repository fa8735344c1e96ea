"""The losses of SB3's algorithms, sample by sample: a compiled update takes their mean, diagnostics and RigL the vector."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
import torch.nn.functional as F
from sb3_contrib.common.utils import quantile_huber_loss
from torch import nn

# Runs a network and returns its losses, (samples,).
Losses = Callable[[], th.Tensor]
# Takes a model and a batch of its replay buffer. Targets are computed at once, without gradients; noise is drawn from torch's
# generator.
SampleLosses = Callable[[Any, Any], Losses]


def smallest(q_values: Sequence[th.Tensor]) -> th.Tensor:
    """
    Take the smallest of what several critics say.

    :param q_values: (batch, 1) of each critic
    :return: (batch, 1)
    """
    if len(q_values) == 1:
        return q_values[0]
    return th.cat(list(q_values), dim=1).min(dim=1, keepdim=True).values


def bellman_target(model: Any, batch: Any, next_values: th.Tensor) -> th.Tensor:
    """
    :param model: Model, whose discount holds where the batch has none
    :param batch: Batch
    :param next_values: (batch, any) values of the next observations
    :return: The same shape
    """
    discounts = model.gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values


def squared_errors(q_values: Sequence[th.Tensor], target: th.Tensor) -> list[th.Tensor]:
    """
    :param q_values: (batch, 1) of each critic
    :param target: (batch, 1)
    :return: (batch, 1) of each critic
    """
    return [F.mse_loss(q, target, reduction="none") for q in q_values]


def mean_over_samples(errors: Sequence[th.Tensor]) -> th.Tensor:
    """
    :param errors: (batch, 1) of each critic
    :return: Scalar, the sum of their means
    """
    first, *others = [error.mean() for error in errors]
    return sum(others, start=first)


def sum_over_critics(errors: Sequence[th.Tensor]) -> th.Tensor:
    """
    :param errors: (batch, 1) of each critic
    :return: (batch,)
    """
    return th.cat(list(errors), dim=1).sum(1)


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """
    Compute no gradients of these parameters while this is open.

    :param parameters: Parameters that a loss is not for
    """
    moving = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


def _of_others(module: nn.Module, own: nn.Module) -> list[nn.Parameter]:
    """Parameters of a module that another one does not share."""
    shared = _parameters(own)
    return [parameter for key, parameter in _parameters(module).items() if key not in shared]


def _parameters(module: nn.Module) -> dict[int, nn.Parameter]:
    """What ``parameters()`` tells, by identity, in a fraction of its time, which is that of a small product."""
    found = {id(parameter): parameter for parameter in module._parameters.values() if parameter is not None}
    for child in module._modules.values():
        if child is not None:
            found.update(_parameters(child))
    return found


def temperature(model: Any) -> th.Tensor:
    """
    :param model: SAC, TQC or CrossQ
    :return: Present weight of the entropy, a copy
    """
    return model.ent_coef_tensor if model.ent_coef_optimizer is None else th.exp(model.log_ent_coef.detach())


def act(model: Any, observations: Any) -> tuple[th.Tensor, th.Tensor]:
    """
    Sample actions of a squashed normal distribution.

    :param model: SAC or TQC
    :param observations: (batch, ...)
    :return: Actions, and their log-probabilities, (batch, 1)
    """
    actions, log_prob = model.actor.action_log_prob(observations)
    return actions, log_prob.reshape(-1, 1)


@th.no_grad()
def sac_target(model: Any, batch: Any, weight: th.Tensor) -> th.Tensor:
    """
    :param model: SAC
    :param batch: Batch
    :param weight: Weight of the entropy
    :return: (batch, 1)
    """
    actions, log_prob = act(model, batch.next_observations)
    return bellman_target(model, batch, smallest(model.critic_target(batch.next_observations, actions)) - weight * log_prob)


def sac_actor_losses(model: Any, batch: Any, actions: th.Tensor, log_prob: th.Tensor, weight: th.Tensor) -> th.Tensor:
    """
    :param model: SAC
    :param batch: Batch
    :param actions: Actions of the actor
    :param log_prob: (batch, 1)
    :param weight: Weight of the entropy
    :return: (batch, 1)
    """
    with frozen(_of_others(model.critic, model.actor)):
        q_values = smallest(model.critic(batch.observations, actions))
    return weight * log_prob - q_values


@th.no_grad()
def td3_next_actions(model: Any, batch: Any) -> th.Tensor:
    """
    :param model: TD3 or DDPG
    :param batch: Batch
    :return: Actions of the target actor, with noise
    """
    noise = th.empty_like(batch.actions).normal_(0, model.target_policy_noise)
    noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
    return (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)


@th.no_grad()
def td3_target(model: Any, batch: Any, next_actions: th.Tensor) -> th.Tensor:
    """
    :param model: TD3 or DDPG
    :param batch: Batch
    :param next_actions: Actions after it
    :return: (batch, 1)
    """
    return bellman_target(model, batch, smallest(model.critic_target(batch.next_observations, next_actions)))


def td3_actor_losses(model: Any, batch: Any, actions: th.Tensor) -> th.Tensor:
    """
    :param model: TD3 or DDPG
    :param batch: Batch
    :param actions: Actions of the actor
    :return: (batch, 1)
    """
    with frozen(_of_others(model.critic, model.actor)):
        return -model.critic.q1_forward(batch.observations, actions)


def _sac_critic(model: Any, batch: Any) -> Losses:
    target = sac_target(model, batch, temperature(model))
    return lambda: 0.5 * sum_over_critics(squared_errors(model.critic(batch.observations, batch.actions), target))


def _sac_actor(model: Any, batch: Any) -> Losses:
    return lambda: sac_actor_losses(model, batch, *act(model, batch.observations), temperature(model)).reshape(-1)


def _td3_critic(model: Any, batch: Any) -> Losses:
    target = td3_target(model, batch, td3_next_actions(model, batch))
    return lambda: sum_over_critics(squared_errors(model.critic(batch.observations, batch.actions), target))


def _td3_actor(model: Any, batch: Any) -> Losses:
    return lambda: td3_actor_losses(model, batch, model.actor(batch.observations)).reshape(-1)


@th.no_grad()
def _tqc_target(model: Any, batch: Any) -> th.Tensor:
    actions, log_prob = act(model, batch.next_observations)
    quantiles = model.critic_target(batch.next_observations, actions).flatten(1).sort(dim=1).values
    kept = model.critic.quantiles_total - model.top_quantiles_to_drop_per_net * model.critic.n_critics
    return bellman_target(model, batch, quantiles[:, :kept] - temperature(model) * log_prob).unsqueeze(1)


def _tqc_critic(model: Any, batch: Any) -> Losses:
    target = _tqc_target(model, batch)

    def losses() -> th.Tensor:
        current = model.critic(batch.observations, batch.actions)
        pairs = zip(current.split(1), target.split(1), strict=True)
        return th.stack([quantile_huber_loss(c, t, sum_over_quantiles=False) for c, t in pairs])

    return losses


def _tqc_actor(model: Any, batch: Any) -> Losses:
    def losses() -> th.Tensor:
        actions, log_prob = act(model, batch.observations)
        values = model.critic(batch.observations, actions).flatten(1).mean(dim=1)
        return temperature(model) * log_prob.reshape(-1) - values

    return losses


def _dqn_q_net(model: Any, batch: Any) -> Losses:
    with th.no_grad():
        values = model.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
        target = bellman_target(model, batch, values)

    def losses() -> th.Tensor:
        current = model.q_net(batch.observations).gather(1, batch.actions.long())
        return F.smooth_l1_loss(current, target, reduction="none").reshape(-1)

    return losses


SAC_LOSSES: Mapping[str, SampleLosses] = {"critic": _sac_critic, "actor": _sac_actor}
TD3_LOSSES: Mapping[str, SampleLosses] = {"critic": _td3_critic, "actor": _td3_actor}
TQC_LOSSES: Mapping[str, SampleLosses] = {"critic": _tqc_critic, "actor": _tqc_actor}
DQN_LOSSES: Mapping[str, SampleLosses] = {"q_net": _dqn_q_net}
