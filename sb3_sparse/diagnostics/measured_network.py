"""A network as diagnostics see it: its module, and how it is run on a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn


@dataclass(frozen=True)
class MeasuredNetwork:
    """
    A network and its forward pass.

    :param module: The network
    :param forward: Runs all of it on a batch of the replay buffer
    :param is_encoder: Whether its output is the input of other networks, so that it has hidden units only
    :param values: Makes the values of a batch's actions, (samples,), of what ``forward`` returned and the batch; None if it
        does not tell any
    """

    module: nn.Module
    forward: Callable[[Any], Any]
    is_encoder: bool = False
    values: Callable[[Any, Any], th.Tensor] | None = None


def mean_value(outputs: Any, batch: Any) -> th.Tensor:
    """
    The value of the actions that critics were given.

    :param outputs: (samples, 1) values of each critic, or the quantiles of all, (samples, n_critics, n_quantiles)
    :param batch: Their batch
    :return: (samples,) mean over critics and quantiles
    """
    return (th.cat(tuple(outputs), dim=1) if isinstance(outputs, tuple | list) else outputs.flatten(1)).mean(dim=1)
