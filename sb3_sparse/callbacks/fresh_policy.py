"""The networks of a model as if they had just been built."""

from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.common.extractor import SparseSimBaExtractor
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.common.pruned_policy import PrunedPolicy, draw_mask_seed
from sb3_sparse.networks import DeferredNormalizer, RunningNormalizer
from sb3_sparse.sparsity import SparseLayer
from sb3_sparse.sparsity.topology import Topology

_STATISTICS = (RunningNormalizer, DeferredNormalizer)


def fresh_policy(model: BaseAlgorithm, redraw_topology: bool = False) -> BasePolicy:
    """
    Build a model's policy anew, with parameters from torch's generator, which SB3 seeds with the model's seed.

    :param model: Model
    :param redraw_topology: Prune it with a mask seed that is drawn as well; otherwise it is dense, for parameters of any
        topology to be taken from it
    """
    kwargs: dict[str, Any] = dict(model.policy_kwargs)
    pruning = {"mask_seed": draw_mask_seed()} if redraw_topology else {"sparsity": 0.0}
    if isinstance(model.policy, PrunedPolicy):
        kwargs.update(pruning)
    extractor = kwargs.get("features_extractor_class")
    if isinstance(extractor, type) and issubclass(extractor, SparseSimBaExtractor):
        kwargs["features_extractor_kwargs"] = {**kwargs.get("features_extractor_kwargs", {}), **pruning}
    build: Any = model.policy_class
    policy = build(model.observation_space, model.action_space, model.lr_schedule, **kwargs)  # type: ignore[attr-defined]
    return policy.to(model.device)


@th.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """
    Overwrite a module's parameters and buffers in place by those of a fresh one of the same structure. Running statistics of
    observations stay: they describe the data, not the network. Sparse layers keep their topology if the source's layer is
    dense, and take over its topology otherwise.

    :param source: Fresh module, dense or pruned with the same numbers of active weights
    :param target: Module to overwrite
    """
    statistics = {part for module in target.modules() if isinstance(module, _STATISTICS) for part in module.modules()}
    for name, part in target.named_modules():
        if part in statistics or isinstance(part, Topology):
            continue
        fresh = source.get_submodule(name)
        if isinstance(part, SparseLayer):
            _copy_active(fresh, part)
        for key, parameter in part._parameters.items():
            if parameter is not None and not (isinstance(part, SparseLayer) and key in part.weight_names()):
                parameter.copy_(fresh.get_parameter(key))
        for key, buffer in part._buffers.items():
            if buffer is not None:
                buffer.copy_(fresh.get_buffer(key))


@th.no_grad()
def copy_statistics(online: nn.Module, target: nn.Module) -> None:
    """
    Give a target network the running statistics of its online network, where it has its own: after a reset it is a copy.

    :param online: Online network
    :param target: Its target network
    """
    for name, part in target.named_modules():
        if isinstance(part, _STATISTICS):
            source = online.get_submodule(name)
            for key, buffer in part._buffers.items():
                if buffer is not None:
                    buffer.copy_(source.get_buffer(key))


def _copy_active(fresh: nn.Module, layer: SparseLayer) -> None:
    if isinstance(fresh, SparseLayer):
        layer.set_topology(fresh.indices, *(fresh.get_parameter(values) for values in fresh.value_names.values()))
    else:
        for weight, values in layer.value_names.items():
            layer.get_parameter(values).copy_(layer.topology.gather(fresh.get_parameter(weight)))


@th.no_grad()
def clear_moments(model: BaseAlgorithm, module: nn.Module) -> None:
    """
    Set what optimizers remember of a module's parameters to zero, step counts included, in place: an optimizer that a compiled
    update writes to keeps its tensors. For Adam and its like, momentum and RMSprop this is the state of a new optimizer.

    :param model: Model
    :param module: Part of its networks
    """
    own = set(module.parameters())
    for optimizer in optimizers_of(model.policy):
        for parameter in own & set(optimizer.state):
            state = optimizer.state[parameter]
            for key, value in state.items():
                if isinstance(value, th.Tensor):
                    value.zero_()
                elif isinstance(value, int | float):
                    state[key] = type(value)(0)


def recapture(model: BaseAlgorithm) -> None:
    """
    Tell a model with a compiled update that its networks have changed.

    :param model: Model; only one of this package needs to be told
    """
    if isinstance(model, OwnAlgorithm):
        model.recapture()
