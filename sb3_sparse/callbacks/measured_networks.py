"""The networks of a model, and how each is run on a batch of its replay buffer."""

from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_sparse.algorithms.acting_networks import SquashedMean
from sb3_sparse.algorithms.own_algorithm import TellsNetworks, known_algorithm
from sb3_sparse.diagnostics import Recording, record
from sb3_sparse.diagnostics.measured_network import MeasuredNetwork, mean_value
from sb3_sparse.sparsity.optimizers import optimizers_of

__all__ = ["MeasuredNetwork", "measured_networks", "optimizers_with", "run"]


def measured_networks(model: BaseAlgorithm) -> dict[str, MeasuredNetwork]:
    """
    Find the online networks of an off-policy model: actor, critic (all of several together), Q-network, quantile network, or
    what a policy says that :class:`TellsNetworks`.

    :param model: Model
    :return: Name -> network
    :raises ValueError: if there is none.
    """
    policy: Any = model.policy
    if isinstance(policy, TellsNetworks):
        return policy.measured_networks()
    found: dict[str, MeasuredNetwork] = {}
    if "actor" in policy._modules:
        # A deterministic action does not need every head of a stochastic actor.
        act = policy.actor.get_action_dist_params if _is_stochastic(model) else policy.actor
        found["actor"] = MeasuredNetwork(policy.actor, lambda batch: act(batch.observations))
    if "critic" in policy._modules:
        found["critic"] = MeasuredNetwork(
            policy.critic, lambda batch: policy.critic(batch.observations, batch.actions), values=mean_value
        )
    if "q_net" in policy._modules:
        values = _chosen_value if isinstance(policy, DQNPolicy) else None
        found["q_net"] = MeasuredNetwork(policy.q_net, lambda batch: policy.q_net(batch.observations), values=values)
    if "quantile_net" in policy._modules:
        found["quantile_net"] = MeasuredNetwork(
            policy.quantile_net, lambda batch: policy.quantile_net(batch.observations), values=_chosen_value
        )
    if not found:
        raise ValueError(f"Don't know the networks of {type(policy).__name__}: neither actor and critic nor a Q-network.")
    return found


def _is_stochastic(model: BaseAlgorithm) -> bool:
    row = known_algorithm(model)
    return row is not None and row.acting is SquashedMean


def _chosen_value(output: th.Tensor, batch: Any) -> th.Tensor:
    """Of (batch, n_actions) values, or (batch, n_quantiles, n_actions) quantiles."""
    values = output if output.ndim == 2 else output.mean(dim=1)
    return values.gather(1, batch.actions.long().reshape(-1, 1)).squeeze(1)


def run(network: MeasuredNetwork, batch: Any) -> Recording:
    """
    Run a network and keep what its units did.

    :param network: One of :func:`measured_networks`
    :param batch: Batch of the replay buffer
    """
    return record(network.module, lambda: network.forward(batch), network.is_encoder)


def optimizers_with(model: BaseAlgorithm, module: nn.Module) -> list[th.optim.Optimizer]:
    """
    Find the optimizers that train a network.

    :param model: Model
    :param module: One of its networks
    """
    own = {id(parameter) for parameter in module.parameters()}
    return [
        optimizer
        for optimizer in optimizers_of(model.policy)
        if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
    ]
