"""Scores of the weights of a model's networks, by the losses that its algorithm trains them with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_sparse.algorithms.own_algorithm import sample_losses
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch
from sb3_sparse.arguments import check_choice
from sb3_sparse.common.pruned_policy import ROLES
from sb3_sparse.sparsity import scores
from sb3_sparse.sparsity.choices import highest_scores, largest_magnitudes, random_positions
from sb3_sparse.sparsity.layers import prunable_weights
from sb3_sparse.sparsity.pruning_plan import Choose, PlannedWeight
from sb3_sparse.sparsity.topology import Topology

# With a network's losses on batches of the replay buffer: as many batches as are customary offline (Arnob et al., 2021).
BY_LOSS = {"snip": scores.snip, "grasp": scores.grasp}
BATCHES, BATCH_SIZE = 10, 256
KINDS = ("random", "magnitude", *BY_LOSS)


class PolicyScores:
    """
    Chooses the weights of a model's networks by score.

    :param model: Model
    :param kinds: One of ``KINDS`` for all networks, or by role, "actor" and "critic"
    :param scope: See :func:`~sb3_sparse.sparsity.prune`; networks are never compared with each other
    :param seed: Seed of what is drawn
    :raises ValueError: if a kind is unknown, a loss is, or the replay buffer does not hold a batch.
    """

    def __init__(self, model: BaseAlgorithm, kinds: str | Mapping[str, str], scope: str, seed: int):
        self.kinds = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(("actor", "critic"), kinds)
        if set(self.kinds) != {"actor", "critic"}:
            raise ValueError(f'scores by network need the keys "actor" and "critic", got {dict(self.kinds)!r}.')
        for kind in self.kinds.values():
            check_choice("scores", kind, KINDS)
        self.scope = scope
        self._random = random_positions(th.Generator().manual_seed(seed))
        self._found = _scores_by_loss(model, self.kinds, seed)

    def choose(self, role: str) -> Choose:
        """
        How the weights of a network are chosen.

        :param role: "actor" or "critic"
        """
        kind = self.kinds[role]
        if kind == "random":
            return self._random
        return largest_magnitudes(self.scope) if kind == "magnitude" else self._by_loss

    def _by_loss(self, weights: Sequence[PlannedWeight]) -> Sequence[Topology | None]:
        own = {weight.names[0]: self._found[prunable_weights(weight.layers[0])[0]] for weight in weights}
        return highest_scores(own, self.scope)(weights)


def _scores_by_loss(model: BaseAlgorithm, kinds: Mapping[str, str], seed: int) -> dict[Any, th.Tensor]:
    """Parameter -> its scores, of networks that are pruned by their losses."""
    wanted = {role: kind for role, kind in kinds.items() if kind in BY_LOSS}
    networks = {name: wanted[ROLES[name]] for name in model.policy._modules if ROLES.get(name) in wanted}
    if not wanted:
        return {}
    kind = next(iter(wanted.values()))
    replay_buffer_of(model, f"scores={kind!r}")
    unknown = [name for name in networks if name not in sample_losses(model)]
    if unknown or not networks:
        what = f"the {unknown[0]}'s loss" if unknown else "a loss"
        raise ValueError(f'{kind!r} needs {what}, which is not known of {type(model).__name__}: use scores="magnitude".')
    if not can_sample(model, BATCH_SIZE):
        raise ValueError(
            f"{kind!r} scores weights on batches of {BATCH_SIZE} transitions, and the replay buffer does not hold one yet: "
            "collect some first, e.g. model.learn(1_000) with learning_starts=1_000."
        )
    found: dict[Any, th.Tensor] = {}
    with private_randomness(model, seed):
        batches = [sample_batch(model, BATCH_SIZE) for _ in range(BATCHES)]
        for name, kind in networks.items():
            module: nn.Module = model.policy.get_submodule(name)
            losses = [sample_losses(model)[name](model, batch) for batch in batches]
            own = BY_LOSS[kind](module, [lambda loss=loss: loss().mean() for loss in losses])  # type: ignore[misc]
            found.update({module.get_parameter(key): score for key, score in own.items()})
    return found
