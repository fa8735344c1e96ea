"""Pruning a model that exists already: at random once, or further by magnitude."""

import warnings
from collections.abc import Iterable, Mapping
from typing import TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.common.pruned_network import Derived, derived_class
from sb3_sparse.common.pruned_policy import (
    PrunedPolicy,
    apply_plans,
    check_mask_seed,
    draw_mask_seed,
    prune_policy,
    pruning_parameters,
    pruning_plans,
)
from sb3_sparse.sparsity import summary
from sb3_sparse.sparsity.constant_units import is_safe
from sb3_sparse.sparsity.pruning_plan import largest_magnitudes

ModelT = TypeVar("ModelT", bound=BaseAlgorithm)


def sparsify(
    model: ModelT,
    sparsity: float | Mapping[str, float],
    *,
    distribution: str = "erdos_renyi",
    budget: str = "all",
    mask_seed: int | None = None,
    skip: Iterable[str] = (),
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
    :return: The same model
    :raises ValueError: for a policy of this package, which takes ``sparsity`` in its ``policy_kwargs``, a model pruned before,
        and whatever :func:`sb3_sparse.sparsity.prune` refuses. The model has not changed then.
    """
    policy = model.policy
    if isinstance(policy, SparsifiedPolicy):
        raise ValueError(f"The networks of this model are pruned already (sparsity={policy.sparsity}); pruning happens once.")
    if isinstance(policy, PrunedPolicy):
        raise ValueError(
            f"{type(policy).__name__} prunes its networks itself, once, when it is built: give sparsity in policy_kwargs, or "
            "sparsify a fresh stock model."
        )
    config = PruningConfig.create(sparsity, distribution, budget)
    mask_seed = draw_mask_seed() if mask_seed is None else check_mask_seed(mask_seed)
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    prune_policy(policy, config, mask_seed, skip)
    policy.__class__ = pruned_policy_class(type(policy))
    assert isinstance(policy, PrunedPolicy)
    policy.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    policy.pruning, policy.skip = config, skip
    policy.note_mask_seed(mask_seed)
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
    apply_plans(policy, plans, largest_magnitudes)
    policy.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    policy.pruning = config
    model.policy_kwargs = {**model.policy_kwargs, "sparsity": policy.sparsity}
    return sum(count for plan in plans for count in plan.counts.values())


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
