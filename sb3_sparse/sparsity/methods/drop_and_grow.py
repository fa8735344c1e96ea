"""Methods that drop active weights and grow as many: SET and RigL."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.arguments import check_choice
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch, seed_from
from sb3_sparse.callbacks.topology_method import Part, TopologyMethod
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.diagnostics.recording import evaluation_mode
from sb3_sparse.sparsity import SparseLayer, Topology, sparse_layers
from sb3_sparse.sparsity.moving import drop_and_grow, remap
from sb3_sparse.algorithms.own_algorithm import sample_losses

SCHEDULES = ("cosine", "constant")
# Topology -> score of every weight, (numel,) or of the weight's shape; the highest grow. None: nothing moves there.
Scores = Callable[[Topology], th.Tensor | None]


@dataclass(frozen=True, kw_only=True)
class DropAndGrow(TopologyMethod):
    """
    Drops the active weights of smallest magnitude and grows as many; the number of active weights of every layer stays. What
    grows starts at 0, and so do the optimizer's moments of it.

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
        if not part.topologies():
            where = "this model" if part.network is None else f"the {part.network}"
            raise ValueError(
                f"{self.name!r} moves active weights, but no layer of {where} is sparse: build it with sparsity > 0, or "
                "call sparsify(model, sparsity) first."
            )

    def change(self, part: Part, progress: float, initial: Any) -> Mapping[str, float]:
        """See :meth:`TopologyMethod.change`."""
        fraction = self.drop_fraction * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)
        self.move(part, fraction)
        return {"drop_fraction": fraction}

    def move(self, part: Part, fraction: float) -> None:
        """
        Drop a fraction of the active weights of every layer, and grow as many.

        :param part: Model and network
        :param fraction: Fraction
        """
        scores = self.scores(part)
        for topology, layers in part.topologies().items():
            score = scores(topology)
            if score is not None:
                count = int(fraction * topology.active)
                indices, sources = drop_and_grow(topology, layers[0].values.detach().abs(), score, count)
                _move_layers(part, layers, indices, sources)

    @abstractmethod
    def scores(self, part: Part) -> Scores:
        """
        Score the places where weights can grow.

        :param part: Model and network
        """


@dataclass(frozen=True, kw_only=True)
class SET(DropAndGrow):
    """Grow at random positions (Mocanu et al., 2018). Further arguments: :class:`DropAndGrow`, :class:`TopologyMethod`."""

    name = "set"

    def scores(self, part: Part) -> Scores:
        """See :meth:`DropAndGrow.scores`."""
        generator = th.Generator().manual_seed(seed_from(part.seed, part.model.num_timesteps))
        return lambda topology: th.rand(topology.numel, generator=generator, device="cpu").to(topology.indices.device)


@dataclass(frozen=True, kw_only=True)
class RigL(DropAndGrow):
    """
    Grow where the gradient of the loss is largest (Evci et al., 2020): that of a batch of the replay buffer, drawn for it. The
    loss must be known (SAC, TD3, DDPG, TQC, DQN). Further arguments: :class:`DropAndGrow`, :class:`TopologyMethod`.

    :param batch_size: Transitions for the gradient
    """

    batch_size: int = 256
    name = "rigl"

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        super().prepare(part)
        replay_buffer_of(part.model, "RigL")
        for network in part.sparse_networks():
            if network not in sample_losses(part.model):
                raise ValueError(f'The loss of {type(part.model).__name__}\'s {network} is not known: use method="set".')

    def scores(self, part: Part) -> Scores:
        """See :meth:`DropAndGrow.scores`."""
        gradients = self.gradients(part)
        # No gradient reaches a layer that is not there.
        return lambda topology: gradients[topology].abs() if topology in gradients else None

    def gradients(self, part: Part) -> dict[Topology, th.Tensor]:
        """
        Gradients of all weights, inactive ones included, of a batch; those of the run are left alone.

        :param part: Model and network
        """
        model = part.model
        if not can_sample(model, self.batch_size):
            warnings.warn(f"RigL: the replay buffer does not hold {self.batch_size} transitions yet, nothing moves.")
            return {}
        found: dict[Topology, th.Tensor] = {}
        with private_randomness(model, part.seed, model.num_timesteps), evaluation_mode(model.policy):
            batch = sample_batch(model, self.batch_size)
            for name, network in part.sparse_networks().items():
                losses = sample_losses(model)[name](model, batch)
                found.update(dense_gradients(network.module, losses))
        return found


def dense_gradients(network: nn.Module, losses: Callable[[], th.Tensor]) -> dict[Topology, th.Tensor]:
    """
    Gradients of all weights of a network's sparse layers, inactive ones included.

    :param network: Network
    :param losses: Runs it and returns its losses, (samples,), whose mean is differentiated
    """
    layers = [layer for _, layer in sparse_layers(network)]
    for layer in layers:
        layer.record_dense_gradient()
    try:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:  # frozen
            return {}
        with th.enable_grad():
            th.autograd.grad(losses().mean(), parameters, allow_unused=True)
        return {layer.topology: layer.dense_gradient for layer in layers if layer.dense_gradient is not None}
    finally:
        for layer in layers:
            layer.record_dense_gradient(False)


@th.no_grad()
def _move_layers(part: Part, layers: list[SparseLayer], indices: th.Tensor, sources: th.Tensor) -> None:
    values = [[remap(layer.get_parameter(name), sources) for name in layer.value_names.values()] for layer in layers]
    parameters = {layer.get_parameter(name) for layer in layers for name in layer.value_names.values()}
    for layer, moved in zip(layers, values, strict=True):
        layer.set_topology(indices, *moved)
    for optimizer in optimizers_of(part.model.policy):
        for parameter in parameters & set(optimizer.state):
            parameter.grad = None  # it belongs to the old positions
            for value in optimizer.state[parameter].values():
                if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                    value.copy_(remap(value, sources))
