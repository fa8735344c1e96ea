"""Choice of an action from the output of a network that acts."""

import torch as th
from gymnasium import spaces
from torch import nn


class Rescaled(nn.Module):
    """
    Actions in [-1, 1] brought to the bounds of the space.

    :param space: Action space
    """

    def __init__(self, space: spaces.Box):
        super().__init__()
        self.low, self.high = (nn.Buffer(th.tensor(bound, device="cpu")) for bound in (space.low, space.high))

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, action_dim) of the network
        :return: (batch, *action_shape)
        """
        return self.low + 0.5 * (output.reshape(-1, *self.low.shape) + 1.0) * (self.high - self.low)


class Clipped(Rescaled):
    """
    Actions clipped to the bounds of the space.

    :param space: Action space
    """

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, action_dim) of the network
        :return: (batch, *action_shape)
        """
        return th.clamp(output.reshape(-1, *self.low.shape), self.low, self.high)


class BestAction(nn.Module):
    """The action of the highest score."""

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, n_actions) of the network
        :return: (batch,) int64
        """
        return output.argmax(dim=1)


class BestOfEach(nn.Module):
    """
    The best of each of several discrete actions.

    :param space: Action space
    """

    def __init__(self, space: spaces.MultiDiscrete):
        super().__init__()
        self.sizes, self.shape = [int(size) for size in space.nvec.ravel()], space.shape

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, sum of the numbers of actions) of the network
        :return: (batch, *action_shape) int64
        """
        return th.stack([part.argmax(dim=1) for part in output.split(self.sizes, dim=1)], dim=1).reshape(-1, *self.shape)


class PositiveLogits(nn.Module):
    """
    Binary actions whose probability is more than a half.

    :param space: Action space
    """

    def __init__(self, space: spaces.MultiBinary):
        super().__init__()
        self.shape = space.shape

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, size) of the network
        :return: (batch, *action_shape) float32, 0 or 1
        """
        return (output > 0).float().reshape(-1, *self.shape)


def choice_of(space: spaces.Space, is_squashed: bool) -> nn.Module:
    """
    :param space: Action space
    :param is_squashed: Whether the network's output lies in [-1, 1]
    :return: What makes actions of the network's output
    """
    if isinstance(space, spaces.Box):
        return (Rescaled if is_squashed else Clipped)(space)
    if isinstance(space, spaces.Discrete):
        return BestAction()
    if isinstance(space, spaces.MultiDiscrete):
        return BestOfEach(space)
    assert isinstance(space, spaces.MultiBinary)  # SB3 knows no other
    return PositiveLogits(space)
