"""A network as diagnostics see it: its module, and how it is run on a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class MeasuredNetwork:
    """
    A network and its forward pass.

    :param module: The network
    :param forward: Runs all of it on a batch of the replay buffer
    :param is_encoder: Whether its output is the input of other networks, so that it has hidden units only
    """

    module: nn.Module
    forward: Callable[[Any], Any]
    is_encoder: bool = False
