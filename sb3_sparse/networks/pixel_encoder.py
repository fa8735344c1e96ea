"""The convolutional encoder of DrQ and DrQ-v2 (Yarats et al., 2022)."""

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.networks.initializers import orthogonal_conv

KERNEL, FIRST_STRIDE, NUM_LAYERS = 3, 2, 4


class PixelEncoder(nn.Module):
    """
    Four 3x3 convolutions without padding, the first with stride 2, each followed by ReLU; what comes out is flattened. Images
    of 84x84 pixels give 32 x 35 x 35 = 39,200 features. Initialisation: orthogonal with gain sqrt(2), biases 0.

    Activations lie channels last in memory, which is faster on GPUs and CPUs and changes nothing else.

    :param in_channels: Channels of all frames of an observation together
    :param height: Height of the images, in pixels, at least 15
    :param width: Width of the images, in pixels, at least 15
    :param channels: Channels of every layer, 32 in the reference
    :raises ValueError: if a size is not a positive integer or the images are too small for four convolutions.
    """

    def __init__(self, in_channels: int, height: int, width: int, channels: int = 32):
        super().__init__()
        for name, size in {"in_channels": in_channels, "height": height, "width": width, "channels": channels}.items():
            check_integer(name, size)
        rows, columns = _output_size(height), _output_size(width)
        if min(rows, columns) < 1:
            raise ValueError(
                f"Images of {height}x{width} pixels are too small: four convolutions need {_smallest_image()} pixels each way "
                "(84 is usual). Render larger images or resize them."
            )
        self.features_dim = channels * rows * columns
        layers: list[nn.Module] = []
        for i in range(NUM_LAYERS):
            layers.append(nn.Conv2d(channels if i else in_channels, channels, KERNEL, stride=1 if i else FIRST_STRIDE))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        for layer in self.layers:
            if not isinstance(layer, nn.ReLU):
                orthogonal_conv(layer)

    def forward(self, images: th.Tensor) -> th.Tensor:
        """
        :param images: (batch, in_channels, height, width) in [0, 1]
        :return: (batch, features_dim), not negative
        """
        centred = (images - 0.5).contiguous(memory_format=th.channels_last)
        return self.layers(centred).flatten(1)  # (batch, channels, rows, columns) -> (batch, features_dim)


def _output_size(pixels: int) -> int:
    return (pixels - KERNEL) // FIRST_STRIDE + 1 - (NUM_LAYERS - 1) * (KERNEL - 1)


def _smallest_image() -> int:
    return next(pixels for pixels in range(1, 100) if _output_size(pixels) >= 1)
