"""
The one rule of loading masks: they move together with all that rests on them, which are the values of all networks that share
them and the moments of the optimizers. A policy that is loaded as a whole moves both; what would move one without the other is
refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.common.pruned_network import let_load_alone
from sb3_sparse.sparsity import SparseLayer
from sb3_sparse.sparsity.topology import Topology

LOAD_ALL = (
    "Load everything at once (model.set_parameters(path_or_dict) with exact_match=True, or Algorithm.load(path)), or build "
    "both models with the same mask_seed."
)
_STALE_MOMENTS = (
    "The loaded masks differ from those that the optimizers' moments belong to; load into a fresh model or clear the moments "
    f"(optimizer.state.clear()). {LOAD_ALL}"
)


@contextmanager
def moving_masks(policy: BasePolicy, state_dict: Mapping[str, Any], strict: bool) -> Iterator[None]:
    """
    Load a whole policy within this context, whose masks may move.

    :param policy: Pruned policy
    :param state_dict: What is loaded
    :param strict: Whether its keys must match exactly
    :raises RuntimeError: if other layers are sparse there.
    :raises ValueError: if the masks differ and a network that shares them is not loaded along, or the optimizers hold moments
        for the present ones and ``strict`` is off, so that their state does not follow. With ``strict`` it may; until it does,
        an update raises.
    """
    _refuse_other_sparse_layers(policy, state_dict, strict)
    moved = moved_topologies(policy, state_dict)
    _refuse_stale_values(policy, state_dict, moved)
    stale = [optimizer for optimizer in optimizers_of(policy) if optimizer.state] if moved else []
    if stale and not strict:
        raise ValueError(_STALE_MOMENTS)
    yield
    for optimizer in stale:
        block_until_loaded(optimizer)


def moved_topologies(module: nn.Module, state_dict: Mapping[str, Any]) -> set[Topology]:
    """
    Find the topologies that loading would change.

    :param module: Module to load into
    :param state_dict: What would be loaded
    """
    moved: set[Topology] = set()
    for name, topology in module.named_modules(remove_duplicate=False):
        if isinstance(topology, Topology):
            indices = state_dict.get(f"{name}.indices".removeprefix("."), topology.verified_indices())
            if not th.equal(indices.to(topology.indices), topology.indices):
                moved.add(topology)
    return moved


def refuse_to_move_alone(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """
    Hook for the parts of a policy: refuse to load one by itself (an empty prefix) if that moves a topology, which its target
    network shares and its optimizer's moments belong to.

    :param module: Part of a policy
    :param state_dict: What is being loaded
    :param prefix: What the part's keys begin with
    :raises ValueError: if a topology would move.
    """
    if prefix == "" and moved_topologies(module, state_dict):
        raise ValueError(f"The masks of {type(module).__name__} would change, but it is only a part of the policy. {LOAD_ALL}")


def guard_parts(policy: BasePolicy) -> None:
    """
    Have the parts of a policy refuse to take a state alone where that would move a topology, and load alone as new networks;
    parts that do already are left alone.

    :param policy: Pruned policy
    """
    for module in policy.modules():
        hooks: Iterable[Any] = module._load_state_dict_pre_hooks.values()
        guarded = any(hook.hook is refuse_to_move_alone for hook in hooks)
        if module is not policy and not guarded and any(isinstance(part, Topology) for part in module.modules()):
            module.register_load_state_dict_pre_hook(refuse_to_move_alone)
            let_load_alone(module)


def block_until_loaded(optimizer: th.optim.Optimizer) -> None:
    """
    Refuse updates with moments of other weights until the optimizer's own state was loaded or cleared.

    :param optimizer: Optimizer of parameters whose topology has moved
    """

    blocked = True

    # The hooks stay registered: torch iterates over them while it calls them.
    def refuse(optimizer: th.optim.Optimizer, *_: Any) -> None:
        nonlocal blocked
        blocked = blocked and bool(optimizer.state)
        if blocked:
            raise ValueError(_STALE_MOMENTS)

    def release(*_: Any) -> None:
        nonlocal blocked
        blocked = False

    optimizer.register_step_pre_hook(refuse)
    optimizer.register_load_state_dict_post_hook(release)


def _refuse_other_sparse_layers(policy: BasePolicy, state_dict: Mapping[str, Any], strict: bool) -> None:
    suffix = ".topology.indices"
    here = {name for name in policy.state_dict() if name.endswith(suffix)}
    there = {name for name in state_dict if name.endswith(suffix)}
    if not strict:
        # A layer may be missing altogether.
        here = {name for name in here if name in there or f"{name.removesuffix(suffix)}.weight" in state_dict}
    if here != there:
        name = sorted(here ^ there)[0].removesuffix(suffix)
        where = "the model only" if f"{name}{suffix}" in here else "the checkpoint only"
        raise RuntimeError(
            f"The checkpoint's topology does not fit: {len(there)} layers are sparse in the checkpoint, {len(here)} in "
            f"the model ({name!r} is sparse in {where}). Build the model with the sparsity, distribution, budget and "
            f"network size that the checkpoint was made with; this model has sparsity={policy.sparsity}."
        )


def _refuse_stale_values(policy: BasePolicy, state_dict: Mapping[str, Any], moved: set[Topology]) -> None:
    """A network whose shared topology moves without its values would compute something else, unnoticed."""
    for name, layer in policy.named_modules(remove_duplicate=False):
        if isinstance(layer, SparseLayer) and layer.topology in moved and f"{name}.values" not in state_dict:
            raise ValueError(f"The checkpoint moves the topology of {name!r}, but does not have its values. {LOAD_ALL}")
