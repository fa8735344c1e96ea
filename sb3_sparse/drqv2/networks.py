"""Actor and critic of DrQ-v2, on what the encoder makes of an observation."""

from collections import OrderedDict

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_sparse.networks import PixelEncoder
from sb3_sparse.networks.initializers import orthogonal_conv, orthogonal_linear, reset_layers

# Actions stay this far away from -1 and 1.
_EDGE = 1e-6


class PixelExtractor(BaseFeaturesExtractor):
    """
    The encoder as a features extractor of SB3.

    :param observation_space: Channel-first images
    :param channels: Channels of every layer
    """

    def __init__(self, observation_space: spaces.Box, channels: int = 32):
        in_channels, height, width = observation_space.shape
        encoder = PixelEncoder(in_channels, height, width, channels)
        super().__init__(observation_space, encoder.features_dim)
        self.encoder = encoder

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        Draw a convolution as the reference does: orthogonal with gain sqrt(2), bias 0.

        :param layer: Two-dimensional convolution, dense or sparse
        """
        orthogonal_conv(layer)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (batch, channels, height, width) in [0, 1]
        :return: (batch, features_dim)
        """
        return self.encoder(observations)


class FeaturesNetwork(nn.Module):
    """Base class: a network on the encoder's features; all of its linear layers are initialised alike."""

    optimizer: th.optim.Optimizer

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        Draw a linear layer as the reference does: orthogonal with gain 1, bias 0.

        :param layer: Linear layer, dense or sparse
        """
        orthogonal_linear(layer)

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned network the topology stays."""
        reset_layers(self, self.initialize_layer)


class DrQv2Actor(FeaturesNetwork):
    """
    Deterministic actor, and the present standard deviation of the noise that is added to its actions.

    :param features_dim: Size of the encoder's output
    :param action_dim: Size of the action
    :param feature_dim: Size of the trunk's output
    :param hidden_dim: Width of both hidden layers
    """

    stddev: th.Tensor

    def __init__(self, features_dim: int, action_dim: int, feature_dim: int, hidden_dim: int):
        super().__init__()
        self.trunk = trunk(features_dim, feature_dim)
        self.mu = hidden_layers(feature_dim, hidden_dim, action_dim)
        self.mu.append(nn.Tanh())
        # A tensor, for captured updates to read, and to be saved with the policy.
        self.register_buffer("stddev", th.ones(()))
        self.reset_parameters()

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (batch, features_dim)
        :return: (batch, action_dim) actions in [-1, 1], without noise
        """
        return self.mu(self.trunk(features))


class DrQv2Critic(FeaturesNetwork):
    """
    Two Q-functions on one trunk.

    :param features_dim: Size of the encoder's output
    :param action_dim: Size of the action
    :param feature_dim: Size of the trunk's output
    :param hidden_dim: Width of the hidden layers of each Q-function
    """

    def __init__(self, features_dim: int, action_dim: int, feature_dim: int, hidden_dim: int):
        super().__init__()
        self.trunk = trunk(features_dim, feature_dim)
        self.qf0 = hidden_layers(feature_dim + action_dim, hidden_dim, 1)
        self.qf1 = hidden_layers(feature_dim + action_dim, hidden_dim, 1)
        self.reset_parameters()

    def forward(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param features: (batch, features_dim)
        :param actions: (batch, action_dim) in [-1, 1]
        :return: (batch, 1) of each Q-function
        """
        joined = th.cat([self.trunk(features), actions], dim=1)
        return self.qf0(joined), self.qf1(joined)


def trunk(input_dim: int, output_dim: int) -> nn.Sequential:
    """
    Build what makes a short, bounded vector of the encoder's features.

    :param input_dim: Size of the features
    :param output_dim: Size of the vector
    """
    layers = OrderedDict(projection=nn.Linear(input_dim, output_dim), norm=nn.LayerNorm(output_dim), squash=nn.Tanh())
    return nn.Sequential(layers)


def hidden_layers(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """
    Build two hidden layers with ReLU and a linear output.

    :param input_dim: Size of the input
    :param hidden_dim: Width of each hidden layer
    :param output_dim: Size of the output
    """
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, output_dim),
    )


def noisy_actions(mean: th.Tensor, stddev: th.Tensor, clip: float | None = None) -> th.Tensor:
    """
    Sample from what DrQ-v2 calls a truncated normal distribution: Gaussian noise, clipped, and the sum clamped into the open
    interval (-1, 1) in such a way that gradients pass as if it were not.

    :param mean: (batch, action_dim) in [-1, 1]
    :param stddev: Standard deviation of the noise, a scalar
    :param clip: Bound of the noise: 0.3 in updates, None when acting
    :return: (batch, action_dim), differentiable with respect to the mean
    """
    noise = th.randn_like(mean) * stddev
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    actions = mean + noise
    return actions - actions.detach() + actions.detach().clamp(-1 + _EDGE, 1 - _EDGE)
