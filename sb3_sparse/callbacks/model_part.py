"""The networks of a model that a method works on."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.algorithms.own_algorithm import sample_losses
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch, seed_from
from sb3_sparse.callbacks.measured_networks import MeasuredNetwork, measured_networks
from sb3_sparse.common.pruned_policy import ROLES, TARGETS, PrunedPolicy, network_trees
from sb3_sparse.common.sparsify import note_numbers, prune_by_magnitude, sparsify, with_sparsities
from sb3_sparse.diagnostics.recording import evaluation_mode
from sb3_sparse.sparsity import SparseLayer, Topology, sparse_layers
from sb3_sparse.sparsity.allocation import get_distribution
from sb3_sparse.sparsity.dense_gradients import dense_gradients
from sb3_sparse.sparsity.methods.method import Part, refuse_pattern_of, refuse_patterns
from sb3_sparse.sparsity.optimizers import optimizers_of


class ModelPart(Part):
    """
    Networks of a model.

    :param model: Model
    :param network: Name of the network, a part of the policy such as "actor", "critic" or "critic.trunk"; None for all of them
    :param seed: Seed of what is drawn for it
    :param others: Parts of the network that have methods of their own
    """

    def __init__(self, model: BaseAlgorithm, network: str | None, seed: int, others: Iterable[str] = ()):
        self.model, self.network, self.seed, self.others = model, network, seed, tuple(others)

    @property
    def name(self) -> str:
        """See :class:`Part`."""
        return "this model" if self.network is None else f"the {self.network}"

    def topologies(self) -> dict[Topology, list[SparseLayer]]:
        """See :class:`Part`."""
        layers = dict(sparse_layers(self.model.policy))
        found: dict[Topology, list[SparseLayer]] = {}
        for name, layer in layers.items():
            root, _, path = name.partition(".")
            if root in TARGETS.values() or not self._contains(name):
                continue
            # A target's topology is the same one, or (in a features extractor) has the same indices.
            twin = layers.get(f"{TARGETS.get(root)}.{path}")
            found.setdefault(layer.topology, []).extend([layer] if twin is None or twin is layer else [layer, twin])
        return found

    def optimizers(self) -> list[th.optim.Optimizer]:
        """See :class:`Part`."""
        return optimizers_of(self.model.policy)

    def generator(self) -> th.Generator:
        """See :class:`Part`."""
        return th.Generator().manual_seed(seed_from(self.seed, self.model.num_timesteps))

    def require_loss(self) -> None:
        """See :class:`Part`."""
        replay_buffer_of(self.model, "Growing weights by the gradient")
        for network in self._sparse_networks():
            if network not in sample_losses(self.model):
                raise ValueError(f'The loss of {type(self.model).__name__}\'s {network} is not known: use method="set".')

    def gradients(self, batch_size: int) -> dict[Topology, th.Tensor]:
        """See :class:`Part`."""
        model = self.model
        if not can_sample(model, batch_size):
            warnings.warn(f"The replay buffer does not hold {batch_size} transitions yet: no weights are grown.")
            return {}
        found: dict[Topology, th.Tensor] = {}
        with private_randomness(model, self.seed, model.num_timesteps), evaluation_mode(model.policy):
            batch = sample_batch(model, batch_size)
            for name, network in self._sparse_networks().items():
                found.update(dense_gradients(network.module, sample_losses(model)[name](model, batch)))
        return found

    def require_resizing(self) -> None:
        """See :class:`Part`."""
        refuse_patterns(self)
        if not isinstance(self.model.policy, PrunedPolicy):  # an extractor of this package in a stock policy
            raise ValueError(
                f"{type(self.model.policy).__name__} cannot save how many weights of each layer are active, which this method "
                "changes: use a policy of this package, or sparsify(model, sparsity)."
            )

    def require_pruning(self) -> None:
        """See :class:`Part`."""
        policy: Any = self.model.policy
        if not isinstance(policy, PrunedPolicy):
            sparsify(self.model, 0.0)  # prunes nothing yet, but lets the policy say how sparse it is
        refuse_pattern_of(get_distribution(policy.pruning.distribution))
        pruned = {role for role, _ in network_trees(policy, set())}
        if self.network is not None and ROLES.get(self.network) not in pruned:
            known = sorted(name for name, role in ROLES.items() if role in pruned and name in policy._modules)
            raise ValueError(
                f"{type(policy).__name__} does not prune the {self.network!r} as a network of its own: name one of {known}."
            )

    def sparsities(self) -> dict[str, float]:
        """See :class:`Part`."""
        present = self._all_sparsities()
        return present if self.network is None else {ROLES[self.network]: present[ROLES[self.network]]}

    def prune_to(self, sparsities: Mapping[str, float]) -> None:
        """See :class:`Part`."""
        policy = self.model.policy
        assert isinstance(policy, PrunedPolicy)
        prune_by_magnitude(self.model, with_sparsities(policy, sparsities))

    def note_numbers(self) -> None:
        """See :class:`Part`."""
        note_numbers(self.model)

    def _contains(self, name: str) -> bool:
        """Whether a layer is in this part, and in none that has a method of its own."""
        is_within = self.network is None or _is_within(name, self.network)
        return is_within and not any(_is_within(name, other) for other in self.others)

    def _sparse_networks(self) -> dict[str, MeasuredNetwork]:
        """The networks that hold some of these topologies."""
        wanted = set(self.topologies())
        return {
            name: network
            for name, network in measured_networks(self.model).items()
            if any(layer.topology in wanted for _, layer in sparse_layers(network.module))
        }

    def _all_sparsities(self) -> dict[str, float]:
        policy: Any = self.model.policy
        return by_role(policy.sparsity)


def _is_within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def by_role(sparsity: float | Mapping[str, float]) -> dict[str, float]:
    """
    :param sparsity: Of all networks, or role -> sparsity
    :return: Role -> sparsity
    """
    return dict(sparsity) if isinstance(sparsity, Mapping) else {"actor": sparsity, "critic": sparsity}
