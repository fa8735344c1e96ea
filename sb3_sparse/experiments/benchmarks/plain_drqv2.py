"""DrQ-v2's update written with nothing but torch, dense: what ours is compared with and measured against."""

import copy
import math
from dataclasses import dataclass

import torch as th
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class PlainBatch:
    """
    What an update learns from.

    :param observations: (batch, channels, height, height) bytes
    :param actions: (batch, action_dim)
    :param rewards: (batch, 1) n-step returns
    :param discounts: (batch, 1) of what follows, 0 where nothing does
    :param next_observations: As the observations, n steps later
    """

    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    next_observations: th.Tensor


class PlainDrQv2:
    """
    Networks, optimizers and update, as the authors' code has them: a float image is padded, and shifted by interpolation.

    :param channels: Channels of an observation
    :param height: Height and width of an observation
    :param action_dim: Size of the action
    :param critic_width: Hidden width of the critic
    :param hidden_dim: Hidden width of the actor
    :param feature_dim: Size of the trunks' outputs
    :param encoder_channels: Channels of the convolutions
    :param learning_rate: Of all three optimizers
    :param tau: Weight of the critic in its target's averaging
    :param stddev_clip: Bound of the noise
    :param pixels: Largest shift
    :param device: Device
    """

    def __init__(
        self,
        channels: int = 9,
        height: int = 84,
        action_dim: int = 12,
        critic_width: int = 1024,
        hidden_dim: int = 1024,
        feature_dim: int = 50,
        encoder_channels: int = 32,
        learning_rate: float = 1e-4,
        tau: float = 0.01,
        stddev_clip: float = 0.3,
        pixels: int = 4,
        device: th.device | str = "cpu",
    ):
        side = (height - 3) // 2 + 1 - 6
        features = encoder_channels * side**2
        self.encoder = nn.Sequential(*_convolutions(channels, encoder_channels))
        self.actor = nn.Sequential(*_trunk(features, feature_dim), *_mlp(feature_dim, hidden_dim, action_dim), nn.Tanh())
        self.trunk = nn.Sequential(*_trunk(features, feature_dim))
        self.q1 = nn.Sequential(*_mlp(feature_dim + action_dim, critic_width, 1))
        self.q2 = nn.Sequential(*_mlp(feature_dim + action_dim, critic_width, 1))
        for network in (self.encoder, self.actor, self.trunk, self.q1, self.q2):
            network.apply(_initialize).to(device)
        self.critic = nn.ModuleList([self.trunk, self.q1, self.q2])
        self.target = copy.deepcopy(self.critic)
        self.tau, self.stddev_clip, self.pixels = tau, stddev_clip, pixels
        networks = (self.encoder, self.actor, self.critic)
        self.optimizers = [th.optim.Adam(network.parameters(), lr=learning_rate) for network in networks]

    def update(self, batch: PlainBatch, stddev: float) -> tuple[float, float]:
        """
        Make one update.

        :param batch: What to learn from
        :param stddev: Standard deviation of the noise on actions
        :return: Losses of critic and actor
        """
        features = self._encode(batch.observations)
        with th.no_grad():
            following = self._encode(batch.next_observations)
            action = self._act(following, stddev)
            q1, q2 = self._values(self.target, following, action)
            target = batch.rewards + batch.discounts * th.min(q1, q2)
        q1, q2 = self._values(self.critic, features, batch.actions)
        critic_loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        self._step(critic_loss, 0, 2)
        q1, q2 = self._values(self.critic, features.detach(), self._act(features.detach(), stddev))
        actor_loss = -th.min(q1, q2).mean()
        self._step(actor_loss, 1)
        with th.no_grad():
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.mul_(1 - self.tau).add_(new, alpha=self.tau)
        return critic_loss.item(), actor_loss.item()

    def _encode(self, observations: th.Tensor) -> th.Tensor:
        shifted = shift_by_interpolation(observations.float(), self.pixels)
        return self.encoder(shifted / 255 - 0.5).flatten(1)

    def _act(self, features: th.Tensor, stddev: float) -> th.Tensor:
        mean = self.actor(features)
        noise = (th.randn_like(mean) * stddev).clamp(-self.stddev_clip, self.stddev_clip)
        action = mean + noise
        inside = action.clamp(-1 + 1e-6, 1 - 1e-6)
        return action + (inside - action).detach()

    @staticmethod
    def _values(critic: nn.ModuleList, features: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        trunk, q1, q2 = critic
        joined = th.cat([trunk(features), action], dim=1)
        return q1(joined), q2(joined)

    def _step(self, loss: th.Tensor, *chosen: int) -> None:
        for i in chosen:
            self.optimizers[i].zero_grad()
        loss.backward()
        for i in chosen:
            self.optimizers[i].step()


def shift_by_interpolation(images: th.Tensor, pixels: int) -> th.Tensor:
    """
    Shift square images by whole pixels, each by its own, as DrQ-v2's code does: repeat the border, then interpolate on a grid.

    :param images: (batch, channels, height, height), floating point
    :param pixels: Largest shift along each axis
    :return: The same shape
    """
    batch, _, height, _ = images.shape
    padded = F.pad(images, (pixels,) * 4, mode="replicate")
    size = height + 2 * pixels
    centres = (2 * th.arange(height, dtype=images.dtype, device=images.device) + 1) / size - 1
    shifts = th.randint(0, 2 * pixels + 1, (2, batch, 1), device=images.device).to(images.dtype) * (2 / size)
    columns, rows = (centres + shifts[0])[:, None, :], (centres + shifts[1])[:, :, None]
    grid = th.stack(th.broadcast_tensors(columns, rows), dim=3)  # (batch, height, height, 2)
    return F.grid_sample(padded, grid, padding_mode="zeros", align_corners=False)


def _convolutions(in_channels: int, channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, stride=2), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(channels, channels, 3), nn.ReLU()]
    return layers


def _trunk(features: int, size: int) -> list[nn.Module]:
    return [nn.Linear(features, size), nn.LayerNorm(size), nn.Tanh()]


def _mlp(inputs: int, width: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.orthogonal_(module.weight, gain=math.sqrt(2) if isinstance(module, nn.Conv2d) else 1.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
