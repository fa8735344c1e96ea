"""Pruning a model that exists already: at random once, or further by magnitude."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_sparse.arguments import check_choice
from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.common.policy_scores import PolicyScores
from sb3_sparse.common.pruned_network import Derived, derived_class
from sb3_sparse.common.pruned_policy import (
    PrunedPolicy,
    active_weights_of,
    apply_plans,
    check_mask_seed,
    draw_mask_seed,
    network_trees,
    pruning_parameters,
    pruning_plans,
)
from sb3_sparse.sparsity import Pattern, Summary, sparse_layers, summary
from sb3_sparse.sparsity.allocation import get_distribution
from sb3_sparse.sparsity.prunable import skipped_modules
from sb3_sparse.sparsity.constant_units import is_safe
from sb3_sparse.sparsity.choices import SCOPES, largest_magnitudes, random_numbers

ModelT = TypeVar("ModelT", bound=BaseAlgorithm)


def sparsify(
    model: ModelT,
    sparsity: float | Mapping[str, float],
    *,
    distribution: str = "erdos_renyi",
    budget: str = "all",
    mask_seed: int | None = None,
    skip: Iterable[str] = (),
    scores: str | Mapping[str, str] = "random",
    scope: str = "layer",
) -> ModelT:
    """
    Prune the networks of a stock SB3 model in place, before or in the middle of training: actor and each critic by themselves
    (critics with a features extractor of their own are one network with it), target networks with the topology of their online
    network. Optimizers then hold the active weights and keep their moments.
    The model saves and loads as before, without this having to be called again.

    :param model: Model of any SB3 or sb3-contrib algorithm with actor and critics, Q-networks, or policy and value networks
        (all but ARS). Recurrent layers are not pruned; with the budget "all" they make most sparsities unreachable
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, of each network, or a mapping with the keys "actor" and
        "critic" (which stands for value and Q-networks of all kinds)
    :param distribution: As for :func:`~sb3_sparse.sparsity.prune`
    :param budget: As for :func:`~sb3_sparse.sparsity.prune`
    :param mask_seed: Seed of the masks; drawn from torch's generator, which SB3 seeds with the model's seed, if None
    :param skip: Names of submodules of ``model.policy`` that stay dense, e.g. "actor.mu"
    :param scores: "random"; "magnitude", for a model that is trained; "snip" or "grasp" (see
        :mod:`sb3_sparse.sparsity.scores`), which take the algorithm's own losses (SAC, TD3, DDPG, TQC, DQN) on ten batches of
        256 transitions of the replay buffer; or a mapping with the keys "actor" and "critic". Before there is a trained
        critic, the actor's loss says little: leave it "random"
    :param scope: As for :func:`~sb3_sparse.sparsity.prune`; networks are never compared with each other
    :return: The same model
    :raises ValueError: for a policy of this package that is pruned already or, at random, takes ``sparsity`` in its
        ``policy_kwargs``; a model pruned before; scores whose loss is not known, or without a batch to compute it of; and
        whatever :func:`sb3_sparse.sparsity.prune` refuses. The model has not changed then.
    """
    policy = model.policy
    _refuse_pruned(policy, scores)
    config = PruningConfig.create(sparsity, distribution, budget)
    check_choice("scope", scope, SCOPES)
    if scope == "global" and isinstance(get_distribution(distribution), Pattern):
        raise ValueError(f'A pattern fixes what every layer keeps: {distribution!r} needs scope="layer".')
    mask_seed = draw_mask_seed() if mask_seed is None else check_mask_seed(mask_seed)
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    found = PolicyScores(model, scores, scope, mask_seed)
    apply_plans(policy, pruning_plans(policy, config, skip), found.choose)
    if not isinstance(policy, PrunedPolicy):
        policy.__class__ = pruned_policy_class(type(policy))
    assert isinstance(policy, PrunedPolicy)
    policy.skip = skip
    policy.note_mask_seed(mask_seed)
    note_pruning(model, sparsity, config, follows=scope == "layer")
    _report_constant_units(policy)
    note_preprocessing(model)
    # What load() builds the policy from.
    model.policy_class = type(policy)
    model.policy_kwargs = {**model.policy_kwargs, **pruning_parameters(policy)}
    return model


def prune_by_magnitude(model: BaseAlgorithm, sparsity: float | Mapping[str, float]) -> int:
    """
    Prune a model's networks in place to a higher sparsity: in every layer the weights of largest magnitude stay, as many as
    the policy's layer-wise allocation gives that layer at this sparsity. So the model is afterwards one that was built with
    this sparsity, and saves and loads as such. Target networks keep the same positions, optimizers their moments.

    :param model: Model whose policy prunes (one of this package, or a stock one after :func:`sb3_sparse.sparsify`)
    :param sparsity: As for ``sparsify``; lower than the present one brings weights back as zeros
    :return: Number of weights that are active in all prunable layers of the online networks
    :raises ValueError: for another policy, and whatever :func:`sb3_sparse.sparsity.prune` refuses. Nothing has changed then.
    """
    policy = model.policy
    if not isinstance(policy, PrunedPolicy):
        raise ValueError(f"{type(policy).__name__} is a stock policy: call sparsify(model, 0.0) first.")
    config = PruningConfig.create(sparsity, policy.pruning.distribution, policy.pruning.budget)
    plans = pruning_plans(policy, config, policy.skip, is_pruned=True)
    apply_plans(policy, plans, lambda role: largest_magnitudes())
    note_pruning(model, sparsity, config, follows=True)
    return sum(count for _, plan in plans for count in plan.counts.values())


def give_numbers(model: BaseAlgorithm, sparsity: float | Mapping[str, float], active_weights: Mapping[str, int]) -> None:
    """
    Bring the layers of a model to numbers of active weights that follow from nothing, at random positions: for masks that are
    loaded afterwards.

    :param model: Model whose policy prunes
    :param sparsity: What it says its sparsity is
    :param active_weights: Layer of the policy -> number of active weights
    """
    policy = model.policy
    assert isinstance(policy, PrunedPolicy)
    config = PruningConfig.create(sparsity, policy.pruning.distribution, policy.pruning.budget, active_weights)
    numbers = {policy.get_submodule(name): number for name, number in active_weights.items()}
    choose = random_numbers(numbers, th.Generator().manual_seed(0))
    apply_plans(policy, pruning_plans(policy, config, policy.skip, is_pruned=True), lambda role: choose)
    note_pruning(model, sparsity, config, follows=False)


def note_numbers(model: BaseAlgorithm) -> None:
    """
    Have a model say that its layers have the numbers of active weights that they have now, whatever its allocation gives.

    :param model: Model whose policy prunes
    """
    policy = model.policy
    assert isinstance(policy, PrunedPolicy)
    found: dict[str, list[Summary]] = {}
    for role, tree in network_trees(policy, skipped_modules(policy, policy.skip)):
        found.setdefault(role, []).append(summary(tree))
    overall = {role: _overall(parts, policy.pruning.budget) for role, parts in found.items()}
    sparsity = with_sparsities(policy, overall)
    config = PruningConfig.create(sparsity, policy.pruning.distribution, policy.pruning.budget)
    note_pruning(model, sparsity, config, follows=False)


def with_sparsities(policy: PrunedPolicy, changed: Mapping[str, float]) -> float | dict[str, float]:
    """
    What a policy's argument ``sparsity`` is with other sparsities: one number where that says it.

    :param policy: Policy
    :param changed: Role -> sparsity
    """
    given = policy.sparsity
    sparsity = {**(given if isinstance(given, Mapping) else dict.fromkeys(("actor", "critic"), given)), **changed}
    roles = {role for role, _ in network_trees(policy, set())}
    different = {sparsity[role] for role in (sparsity if isinstance(given, Mapping) else roles)}
    return different.pop() if len(different) == 1 else sparsity


def note_pruning(model: BaseAlgorithm, sparsity: float | Mapping[str, float], config: PruningConfig, follows: bool) -> None:
    """
    Have a model whose networks were pruned say so, to be saved with it.

    :param model: Model whose policy prunes
    :param sparsity: Sparsity
    :param config: How it was allocated
    :param follows: Whether the numbers of active weights follow from these
    """
    policy = model.policy
    assert isinstance(policy, PrunedPolicy)
    policy.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    policy.pruning = replace(config, active_weights=None if follows else active_weights_of(policy))
    known = {name: value for name, value in model.policy_kwargs.items() if name != "active_weights"}
    numbers = {} if follows else {"active_weights": active_weights_of(policy)}
    model.policy_kwargs = {**known, "sparsity": policy.sparsity, **numbers}


def _overall(parts: Sequence[Summary], budget: str) -> float:
    """Sparsity of networks together."""
    left_out = 0 if budget == "all" else sum(part.other for part in parts)
    return 1.0 - (sum(part.active for part in parts) - left_out) / (sum(part.total for part in parts) - left_out)


def _refuse_pruned(policy: BasePolicy, scores: str | Mapping[str, str]) -> None:
    if not isinstance(policy, PrunedPolicy):
        return
    if isinstance(policy, SparsifiedPolicy) or (scores != "random" and next(sparse_layers(policy), None) is not None):
        raise ValueError(f"The networks of this model are pruned already (sparsity={policy.sparsity}); pruning happens once.")
    if scores == "random":
        raise ValueError(
            f"{type(policy).__name__} prunes its networks itself, once, when it is built: give sparsity in policy_kwargs, or "
            "sparsify a fresh stock model."
        )


def _report_constant_units(policy: PrunedPolicy) -> None:
    """Say how many units are left without inputs, where a batch normalisation follows that divides by their deviation."""
    count = summary(policy).units_without_input
    if count and any(is_safe(layer) or isinstance(layer, _BatchNorm) for layer in policy.modules()):
        warnings.warn(
            f"{count} units of {type(policy).__name__} are left without inputs, so that they are constant and learn nothing. "
            "sb3_sparse.sparsity.summary(model.policy) lists them; a lower sparsity or a larger network leaves fewer.",
            UserWarning,
            stacklevel=3,
        )


class SparsifiedPolicy(Derived, PrunedPolicy):
    """Mixin for the classes that :func:`pruned_policy_class` derives."""


def pruned_policy_class(policy_class: type[BasePolicy]) -> type[PrunedPolicy]:
    """
    Derive the policy class that prunes what a stock one builds.

    :param policy_class: Stock SB3 policy
    """
    return derived_class(SparsifiedPolicy, policy_class)
