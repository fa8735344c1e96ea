"""Convolutional encoders for Atari: the residual one of IMPALA and that of the Nature DQN."""

import torch as th
from torch import nn

from sb3_sparse.arguments import check_number
from sb3_sparse.networks.initializers import lecun_normal_conv, xavier_uniform_conv
from sb3_sparse.sparsity import SparseConv2d

IMPALA_CHANNELS = (16, 32, 32)  # Espeholt et al., 2018, figure 3
BLOCKS_PER_STACK = 2


class ImpalaBlock(nn.Module):
    """
    Residual block: ``x + second(relu(first(relu(x))))``, both convolutions 3x3.

    :param channels: Channels in and out
    """

    def __init__(self, channels: int):
        super().__init__()
        self.activation = nn.ReLU()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.inner_activation = nn.ReLU()
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def reset_parameters(self) -> None:
        """Draw the block's parameters anew."""
        lecun_normal_conv(self.first)
        lecun_normal_conv(self.second)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, channels, height, width)
        :return: The same shape
        """
        return x + self.second(self.inner_activation(self.first(self.activation(x))))


class ImpalaStack(nn.Module):
    """
    A 3x3 convolution, max pooling of size 3 and stride 2, and residual blocks.

    Pooling pads one pixel on every side; flax's "SAME", which the paper's code uses, pads an even image at its end only. The
    output has the same size, its windows are shifted by one pixel.

    :param in_channels: Channels of the input
    :param channels: Channels of the output
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ImpalaBlock(channels) for _ in range(BLOCKS_PER_STACK)))

    def reset_parameters(self) -> None:
        """Draw the stack's parameters anew."""
        xavier_uniform_conv(self.conv)
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, in_channels, height, width)
        :return: (batch, channels, height / 2, width / 2), rounded up
        """
        return self.blocks(self.pool(self.conv(x)))


class ImpalaEncoder(nn.Module):
    """
    The residual encoder of IMPALA (Espeholt et al., 2018, figure 3, without its linear layer), as Dopamine initialises it:
    the first convolution of a stack Xavier-uniform, those of blocks LeCun-normal, biases 0.

    :param in_channels: Channels of the image, all stacked frames together
    :param width_scale: Multiplies the channels 16, 32 and 32; fractions allowed, rounded
    :raises ValueError: if the scale is not positive or leaves no channel.
    """

    def __init__(self, in_channels: int, width_scale: float = 1.0):
        super().__init__()
        channels = [in_channels, *scaled_channels(IMPALA_CHANNELS, width_scale)]
        self.stacks = nn.Sequential(*map(ImpalaStack, channels[:-1], channels[1:]))
        self.activation = nn.ReLU()
        self.flatten = nn.Flatten()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        for stack in self.stacks:
            stack.reset_parameters()  # type: ignore[operator]

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        :param layer: Convolution within a block, dense or sparse, whose parameters are drawn anew
        """
        lecun_normal_conv(layer)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, in_channels, height, width) with values in [0, 1]
        :return: (batch, features)
        """
        if x.is_cpu:  # where convolutions are up to twice as fast with the channels of a pixel side by side
            x = x.contiguous(memory_format=th.channels_last)
        return self.flatten(self.activation(self.stacks(x)))


class NatureEncoder(nn.Module):
    """
    The three convolutions of the Nature DQN (Mnih et al., 2015), without its linear layer; Xavier-uniform, biases 0.

    :param in_channels: Channels of the image, all stacked frames together
    :param width_scale: Multiplies the channels 32, 64 and 64; fractions allowed, rounded
    :raises ValueError: if the scale is not positive or leaves no channel.
    """

    def __init__(self, in_channels: int, width_scale: float = 1.0):
        super().__init__()
        first, second, third = scaled_channels((32, 64, 64), width_scale)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, first, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(second, third, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | SparseConv2d):
                self.initialize_layer(layer)

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        :param layer: Convolution, dense or sparse, whose parameters are drawn anew
        """
        xavier_uniform_conv(layer)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, in_channels, height, width) with values in [0, 1], at least 36 pixels high and wide
        :return: (batch, features)
        """
        return self.layers(x)


def scaled_channels(channels: tuple[int, ...], width_scale: float) -> tuple[int, ...]:
    """
    :param channels: Channels at scale 1
    :param width_scale: Width scale
    :return: Channels at that scale
    :raises ValueError: if the scale is not positive or leaves no channel.
    """
    check_number("width_scale", width_scale, is_positive=True, hint="1.0 is the default size")
    scaled = tuple(round(width_scale * number) for number in channels)
    if min(scaled) < 1:
        raise ValueError(f"width_scale={width_scale} leaves a layer without channels: give at least {1 / min(channels)}.")
    return scaled
