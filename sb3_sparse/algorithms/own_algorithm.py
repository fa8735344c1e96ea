"""Protocol of this package's algorithms, beyond SB3's."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_sparse.algorithms.known_algorithms import STOCK, KnownAlgorithm
from sb3_sparse.algorithms.losses import SampleLosses
from sb3_sparse.diagnostics.measured_network import MeasuredNetwork


@runtime_checkable
class Checkpointed(Protocol):
    """
    A model or callback with state that is no plain attribute, which exact checkpoints are to hold.

    The state can be pickled.
    """

    def checkpoint_state(self) -> Any:
        """What is to be stored."""

    def restore_checkpoint_state(self, state: Any) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """


@runtime_checkable
class TellsGradients(Protocol):
    """A model that tells the gradients of its last update, so that they need not be read while it is made."""

    def gradients(self, name: str) -> dict[str, th.Tensor]:
        """
        Read the gradients of a network's last update: those of its own loss, and nothing of another's.

        :param name: Name of a network, such as "critic"
        :return: Parameter name -> gradient; empty before the first update
        """
        return {}


@runtime_checkable
class TellsNetworks(Protocol):
    """A policy whose networks are called otherwise than SB3's, or that has an encoder beside them."""

    def pruned_networks(self) -> list[tuple[str, nn.Module]]:
        """
        What is pruned as one network each.

        :return: Pairs of role ("actor" or "critic") and a container of the network's parts
        """

    def measured_networks(self) -> dict[str, MeasuredNetwork]:
        """
        The online networks, and how each is run on a batch of the replay buffer.

        :return: Name -> network
        """


@runtime_checkable
class OwnAlgorithm(Checkpointed, TellsGradients, Protocol):
    """
    An algorithm of this package, beside what SB3's offer. The package asks a model for these only after
    ``isinstance(model, OwnAlgorithm)``; a class inherits what it has nothing to say about.
    """

    # What files, the zoo and figures call it.
    known_as: ClassVar[KnownAlgorithm]
    # Attributes that are networks whose last gradients it can tell.
    networks_with_gradients: ClassVar[tuple[str, ...]] = ()
    # Whether it learns at every step instead of after rollouts; it calls ``between_steps`` then.
    is_streaming: ClassVar[bool] = False
    # Called where a checkpoint could be written.
    between_steps: Callable[[], None] | None = None

    def recapture(self) -> None:
        """Take note that networks, masks or what else an update computes with were replaced."""
        return None

    def restore_gradients(self, gradients: dict[str, dict[str, th.Tensor]]) -> None:
        """
        Say what the gradients of the last update were, of a run that goes on.

        :param gradients: Network -> what :meth:`gradients` returned for it
        """
        return None

    def take_training_means(self) -> dict[str, float]:
        """
        What the updates were like since this was last asked for, beyond what is logged.

        :return: Name -> mean, empty if there is nothing to tell
        """
        return {}

    def checkpoint_state(self) -> Any:
        """See :class:`Checkpointed`."""
        return None

    def restore_checkpoint_state(self, state: Any) -> None:
        """See :class:`Checkpointed`."""
        return None


def known_algorithm(model: BaseAlgorithm) -> KnownAlgorithm | None:
    """
    Find what is known about a model's algorithm, or about what it is a subclass of.

    :param model: Model
    """
    if isinstance(model, OwnAlgorithm):
        return model.known_as
    return next((row for kind, row in STOCK.items() if isinstance(model, kind)), None)


def sample_losses(model: BaseAlgorithm) -> Mapping[str, SampleLosses]:
    """
    Find the losses that an algorithm trains its networks with, for every sample of a batch by itself.

    :param model: Model
    :return: Network -> its losses; networks whose loss is not known are missing
    """
    row = known_algorithm(model)
    return {} if row is None else row.losses
