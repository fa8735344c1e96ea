"""Masks of modules that something else has pruned, and of checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn
from torch.nn.utils import prune as torch_prune

from sb3_sparse.sparsity.layers import sparse_type_of

_INDICES, _SHAPE = ".topology.indices", ".topology.weight_shape"


def nonzero_masks(module: nn.Module) -> dict[str, th.Tensor]:
    """
    Masks of the weights that are not 0, of layers that have zeros; for :func:`~sb3_sparse.sparsity.prune`.

    What ``torch.nn.utils.prune`` has put on the layers is made permanent (its ``remove``), and so are the zeros.

    :param module: Dense module with zeros, e.g. one that torch has pruned, or :func:`~sb3_sparse.sparsity.to_dense`'s
    :return: Parameter name -> mask of its shape
    :raises ValueError: if a weight has zeros only. Nothing has changed then.
    """
    masks: dict[str, th.Tensor] = {}
    layers = [(name, layer, sparse_type) for name, layer in module.named_modules() if (sparse_type := sparse_type_of(layer))]
    for name, layer, sparse_type in layers:
        for key in sparse_type.value_names:
            weight = getattr(layer, key, None)
            if isinstance(weight, th.Tensor) and (mask := weight.detach() != 0).logical_not().any():
                masks[f"{name}.{key}".removeprefix(".")] = mask
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise ValueError(f"{empty[0]!r} has zeros only: a layer needs one weight at least.")
    for _, layer, _ in layers:
        for key in [key for key in layer._parameters if key.endswith("_orig")]:
            torch_prune.remove(layer, key.removesuffix("_orig"))
    return masks


def checkpoint_masks(state_dict: Mapping[str, Any]) -> dict[str, th.Tensor]:
    """
    Masks of a pruned module that was saved, to prune a fresh one before it loads the same file: whatever way its masks were
    found, ``prune(module, masks=checkpoint_masks(state))`` and ``module.load_state_dict(state)`` restore it.

    :param state_dict: What ``state_dict()`` of a pruned module returned
    :return: Name of a layer -> mask of its weight's shape
    """
    masks = {}
    for key, indices in state_dict.items():
        if f".{key}".endswith(_INDICES):
            layer = f".{key}".removesuffix(_INDICES)
            shape = th.Size(state_dict[f"{layer}{_SHAPE}".removeprefix(".")].tolist())
            mask = th.zeros(shape.numel(), dtype=th.bool, device=indices.device)
            mask[indices.long()] = True
            masks[layer.removeprefix(".")] = mask.view(shape)
    return masks
