"""Pruning a model further by magnitude, in the middle of training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.pruned_policy import (
    TARGETS,
    PrunedPolicy,
    guard_parts,
    network_trees,
    optimizers_of,
    skipped_modules,
)
from sb3_sparse.sparsity import SparseLayer, Topology, allocate, share_topology, sparse_layers, to_dense
from sb3_sparse.sparsity.layers import sparse_type_of


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
    kept = skipped_modules(policy, policy.skip)
    plans = [(tree, _allocate(tree, getattr(config, role), config, kept)) for role, tree in network_trees(policy, kept)]
    with _optimizers_follow(policy):
        for tree, counts in plans:
            _prune_tree(tree, counts)
        for online, target in TARGETS.items():
            if online in policy._modules and target in policy._modules:
                _follow_target(policy.get_submodule(online), policy.get_submodule(target))
    guard_parts(policy)
    policy.sparsity = dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    policy.pruning = config
    model.policy_kwargs = {**model.policy_kwargs, "sparsity": policy.sparsity}
    return sum(count for _, counts in plans for count in counts.values())


def _allocate(tree: nn.Module, sparsity: float, config: PruningConfig, kept: set[nn.Module]) -> dict[str, int]:
    skipped = {name for name, module in tree.named_modules(remove_duplicate=False) if module in kept}
    return allocate(
        to_dense(tree),
        sparsity,
        distribution=config.distribution,
        budget=config.budget,
        skip=lambda name, _: name in skipped,
    )


@th.no_grad()
def _prune_tree(tree: nn.Module, counts: dict[str, int]) -> None:
    tied: dict[nn.Parameter, nn.Parameter] = {}
    topologies: dict[nn.Parameter, Topology] = {}
    densified: dict[nn.Parameter, nn.Parameter] = {}
    for name, layer in list(tree.named_modules()):
        sparse_type = type(layer) if isinstance(layer, SparseLayer) else sparse_type_of(layer)
        names = [] if sparse_type is None else [f"{name}.{weight}".lstrip(".") for weight in sparse_type.value_names]
        if not names or names[0] not in counts:
            continue
        assert sparse_type is not None
        magnitude = _magnitude(layer)
        if isinstance(layer, SparseLayer):
            layer.densify(densified)
        weight = layer.get_parameter(next(iter(sparse_type.value_names)))
        if counts[names[0]] < weight.numel():
            if weight not in topologies:
                strongest = magnitude.topk(counts[names[0]]).indices.sort().values
                topologies[weight] = Topology(strongest, weight.shape)
            sparse_type.convert(layer, topologies[weight], tied)


def _magnitude(layer: nn.Module) -> th.Tensor:
    """(numel,) absolute values of the first weight, -1 where it is inactive."""
    if not isinstance(layer, SparseLayer):
        sparse_type = sparse_type_of(layer)
        assert sparse_type is not None
        return layer.get_parameter(next(iter(sparse_type.value_names))).abs().reshape(-1)
    magnitude = layer.values.new_full((layer.topology.numel,), -1.0)
    magnitude[layer.topology.long_indices()] = layer.values.abs()
    return magnitude


def _follow_target(online: nn.Module, target: nn.Module) -> None:
    own = {layer for _, layer in sparse_layers(online)}
    densified: dict[nn.Parameter, nn.Parameter] = {}
    for _, layer in list(sparse_layers(target)):
        if layer not in own:
            layer.densify(densified)
    share_topology(online, target)


@contextmanager
def _optimizers_follow(policy: PrunedPolicy) -> Iterator[None]:
    """Let optimizers hold the parameters that replace the pruned ones, in place and with their share of any moments."""
    before = _weights_of(policy)
    places = {id(parameter): place for place, (parameter, _) in before.items()}
    yield
    after = _weights_of(policy)
    for optimizer in optimizers_of(policy):
        for group in optimizer.param_groups:
            group["params"] = [_successor(p, places, before, after, optimizer) for p in group["params"]]


_Weights = dict[tuple[str, str], tuple[nn.Parameter, Topology | None]]


def _weights_of(policy: PrunedPolicy) -> _Weights:
    """Layer and name of its dense weight -> the parameter that holds it, and where its entries sit."""
    found: _Weights = {}
    for name, layer in policy.named_modules():
        if isinstance(layer, SparseLayer):
            for weight, values in layer.value_names.items():
                found[name, weight] = (layer.get_parameter(values), layer.topology)
        elif (sparse_type := sparse_type_of(layer)) is not None:
            for weight in sparse_type.value_names:
                found[name, weight] = (layer.get_parameter(weight), None)
    return found


def _successor(
    parameter: th.Tensor,
    places: Mapping[int, tuple[str, str]],
    before: _Weights,
    after: _Weights,
    optimizer: th.optim.Optimizer,
) -> th.Tensor:
    place = places.get(id(parameter))
    if place is None or after[place][0] is parameter:
        return parameter
    (_, old), (successor, new) = before[place], after[place]
    state = optimizer.state.pop(parameter, None)
    if state:
        optimizer.state[successor] = {key: _moved(value, parameter, old, new) for key, value in state.items()}
    return successor


def _moved(value: Any, parameter: th.Tensor, old: Topology | None, new: Topology | None) -> Any:
    if not isinstance(value, th.Tensor) or value.shape != parameter.shape:
        return value
    dense = value if old is None else old.scatter(value)
    return dense if new is None else new.gather(dense)
