"""A way to change which weights exist: when it changes them, and on which networks of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.arguments import check_integer
from sb3_sparse.callbacks.measured_networks import MeasuredNetwork, measured_networks
from sb3_sparse.common.pruned_policy import TARGETS
from sb3_sparse.sparsity import SparseLayer, Topology, sparse_layers


@dataclass(frozen=True)
class Part:
    """
    What a method works on.

    :param model: Model
    :param network: Name of the network, a part of the policy such as "actor" or "critic"; None for all of them
    :param seed: Seed of what is drawn for it
    """

    model: BaseAlgorithm
    network: str | None
    seed: int

    def topologies(self) -> dict[Topology, list[SparseLayer]]:
        """Topologies of the online networks, with the layers that move with them: online first, then in target networks."""
        layers = dict(sparse_layers(self.model.policy))
        found: dict[Topology, list[SparseLayer]] = {}
        for name, layer in layers.items():
            root, _, path = name.partition(".")
            if root in TARGETS.values() or self.network not in (None, root):
                continue
            # A target's topology is the same one, or (in a features extractor) has the same indices.
            twin = layers.get(f"{TARGETS.get(root)}.{path}")
            found.setdefault(layer.topology, []).extend([layer] if twin is None or twin is layer else [layer, twin])
        return found

    def sparse_networks(self) -> dict[str, MeasuredNetwork]:
        """The networks that hold some of these topologies."""
        wanted = set(self.topologies())
        return {
            name: network
            for name, network in measured_networks(self.model).items()
            if any(layer.topology in wanted for _, layer in sparse_layers(network.module))
        }


@dataclass(frozen=True, kw_only=True)
class TopologyMethod:
    """
    Base class. A method has no state: what a run has come to is kept by the callback.

    :param update_freq: Agent steps between two changes
    :param start: Fraction of training before which nothing changes; not before the first update either
    :param end: Fraction of training after which nothing changes
    :raises ValueError: if an argument is out of range.
    """

    update_freq: int = 1_000
    start: float = 0.0
    end: float = 0.8

    # What it is called in arguments and messages.
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_integer("update_freq", self.update_freq)
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(f"start and end must satisfy 0 <= start < end <= 1, got {self.start!r} and {self.end!r}.")

    def progress(self, model: BaseAlgorithm) -> float:
        """
        Share of the schedule that is over, clipped to [0, 1].

        :param model: Model
        """
        share = model.num_timesteps / model._total_timesteps
        return min(1.0, max(0.0, (share - self.start) / (self.end - self.start)))

    def prepare(self, part: Part) -> None:
        """
        Look at the model before training.

        :param part: Model and network
        :raises ValueError: if the method cannot work with it.
        """

    def initial(self, part: Part) -> Any:
        """
        What the schedule starts from, as plain data; it is asked for when training starts, and kept in checkpoints.

        :param part: Model and network
        """

    def change(self, part: Part, progress: float, initial: Any) -> Mapping[str, float]:
        """
        Change which weights exist.

        :param part: Model and network
        :param progress: Share of the schedule that is over
        :param initial: What :meth:`initial` returned
        :return: Name -> value to log
        """
        raise NotImplementedError

    def is_complete(self, part: Part) -> bool:
        """
        Whether there is nothing left to do at the end of training.

        :param part: Model and network
        """
        return True


@dataclass(frozen=True, kw_only=True)
class Static(TopologyMethod):
    """Nothing changes (the paper's method), for a network beside others that do."""

    name = "static"

    def change(self, part: Part, progress: float, initial: Any) -> Mapping[str, float]:
        """Change nothing."""
        return {}
