"""Rainbow's update with a dense IMPALA network, written with nothing but torch: what DER is measured and tested against."""

import copy
import itertools
import math
from typing import NamedTuple

import torch as th
import torch.nn.functional as F
from torch import nn

V_MIN, V_MAX, ATOMS = -10.0, 10.0, 51


class PlainBatch(NamedTuple):
    """
    Transitions of n steps.

    :param observations: (batch, 4, 84, 84) uint8
    :param actions: (batch,) int64
    :param next_observations: (batch, 4, 84, 84) uint8
    :param rewards: (batch,) discounted sums
    :param discounts: (batch,) gamma^n, 0 after a terminal state
    :param weights: (batch,) importance-sampling weights
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor


class PlainNoisyLinear(nn.Module):
    """
    Noisy linear layer with factorised noise.

    :param inputs: Size of the input
    :param outputs: Size of the output
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.mean, self.deviation = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)
        nn.init.constant_(self.deviation.weight, 0.5 / math.sqrt(inputs))
        nn.init.constant_(self.deviation.bias, 0.5 / math.sqrt(inputs))

    def forward(self, x: th.Tensor, noisy: bool) -> th.Tensor:
        """
        :param x: (batch, inputs)
        :param noisy: Whether to draw noise
        """
        if not noisy:
            return self.mean(x)
        into, out = (_scaled(th.randn(size, device=x.device)) for size in self.mean.weight.shape[::-1])
        weight = self.mean.weight + self.deviation.weight * th.outer(out, into)
        return F.linear(x, weight, self.mean.bias + self.deviation.bias * out)


def _scaled(noise: th.Tensor) -> th.Tensor:
    return noise.sign() * noise.abs().sqrt()


class PlainRainbowNetwork(nn.Module):
    """
    IMPALA's convolutions, a noisy hidden layer, dueling distributional heads.

    :param actions: Number of actions
    :param width: Multiplies the channels 16, 32, 32
    """

    def __init__(self, actions: int, width: float = 1.0):
        super().__init__()
        channels = [4, *(round(width * c) for c in (16, 32, 32))]
        self.entries = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(channels))
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(4)) for c in channels[1:])
        self.hidden = PlainNoisyLinear(11 * 11 * channels[-1], 512)
        self.advantage, self.value = PlainNoisyLinear(512, actions * ATOMS), PlainNoisyLinear(512, ATOMS)
        self.register_buffer("support", th.linspace(V_MIN, V_MAX, ATOMS))

    def forward(self, observations: th.Tensor, noisy: bool = True) -> th.Tensor:
        """
        :param observations: (batch, 4, 84, 84) uint8
        :param noisy: Whether to draw noise
        :return: (batch, actions, atoms) logits
        """
        x = observations.float() / 255.0
        for entry, block in zip(self.entries, self.blocks, strict=True):
            x = F.max_pool2d(entry(x), 3, 2, 1)
            for first, second in ((block[0], block[1]), (block[2], block[3])):  # type: ignore[index]
                x = x + second(F.relu(first(F.relu(x))))
        hidden = F.relu(self.hidden(F.relu(x).flatten(1), noisy))
        advantage = self.advantage(hidden, noisy).view(len(x), -1, ATOMS)
        return self.value(hidden, noisy).unsqueeze(1) + advantage - advantage.mean(1, keepdim=True)


class PlainRainbow:
    """
    Online and target network and their update.

    :param actions: Number of actions
    :param width: Width of the network
    :param noisy: Whether updates draw noise
    :param device: Device
    """

    def __init__(self, actions: int, width: float = 1.0, noisy: bool = True, device: th.device | str = "cpu"):
        self.online = PlainRainbowNetwork(actions, width).to(device)
        self.target = copy.deepcopy(self.online)
        self.noisy = noisy
        self.optimizer = th.optim.Adam(self.online.parameters(), lr=1e-4, eps=1.5e-4)

    def update(self, batch: PlainBatch) -> th.Tensor:
        """
        Make one gradient step.

        :param batch: Transitions
        :return: (batch,) losses
        """
        rows = th.arange(len(batch.actions), device=batch.actions.device)
        target = self._target(batch, rows)
        logits = self.online(batch.observations, self.noisy)[rows, batch.actions]
        losses = -(target * F.log_softmax(logits, dim=1)).sum(1)
        self.optimizer.zero_grad()
        (batch.weights * losses).mean().backward()
        self.optimizer.step()
        return losses.detach()

    @th.no_grad()
    def _target(self, batch: PlainBatch, rows: th.Tensor) -> th.Tensor:
        support: th.Tensor = self.online.support  # type: ignore[assignment]
        values = (self.online(batch.next_observations, self.noisy).softmax(2) * support).sum(2)
        probabilities = self.target(batch.next_observations, self.noisy)[rows, values.argmax(1)].softmax(1)
        atoms = (batch.rewards[:, None] + batch.discounts[:, None] * support).clamp(V_MIN, V_MAX)
        places = (atoms - V_MIN) / (V_MAX - V_MIN) * (ATOMS - 1)
        lower, upper = places.floor().long(), places.ceil().long()
        exact = (lower == upper).float()
        target = th.zeros_like(probabilities)
        target.scatter_add_(1, lower, probabilities * (upper - places + exact))
        return target.scatter_add_(1, upper, probabilities * (places - lower))
