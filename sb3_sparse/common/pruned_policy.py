"""Base of statically sparse policies: the networks of any SB3 policy are pruned once, when it is built."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch as th
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_sparse.algorithms.own_algorithm import TellsNetworks
from sb3_sparse.arguments import check_integer
from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.constructing_algorithm import constructing_algorithm
from sb3_sparse.common.mask_loading import guard_parts, moving_masks
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.sparsity.optimizers import optimizers_follow, optimizers_of
from sb3_sparse.sparsity import PruningPlan, SparseLayer, sparse_layers
from sb3_sparse.sparsity.conversion import follow_topology
from sb3_sparse.sparsity.choices import random_numbers, random_positions
from sb3_sparse.sparsity.prunable import skipped_modules
from sb3_sparse.sparsity.pruning_plan import Choose

# Parts of a network that are not pruned with it: normalisation statistics belong to all networks.
_NOT_PRUNED = ("normalizer",)
# Online network -> the target network that shares its topology.
TARGETS = {"actor": "actor_target", "critic": "critic_target", "q_net": "q_net_target", "quantile_net": "quantile_net_target"}
# Networks that are pruned by themselves, and whose sparsity each has.
ROLES = {"actor": "actor", "critic": "critic", "q_net": "critic", "quantile_net": "critic"}


class PrunedPolicy(BasePolicy):
    """
    Mixin for SB3 policies: prunes actor and critics after they were built, gives target networks the topology of their online
    network, and lets the optimizers hold the active weights.

    :param args: Positional arguments of the policy
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, of each network, or a mapping with the keys "actor", "critic"
    :param distribution: As for :func:`~sb3_sparse.sparsity.prune`
    :param budget: As for :func:`~sb3_sparse.sparsity.prune`
    :param mask_seed: Seed of the masks; drawn from torch's generator, which SB3 seeds with the model's seed, if None
    :param skip: Names of submodules of the policy that stay dense
    :param active_weights: Layer -> number of active weights, in a policy whose numbers do not follow from its sparsity
        (those of a model that was pruned across layers, or expanded); such a model saves them
    :param kwargs: Keyword arguments of the policy
    """

    seed_of_masks: th.Tensor

    def __init__(
        self,
        *args: Any,
        sparsity: float | Mapping[str, float] = 0.0,
        distribution: str = "erdos_renyi",
        budget: str = "all",
        mask_seed: int | None = None,
        skip: Iterable[str] = (),
        active_weights: Mapping[str, int] | None = None,
        **kwargs: Any,
    ):
        # The policy's constructor builds the networks, so all this must be known before it runs.
        self.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
        self.pruning = PruningConfig.create(sparsity, distribution, budget, active_weights)
        self._mask_seed = draw_mask_seed() if mask_seed is None else check_mask_seed(mask_seed)
        self.skip = (skip,) if isinstance(skip, str) else tuple(skip)
        note_preprocessing(constructing_algorithm())
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.note_mask_seed(self._mask_seed)
        self._prune()

    def _prune(self) -> None:
        prune_policy(self, self.pruning, self.mask_seed, self.skip)

    @property
    def mask_seed(self) -> int:
        """Seed that the present masks were drawn with, given or drawn; a loaded policy has that of its checkpoint."""
        return int(self.seed_of_masks)

    def note_mask_seed(self, mask_seed: int) -> None:
        """
        Keep the seed of the masks with them.

        :param mask_seed: Seed
        """
        self.register_buffer("seed_of_masks", th.tensor(mask_seed, device=self.device))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(pruning_parameters(self))
        return data

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """
        Load parameters, masks and statistics.

        :param state_dict: What ``state_dict()`` of a policy with the same sparsity and size returned; its masks replace the
            present ones
        :param strict: Whether the keys must match exactly
        :param assign: See ``torch.nn.Module.load_state_dict``
        :raises RuntimeError: if the topology does not fit: other layers are sparse, or a shape or a number of active weights
            differs.
        :raises ValueError: if the masks differ and a network that shares them is not loaded along, or the masks differ, the
            optimizers already hold moments for the present ones, and ``strict`` is
            off, as SB3's ``set_parameters(..., exact_match=False)`` sets it: the moments would be applied to other weights.
            With ``strict`` the optimizer's state may follow; until it does, an update raises.
        """
        with moving_masks(self, state_dict, strict):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)


def pruning_parameters(policy: PrunedPolicy) -> dict[str, Any]:
    """
    Constructor arguments that reproduce a policy's pruning.

    :param policy: Pruned policy
    :return: Keyword arguments of :class:`PrunedPolicy`
    """
    config = policy.pruning
    return {
        "sparsity": policy.sparsity,
        "distribution": config.distribution,
        "budget": config.budget,
        "mask_seed": policy.mask_seed,
        "skip": policy.skip,
        **({} if config.active_weights is None else {"active_weights": dict(config.active_weights)}),
    }


def active_weights_of(policy: BasePolicy) -> dict[str, int]:
    """
    Count the active weights of a policy's sparse layers; target networks have those of their online networks.

    :param policy: Pruned policy
    :return: Layer -> number
    """
    layers = sparse_layers(policy)
    return {name: layer.topology.active for name, layer in layers if name.partition(".")[0] not in TARGETS.values()}


def draw_mask_seed() -> int:
    """Draw a mask seed from torch's default generator, which SB3 seeds with the model's seed."""
    return int(th.randint(2**31, (), device="cpu"))


def check_mask_seed(mask_seed: int) -> int:
    """
    Validate a mask seed.

    :param mask_seed: Integer from 0 to 2^63 - 1
    :raises ValueError: if it is none.
    """
    return check_integer("mask_seed", mask_seed, 0, 2**63 - 1, "or None to draw it from the model's seed")


def prune_policy(policy: BasePolicy, config: PruningConfig, mask_seed: int, skip: Iterable[str] = ()) -> None:
    """
    Prune the networks of a policy in place. Either all of it happens or, on an error, nothing.

    :param policy: Any SB3 policy with actor and critics, Q-networks, or policy and value networks
    :param config: Sparsities and how they are allocated
    :param mask_seed: Seed of the masks
    :param skip: Names of submodules of the policy that stay dense
    :raises ValueError: if a submodule is unknown, and whatever :func:`sb3_sparse.sparsity.prune` refuses.
    """
    generator = th.Generator().manual_seed(mask_seed)
    choose = random_positions(generator)
    if config.active_weights is not None:
        numbers = {policy.get_submodule(name): number for name, number in config.active_weights.items()}
        choose = random_numbers(numbers, generator)
    apply_plans(policy, pruning_plans(policy, config, skip), lambda role: choose)


def pruning_plans(
    policy: BasePolicy, config: PruningConfig, skip: Iterable[str], is_pruned: bool = False
) -> list[tuple[str, PruningPlan]]:
    """
    Plan how the networks of a policy are pruned.

    :param policy: Policy
    :param config: Sparsities and how they are allocated
    :param skip: Names of submodules of the policy that stay dense
    :param is_pruned: Whether the networks may be pruned already
    :return: For each network its role, "actor" or "critic", and a plan
    :raises ValueError: if a submodule is unknown, and whatever :func:`sb3_sparse.sparsity.prune` refuses.
    """
    kept = skipped_modules(policy, skip)
    options: dict[str, Any] = {"distribution": config.distribution, "budget": config.budget, "skip": kept}
    return [
        (role, PruningPlan(tree, config.planned(role), is_pruned=is_pruned, **options))
        for role, tree in network_trees(policy, kept)
    ]


def apply_plans(policy: BasePolicy, plans: Iterable[tuple[str, PruningPlan]], choose: Callable[[str], Choose]) -> None:
    """
    Prune the networks of a policy in place; target networks get the same positions, optimizers keep their moments.

    :param policy: Policy
    :param plans: See :func:`pruning_plans`
    :param choose: Role -> what chooses the positions of every layer
    """
    with optimizers_follow(policy, optimizers_of(policy)):
        for role, plan in plans:
            plan.apply(choose(role))
        for online, target in TARGETS.items():
            if online in policy._modules and target in policy._modules:
                follow_topology(policy.get_submodule(online), policy.get_submodule(target))
    guard_parts(policy)


def network_trees(policy: BasePolicy, kept: set[nn.Module]) -> list[tuple[str, nn.Module]]:
    """
    Find what is pruned as one network each; a policy that :class:`TellsNetworks` says so itself.

    :param policy: Any SB3 policy with actor and critics, Q-networks, or policy and value networks
    :param kept: Modules that stay dense; a network of nothing else is left out
    :return: Pairs of role ("actor" or "critic") and a container of the network's parts
    :raises ValueError: if the policy's networks are not known.
    """
    return [
        (role, tree)
        for role, tree in _trees(policy)
        if not all(module in kept for module in tree.modules() if module._parameters)
    ]


def _trees(policy: BasePolicy) -> Iterator[tuple[str, nn.Module]]:
    """Yield what is pruned as one network each, with its role: actor and critics, together if they share an own extractor."""
    if isinstance(policy, TellsNetworks):
        yield from policy.pruned_networks()
        return
    if isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy):
        yield from _actor_critic_trees(policy)
        return
    modules = policy._modules
    critic = modules.get("critic", modules.get("q_net", modules.get("quantile_net")))
    if critic is None:
        raise ValueError(f"Don't know the networks of {type(policy).__name__}: prune them with sb3_sparse.sparsity.prune.")
    actor = modules.get("actor")
    if actor is not None:
        yield "actor", _tree(actor._modules)
    actor_modules = set() if actor is None else set(actor.modules())
    # An extractor shared with the actor is pruned with it, and one without weights is nothing to prune.
    critics = {
        name: child
        for name, child in critic._modules.items()
        if child is not None and child not in actor_modules and _has_weights(child)
    }
    if "features_extractor" in critics:
        yield "critic", _tree(critics)
    else:
        yield from (("critic", _tree({name: child})) for name, child in critics.items())


def _has_weights(module: nn.Module) -> bool:
    return any(p.ndim >= 2 for p in module.parameters()) or any(isinstance(m, SparseLayer) for m in module.modules())


def _actor_critic_trees(policy: Any) -> Iterator[tuple[str, nn.Module]]:
    actor = {"extractor": policy.pi_features_extractor, "latent": policy.mlp_extractor.policy_net, "head": policy.action_net}
    critic = {"latent": policy.mlp_extractor.value_net, "head": policy.value_net}
    # Recurrent layers cannot be pruned, but count in the budget.
    actor["recurrent"], critic["recurrent"] = policy._modules.get("lstm_actor"), policy._modules.get("lstm_critic")
    if policy.vf_features_extractor is not policy.pi_features_extractor:
        critic["extractor"] = policy.vf_features_extractor
    yield "actor", _tree(actor)
    yield "critic", _tree(critic)


def _tree(children: Mapping[str, nn.Module | None]) -> nn.Module:
    return nn.ModuleDict({name: child for name, child in children.items() if child is not None and name not in _NOT_PRUNED})
