"""Methods that drop active weights and grow as many: SET and RigL."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_sparse.arguments import check_choice
from sb3_sparse.sparsity.methods.method import Part, TopologyMethod, require_sparse
from sb3_sparse.sparsity.moving import drop_and_grow, move_layers
from sb3_sparse.sparsity.topology import Topology

SCHEDULES = ("cosine", "constant")
# Topology -> score of every weight, (numel,) or of the weight's shape; the highest grow. None: nothing moves there.
Scores = Callable[[Topology], th.Tensor | None]


@dataclass(frozen=True, kw_only=True)
class DropAndGrow(TopologyMethod):
    """
    Drops the active weights of smallest magnitude and grows as many; the number of active weights of every layer stays, and
    with an N:M pattern that of every group. What grows starts at 0, and so do the optimizer's moments of it.

    :param drop_fraction: Fraction of a layer's active weights that are dropped at first, in (0, 1)
    :param schedule: "cosine" lets the fraction fall to 0 at ``end``, "constant" keeps it
    """

    drop_fraction: float = 0.3
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, SCHEDULES)
        if not 0.0 < self.drop_fraction < 1.0:
            raise ValueError(f"drop_fraction must lie in (0, 1), got {self.drop_fraction!r}.")

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        require_sparse(self, part)

    def change(self, part: Part, progress: float, initial: Any) -> Mapping[str, float]:
        """See :meth:`TopologyMethod.change`."""
        fraction = self.drop_fraction * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)
        self.move(part, fraction)
        return {"drop_fraction": fraction}

    def move(self, part: Part, fraction: float) -> None:
        """
        Drop a fraction of the active weights of every layer, and grow as many.

        :param part: What to work on
        :param fraction: Fraction
        """
        scores = self.scores(part)
        for topology, layers in part.topologies().items():
            score = scores(topology)
            if score is not None:
                count = int(fraction * topology.active)
                indices, _ = drop_and_grow(topology, layers[0].values.detach().abs(), score, count)
                move_layers(layers, indices, part.optimizers())

    @abstractmethod
    def scores(self, part: Part) -> Scores:
        """
        Score the places where weights can grow.

        :param part: What to work on
        """


@dataclass(frozen=True, kw_only=True)
class SET(DropAndGrow):
    """Grow at random positions (Mocanu et al., 2018). Further arguments: :class:`DropAndGrow`, :class:`TopologyMethod`."""

    name = "set"

    def scores(self, part: Part) -> Scores:
        """See :meth:`DropAndGrow.scores`."""
        generator = part.generator()
        return lambda topology: th.rand(topology.numel, generator=generator, device="cpu").to(topology.indices.device)


@dataclass(frozen=True, kw_only=True)
class RigL(DropAndGrow):
    """
    Grow where the gradient of the loss is largest (Evci et al., 2020): that of a batch of the replay buffer, drawn for it. The
    loss must be known (SAC, TD3, DDPG, TQC, DQN; in a loop of one's own it is given). Further arguments:
    :class:`DropAndGrow`, :class:`TopologyMethod`.

    :param batch_size: Transitions for the gradient
    """

    batch_size: int = 256
    name = "rigl"
    uses_gradients = True

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        super().prepare(part)
        part.require_loss()

    def scores(self, part: Part) -> Scores:
        """See :meth:`DropAndGrow.scores`."""
        gradients = part.gradients(self.batch_size)
        # No gradient reaches a layer that is not there.
        return lambda topology: gradients[topology].abs() if topology in gradients else None
