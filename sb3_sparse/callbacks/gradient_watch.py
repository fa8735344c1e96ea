"""Gradients as the optimizer gets them."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from torch import nn


class GradientWatch:
    """
    Reads the norm of each network's gradient at the next step of its optimizer, before anything else can add to it: after
    SAC's ``train()`` the critic's ``.grad`` also holds the gradient of the actor's loss.

    If the algorithm clips gradients (DQN), the clipped ones are read. Call :meth:`close` outside a step.

    :param optimizers: Optimizers to watch
    :param networks: Name -> network
    """

    def __init__(self, optimizers: Iterable[th.optim.Optimizer], networks: Mapping[str, nn.Module]):
        self.networks = dict(networks)
        # Network -> parameter -> norm of its gradient.
        self.norms: dict[str, dict[str, th.Tensor]] = {}
        self._handles = [optimizer.register_step_pre_hook(self._read) for optimizer in optimizers]

    @property
    def is_complete(self) -> bool:
        """Whether every network's gradient was read."""
        return len(self.norms) == len(self.networks)

    def close(self) -> None:
        """Stop watching. Not within a step: torch iterates over the hooks while it calls them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _read(self, optimizer: th.optim.Optimizer, *_: Any) -> None:
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, network in self.networks.items():
            if name not in self.norms:
                found = {
                    key: parameter.grad
                    for key, parameter in network.named_parameters()
                    if id(parameter) in own and parameter.grad is not None
                }
                if found:
                    self.norms[name] = gradient_norms(found)


def gradient_norms(gradients: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    """
    Norm of every gradient by itself, left on its device.

    :param gradients: Parameter -> gradient
    """
    norms = th._foreach_norm([gradient.detach() for gradient in gradients.values()])
    return dict(zip(gradients, norms, strict=True))
