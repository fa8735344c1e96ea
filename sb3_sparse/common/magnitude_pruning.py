"""Pruning a model further by magnitude, in the middle of training."""

from collections.abc import Mapping

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.pruned_policy import PrunedPolicy, apply_plans, pruning_plans
from sb3_sparse.sparsity.pruning_plan import largest_magnitudes


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
