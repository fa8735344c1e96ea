"""The part of DER that acts."""

from typing import Any

import torch as th
from torch import nn

from sb3_sparse.algorithms.acting_networks import ActingNetwork, plain
from sb3_sparse.networks import NoisyLinear


class Dueling(nn.Module):
    """
    Values of all actions from their advantages and a value, which follow each other (Wang et al., 2016, equation 9).

    :param atoms: Numbers per action
    """

    def __init__(self, atoms: int):
        super().__init__()
        self.atoms = atoms

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, (n_actions + 1) * atoms)
        :return: (batch, n_actions * atoms)
        """
        parts = output.view(len(output), -1, self.atoms)
        advantage, value = parts[:, :-1], parts[:, -1:]
        return (value + advantage - advantage.mean(dim=1, keepdim=True)).flatten(1)


class Expectation(nn.Module):
    """
    Expected values of categorical distributions.

    :param support: (atoms,) their values
    """

    def __init__(self, support: th.Tensor):
        super().__init__()
        self.support = nn.Buffer(support)

    def forward(self, logits: th.Tensor) -> th.Tensor:
        """
        :param logits: (batch, n_actions * atoms)
        :return: (batch, n_actions)
        """
        return th.softmax(logits.view(len(logits), -1, len(self.support)), dim=2) @ self.support


class RainbowValues(ActingNetwork):
    """The expected values of all actions, as DER has them."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.q_net = plain(model.policy.q_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.q_net.q_values(observation)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        head, atoms = self.q_net.head, self.q_net.head.n_atoms
        parts = [self.q_net.features_extractor, *map(_quiet, head.hidden)]
        if head.value is None:
            parts.append(_quiet(head.advantage))
        else:
            parts += [_stacked(_quiet(head.advantage), _quiet(head.value)), Dueling(atoms)]
        return [*parts, Expectation(self.q_net.support)] if self.q_net.distributional else parts


def _quiet(layer: nn.Module) -> nn.Module:
    """A noisy layer without its noise."""
    if not isinstance(layer, NoisyLinear):
        return layer
    return _linear(layer.weight_mu, layer.bias_mu)


def _stacked(*layers: Any) -> nn.Linear:
    """One layer that returns what several do, one after the other."""
    return _linear(th.cat([layer.weight for layer in layers]), th.cat([layer.bias for layer in layers]))


def _linear(weight: th.Tensor, bias: th.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with th.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
