"""Gradual magnitude pruning."""

from collections.abc import Mapping
from dataclasses import dataclass

from sb3_sparse.sparsity.allocation import check_sparsity
from sb3_sparse.sparsity.methods.method import Part, TopologyMethod


@dataclass(frozen=True)
class GradualPruning(TopologyMethod):
    """
    Prunes by magnitude (Zhu and Gupta, 2017; in RL Graesser et al., 2022) from dense, or from the sparsity that the model has,
    to ``final_sparsity`` by the cubic schedule ``S_f + (S_i - S_f) (1 - t)^3``.

    It takes any model. At every moment its layers have as many weights as a model that is built with the sparsity of that
    moment, so that it saves and loads as one. Further arguments: :class:`TopologyMethod`.

    :param final_sparsity: Sparsity at the end, as for :func:`~sb3_sparse.sparsify`
    """

    final_sparsity: float | Mapping[str, float]
    name = "pruning"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.final_sparsity, Mapping):
            if set(self.final_sparsity) != {"actor", "critic"}:
                raise ValueError(
                    f'final_sparsity by network needs the keys "actor" and "critic", got {self.final_sparsity!r}.'
                )
            for role, sparsity in self.final_sparsity.items():
                check_sparsity(sparsity, f'final_sparsity["{role}"]')
        else:
            check_sparsity(self.final_sparsity, "final_sparsity")

    def prepare(self, part: Part) -> None:
        """See :meth:`TopologyMethod.prepare`."""
        part.require_pruning()

    def initial(self, part: Part, progress: float) -> dict[str, float]:
        """Sparsity that the schedule starts from; a model that goes on within it has come some of the way already."""
        present, final = part.sparsities(), self._final(part)
        left = (1.0 - progress) ** 3
        if progress == 0.0 or left == 0.0:
            return present
        return {role: final[role] + (present[role] - final[role]) / left for role in final}

    def change(self, part: Part, progress: float, initial: Mapping[str, float]) -> Mapping[str, float]:
        """See :meth:`TopologyMethod.change`."""
        left = (1.0 - progress) ** 3
        scheduled = {role: final + (initial[role] - final) * left for role, final in self._final(part).items()}
        part.prune_to(scheduled)
        return {f"{role}_sparsity": value for role, value in scheduled.items()}

    def is_complete(self, part: Part, initial: Mapping[str, float]) -> bool:
        """See :meth:`TopologyMethod.is_complete`."""
        return part.sparsities() == self._final(part)

    def _final(self, part: Part) -> dict[str, float]:
        """Role -> sparsity at the end, of the networks that this is about."""
        if isinstance(self.final_sparsity, Mapping):
            return {role: self.final_sparsity[role] for role in part.sparsities()}
        return dict.fromkeys(part.sparsities(), self.final_sparsity)
