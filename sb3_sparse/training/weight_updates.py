"""The writes of an update to weights: steps of optimizers, and target networks that follow."""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_sparse.sparsity.products.dense_weights import DenseWeights
from sb3_sparse.training.parameter_updates import ParameterUpdates, forget_gradients
from sb3_sparse.training.warn_once import WarnOnce


class WeightUpdates:
    """
    Writes the weights of a model. As nobody else does so during an update, dense matrices of sparse layers can be kept between
    these writes.

    :param model: Model
    :param warn: Says what is not trained
    """

    def __init__(self, model: OffPolicyAlgorithm, warn: WarnOnce):
        self.model, self.warn = model, warn
        self.dense, self._updates = DenseWeights(), ParameterUpdates()

    def step(self, loss: th.Tensor, *optimizers: th.optim.Optimizer, max_grad_norm: float | None = None) -> None:
        """
        Step the optimizers of the networks that a loss trains. Nothing happens if all that it could train is frozen: critics
        are no part of an actor's loss here, so there may be nothing to differentiate.

        :param loss: Scalar
        :param optimizers: Optimizers
        :param max_grad_norm: Bound of the gradient's norm, None for none
        """
        if not loss.requires_grad:
            self._warn_of_frozen(optimizers)
            return
        for optimizer in optimizers:
            forget_gradients(optimizer)
        loss.backward()
        for optimizer in optimizers:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            self._updates.step(optimizer)
            self.dense.expire(parameters)

    def average(self, network: nn.Module, target: nn.Module, tau: float) -> None:
        """
        Move a target network towards its online network.

        :param network: Online network
        :param target: Target network
        :param tau: Weight of the online network
        """
        self.dense.expire(self._updates.average(network, target, tau))

    def _warn_of_frozen(self, optimizers: Sequence[th.optim.Optimizer]) -> None:
        owners = [(name, getattr(part, "optimizer", None)) for name, part in self.model.policy.named_modules()]
        names = [name or "policy" for name, owned in owners if any(owned is optimizer for optimizer in optimizers)]
        self.warn(
            f"{type(self.model).__name__} does not train {' and '.join(names) or 'the temperature'}: all parameters are "
            "frozen (requires_grad=False)."
        )


def copy_statistics(statistics: Sequence[th.Tensor], copies: Sequence[th.Tensor]) -> None:
    """
    Give a target network the running statistics of its online network, as SB3 does.

    :param statistics: Of the online network
    :param copies: Of the target network
    """
    for statistic, copy in zip(statistics, copies, strict=True):
        copy.copy_(statistic)
