"""Gradual magnitude pruning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sb3_sparse.callbacks.topology_method import Part, TopologyMethod
from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.sparsify import prune_by_magnitude, sparsify
from sb3_sparse.common.pruned_policy import ROLES, PrunedPolicy, network_trees

Sparsity = float | Mapping[str, float]


@dataclass(frozen=True)
class GradualPruning(TopologyMethod):
    """
    Prunes by magnitude (Zhu and Gupta, 2017; in RL Graesser et al., 2022) from dense, or from the sparsity that the model has,
    to ``final_sparsity`` by the cubic schedule ``S_f + (S_i - S_f) (1 - t)^3``.

    It takes any model. At every moment its layers have as many weights as a model that is built with the sparsity of that
    moment, so that it saves and loads as one. Further arguments: :class:`TopologyMethod`.

    :param final_sparsity: Sparsity at the end, as for :func:`~sb3_sparse.sparsify`
    """

    final_sparsity: Sparsity
    name = "pruning"

    def __post_init__(self) -> None:
        super().__post_init__()
        PruningConfig.create(self.final_sparsity, "erdos_renyi", "all")

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        if not isinstance(part.model.policy, PrunedPolicy):
            sparsify(part.model, 0.0)  # prunes nothing yet, but lets the policy say how sparse it is
        pruned = {role for role, _ in network_trees(part.model.policy, set())}
        if part.network is not None and ROLES.get(part.network) not in pruned:
            raise ValueError(
                f"{type(part.model.policy).__name__} does not prune the {part.network!r} as a network of its own: name one of "
                f"{sorted(name for name, role in ROLES.items() if role in pruned and name in part.model.policy._modules)}."
            )

    def initial(self, part: Part) -> dict[str, float]:
        """Sparsity that the schedule starts from; a model that goes on within it has come some of the way already."""
        present, final = _present(part), self._final(part)
        left = (1.0 - self.progress(part.model)) ** 3
        if part.model.num_timesteps == 0 or left == 0.0:
            return present
        return {role: final[role] + (present[role] - final[role]) / left for role in final}

    def change(self, part: Part, progress: float, initial: Mapping[str, float]) -> Mapping[str, float]:
        """See :meth:`TopologyMethod.change`."""
        left = (1.0 - progress) ** 3
        scheduled = {role: final + (initial[role] - final) * left for role, final in self._final(part).items()}
        sparsity = {**_present(part), **scheduled}
        prune_by_magnitude(part.model, sparsity["actor"] if sparsity["actor"] == sparsity["critic"] else sparsity)
        return {f"{role}_sparsity": value for role, value in scheduled.items()}

    def is_complete(self, part: Part) -> bool:
        """See :meth:`TopologyMethod.is_complete`."""
        present = _present(part)
        return all(present[role] == final for role, final in self._final(part).items())

    def _final(self, part: Part) -> dict[str, float]:
        """Role -> sparsity at the end, of the networks that this is about."""
        final = by_role(self.final_sparsity)
        if part.network is None:
            return final
        role = ROLES[part.network]
        return {role: final[role]}


def _present(part: Part) -> dict[str, float]:
    policy: Any = part.model.policy
    return by_role(policy.sparsity)


def by_role(sparsity: Sparsity) -> dict[str, float]:
    """
    :param sparsity: Of all networks, or role -> sparsity
    :return: Role -> sparsity
    """
    return dict(sparsity) if isinstance(sparsity, Mapping) else {"actor": sparsity, "critic": sparsity}
