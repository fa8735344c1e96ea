"""A method at work in a training loop of one's own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.sparsity.allocation import Distribution, get_distribution
from sb3_sparse.sparsity.choices import largest_magnitudes
from sb3_sparse.sparsity.conversion import follow_topology, sparse_layers, submodule
from sb3_sparse.sparsity.dense_gradients import dense_gradients
from sb3_sparse.sparsity.layers import SparseLayer
from sb3_sparse.sparsity.methods.method import Part, TopologyMethod, refuse_pattern_of, refuse_patterns
from sb3_sparse.sparsity.optimizers import optimizers_follow
from sb3_sparse.sparsity.prunable import Skip
from sb3_sparse.sparsity.pruning_plan import PruningPlan, budgeted_sparsity
from sb3_sparse.sparsity.topology import Topology

Loss = Callable[[], th.Tensor]
# The key of a network that has no role beside others.
_ROLE = "network"


class ModulePart(Part):
    """
    A module that somebody trains; see :meth:`TopologyMethod.bind` for the arguments.

    :param network: Module
    :param optimizers: Its optimizers
    :param targets: Copies that follow it
    :param seed: Seed of what is drawn
    :param distribution: How sparsities are allocated
    :param budget: What they are a fraction of
    :param skip: What stays dense
    """

    def __init__(
        self,
        network: nn.Module,
        optimizers: list[th.optim.Optimizer],
        targets: Sequence[nn.Module],
        seed: int,
        distribution: str | Distribution,
        budget: str,
        skip: Skip,
    ):
        self.network, self.targets, self.seed = network, list(targets), check_integer("seed", seed, 0)
        self._optimizers, self._distribution = optimizers, distribution
        self._pruning: dict[str, Any] = {"distribution": distribution, "budget": budget, "skip": skip}
        self.sparsity = budgeted_sparsity(network, budget, skip)
        self.updates = 0
        self.loss: Loss | None = None
        for target in self.targets:
            _refuse_other(network, target)

    @property
    def name(self) -> str:
        """See :class:`Part`."""
        return f"this {type(self.network).__name__}"

    def topologies(self) -> dict[Topology, list[SparseLayer]]:
        """See :class:`Part`."""
        found: dict[Topology, list[SparseLayer]] = {}
        for name, layer in sparse_layers(self.network):
            twins = [target.get_submodule(name) for target in self.targets]
            followers = [twin for twin in twins if isinstance(twin, SparseLayer) and twin is not layer]
            found.setdefault(layer.topology, []).extend([layer, *followers])
        return found

    def optimizers(self) -> list[th.optim.Optimizer]:
        """See :class:`Part`."""
        return self._optimizers

    def generator(self) -> th.Generator:
        """See :class:`Part`."""
        return th.Generator().manual_seed((self.seed << 40) + self.updates)

    def require_loss(self) -> None:
        """It comes with every step."""

    def gradients(self, batch_size: int) -> dict[Topology, th.Tensor]:
        """See :class:`Part`; the batch is what the loss function takes."""
        assert self.loss is not None
        return dense_gradients(self.network, self.loss)

    def require_resizing(self) -> None:
        """See :class:`Part`."""
        refuse_patterns(self)

    def require_pruning(self) -> None:
        """See :class:`Part`."""
        refuse_pattern_of(get_distribution(self._distribution))
        refuse_patterns(self)

    def sparsities(self) -> dict[str, float]:
        """See :class:`Part`."""
        return {_ROLE: self.sparsity}

    def prune_to(self, sparsities: Mapping[str, float]) -> None:
        """See :class:`Part`."""
        plan = PruningPlan(self.network, sparsities[_ROLE], is_pruned=True, **self._pruning)
        with optimizers_follow(self.network, self._optimizers):
            plan.apply(largest_magnitudes())
        for target in self.targets:
            follow_topology(self.network, target)
        self.sparsity = sparsities[_ROLE]

    def note_numbers(self) -> None:
        """See :class:`Part`."""
        self.sparsity = budgeted_sparsity(self.network, self._pruning["budget"], self._pruning["skip"])


class Regime:
    """
    A method bound to a network by :meth:`TopologyMethod.bind`.

    ``state_dict`` holds counters only: the positions are in the network's. A network that was saved while its numbers of
    active weights changed is built anew by ``prune(fresh, masks=checkpoint_masks(state))``; then network, optimizer and regime
    load their states.

    :param method: Method
    :param part: What it works on
    :param total_updates: Updates of the whole training
    """

    def __init__(self, method: TopologyMethod, part: ModulePart, total_updates: int):
        self.method, self.part = method, part
        self.total_updates = check_integer("total_updates", total_updates)
        method.prepare(part)
        # State: the update of the last change that was due, how many there were, and what the schedule started from.
        self.last_update = self.changes = 0
        self.initial = method.initial(part, 0.0)

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.part.updates

    def step(self, loss: Loss | None = None) -> bool:
        """
        Count an update, and change masks where that is due: call it after every ``optimizer.step()``.

        :param loss: Runs the network on a batch and returns its loss, a scalar or (samples,); only "rigl" and "expansion"
            need it, and call it only when a change is due. Gradients that the parameters hold are left alone
        :return: Whether masks have changed, after which whatever was captured or compiled with them is to be made anew
        :raises ValueError: if the method needs a loss and there is none.
        """
        if loss is None and self.method.uses_gradients:
            raise ValueError(
                f"{self.method.name!r} grows weights by the gradient: call step(loss) with a function of the loss."
            )
        self.part.loss = loss
        self.part.updates += 1
        method, now = self.method, self.updates
        is_due = now % method.update_freq == 0 and now >= method.start * self.total_updates
        # The first change after the end completes the schedule, or the last update does.
        has_changed = False
        if is_due and self.last_update < method.end * self.total_updates:
            has_changed = self._change(method.progress(now / self.total_updates))
        if is_due:
            self.last_update = now
        if now == self.total_updates and not method.is_complete(self.part, self.initial):
            has_changed = self._change(1.0) or has_changed
        return has_changed

    def state_dict(self) -> dict[str, Any]:
        """Counters, as plain data."""
        return {
            "updates": self.updates,
            "last_update": self.last_update,
            "changes": self.changes,
            "initial": self.initial,
            "sparsity": self.part.sparsity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from there.

        :param state: What :meth:`state_dict` returned
        """
        self.part.updates, self.part.sparsity = state["updates"], state["sparsity"]
        self.last_update, self.changes, self.initial = state["last_update"], state["changes"], state["initial"]

    def _change(self, progress: float) -> bool:
        if self.method.change(self.part, progress, self.initial) is None:
            return False
        self.changes += 1
        return True


def _refuse_other(network: nn.Module, target: nn.Module) -> None:
    for name, layer in sparse_layers(network):
        twin = submodule(target, name)
        if not isinstance(twin, SparseLayer) or not th.equal(twin.indices.cpu(), layer.indices.cpu()):
            raise ValueError(
                f"Layer {name!r} of a target is not pruned as the network's is: make targets by copy.deepcopy(network) after "
                "pruning, or by sparsity.share_topology(network, target)."
            )
