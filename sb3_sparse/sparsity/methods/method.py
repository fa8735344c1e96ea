"""A way to change which weights exist: when it changes them, and what it works on."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.sparsity.allocation import Distribution
from sb3_sparse.sparsity.layers import SparseLayer
from sb3_sparse.sparsity.patterns import Pattern
from sb3_sparse.sparsity.prunable import Skip
from sb3_sparse.sparsity.topology import Topology

if TYPE_CHECKING:
    from sb3_sparse.sparsity.methods.regime import Regime


class Part(ABC):
    """What a method works on: a network, or several, with what trains them and what follows them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @abstractmethod
    def topologies(self) -> dict[Topology, list[SparseLayer]]:
        """Topologies of the online networks, with the layers that move with them: online first, then in target networks."""

    @abstractmethod
    def optimizers(self) -> list[th.optim.Optimizer]:
        """Optimizers whose moments move along."""

    @abstractmethod
    def generator(self) -> th.Generator:
        """CPU random generator, the same at the same moment of the same run."""

    @abstractmethod
    def require_loss(self) -> None:
        """
        :raises ValueError: if :meth:`gradients` cannot be had.
        """

    @abstractmethod
    def gradients(self, batch_size: int) -> dict[Topology, th.Tensor]:
        """
        Gradients of all weights, inactive ones included, of a batch; those of the run are left alone. Topologies that no
        gradient reaches are missing.

        :param batch_size: Transitions
        """

    @abstractmethod
    def require_resizing(self) -> None:
        """
        :raises ValueError: if numbers of active weights cannot change.
        """

    @abstractmethod
    def require_pruning(self) -> None:
        """
        Prepare to be pruned further.

        :raises ValueError: if that cannot be.
        """

    @abstractmethod
    def sparsities(self) -> dict[str, float]:
        """Role ("actor", "critic") -> the present sparsity."""

    @abstractmethod
    def prune_to(self, sparsities: Mapping[str, float]) -> None:
        """
        Prune by magnitude.

        :param sparsities: Role -> sparsity
        """

    @abstractmethod
    def note_numbers(self) -> None:
        """Take note that layers have other numbers of active weights than their sparsity says."""


@dataclass(frozen=True, kw_only=True)
class TopologyMethod:
    """
    Base class. A method has no state: what a run has come to is kept by who applies it, which is
    :class:`~sb3_sparse.SparseTopologyCallback` or, in a training loop of one's own, what :meth:`bind` returns.

    :param update_freq: Agent steps between two changes; updates in a loop of one's own
    :param start: Fraction of training before which nothing changes; not before the first update either
    :param end: Fraction of training after which nothing changes
    :raises ValueError: if an argument is out of range.
    """

    update_freq: int = 1_000
    start: float = 0.0
    end: float = 0.8

    # What it is called in arguments and messages, and whether it asks for gradients.
    name: ClassVar[str]
    uses_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_integer("update_freq", self.update_freq)
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(f"start and end must satisfy 0 <= start < end <= 1, got {self.start!r} and {self.end!r}.")

    def progress(self, share: float) -> float:
        """
        Share of the schedule that is over, clipped to [0, 1].

        :param share: Share of training that is over
        """
        return min(1.0, max(0.0, (share - self.start) / (self.end - self.start)))

    def prepare(self, part: Part) -> None:
        """
        Look at the networks before training.

        :param part: What to work on
        :raises ValueError: if the method cannot work with it.
        """

    def initial(self, part: Part, progress: float) -> Any:
        """
        What the schedule starts from, as plain data; it is asked for when training starts, and kept in checkpoints.

        :param part: What to work on
        :param progress: Share of the schedule that is over
        """

    def change(self, part: Part, progress: float, initial: Any) -> Mapping[str, float] | None:
        """
        Change which weights exist.

        :param part: What to work on
        :param progress: Share of the schedule that is over
        :param initial: What :meth:`initial` returned
        :return: Name -> value to log; None if nothing was to change
        """
        raise NotImplementedError

    def is_complete(self, part: Part, initial: Any) -> bool:
        """
        Whether there is nothing left to do at the end of training.

        :param part: What was worked on
        :param initial: What :meth:`initial` returned
        """
        return True

    def bind(
        self,
        network: nn.Module,
        optimizer: th.optim.Optimizer | Iterable[th.optim.Optimizer],
        *,
        total_updates: int,
        targets: Sequence[nn.Module] = (),
        seed: int = 0,
        distribution: str | Distribution = "erdos_renyi",
        budget: str = "all",
        skip: Skip = (),
    ) -> "Regime":
        """
        Apply this method in a training loop of one's own, without SB3.

        :param network: Pruned module (gradual pruning takes a dense one, too)
        :param optimizer: Its optimizer, of any kind whose moments have the shape of the parameter (Adam, AdamW, SGD with
            momentum); or several
        :param total_updates: Updates that training will have in all; ``start`` and ``end`` are fractions of it
        :param targets: Target networks: copies of the network, which move along
        :param seed: Seed of what grows at random
        :param distribution: For gradual pruning, as for :func:`~sb3_sparse.sparsity.prune`, and so are the next two
        :param budget: What sparsities are a fraction of
        :param skip: What stays dense
        :return: What is to be called after every update, :meth:`Regime.step`
        :raises ValueError: if the method cannot work with the network, or a target is not a copy of it.
        """
        from sb3_sparse.sparsity.methods.regime import ModulePart, Regime

        optimizers = [optimizer] if isinstance(optimizer, th.optim.Optimizer) else list(optimizer)
        part = ModulePart(network, optimizers, targets, seed, distribution, budget, skip)
        return Regime(self, part, total_updates)


@dataclass(frozen=True, kw_only=True)
class Static(TopologyMethod):
    """Nothing changes (the paper's method), for a network beside others that do."""

    name = "static"

    def change(self, part: Part, progress: float, initial: Any) -> None:
        """Change nothing."""


def require_sparse(method: TopologyMethod, part: Part) -> None:
    """
    :param method: Method that moves active weights
    :param part: What it is to work on
    :raises ValueError: if no layer of it is sparse.
    """
    if not part.topologies():
        raise ValueError(
            f"{method.name!r} moves active weights, but no layer of {part.name} is sparse: build it with sparsity > 0, or "
            "call sparsify(model, sparsity), or sparsity.prune on a module of your own, first."
        )


def refuse_patterns(part: Part) -> None:
    """
    :param part: What a method that changes numbers of active weights is to work on
    :raises ValueError: if a layer has an N:M pattern.
    """
    for topology in part.topologies():
        refuse_pattern_of(topology.pattern)


def refuse_pattern_of(pattern: object) -> None:
    """
    :param pattern: Pattern or distribution of what a method that changes numbers of active weights is to work on
    :raises ValueError: if it is an N:M pattern.
    """
    if isinstance(pattern, Pattern):
        raise ValueError(
            f'The pattern "{pattern}" fixes how many weights are active, and this method changes that: use "set" or "rigl", '
            "which keep it, or another distribution."
        )
