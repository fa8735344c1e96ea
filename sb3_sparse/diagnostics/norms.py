"""Norms of features, parameters and gradients."""

from collections.abc import Iterable, Mapping

import torch as th
from torch import nn

Tensors = nn.Module | Mapping[str, th.Tensor] | Iterable[th.Tensor]


def feature_norm(features: th.Tensor) -> float:
    """
    Mean over the batch of each sample's L2 norm, ``E_x ||f(x)||`` (Lyle et al., 2022; the paper's code, on the encoder's
    output). After a layer normalisation it says how large that normalisation's scale is.

    :param features: (batch, features)
    :return: Norm, at least 0; NaN for an empty batch
    """
    return float(features.detach().flatten(1).norm(dim=1).mean())


def parameter_norm(parameters: Tensors) -> float:
    """
    L2 norm of all parameters together, biases and normalisation included (paper, section 4.3 and figure 7; its code says which
    parameters). In a sparse network only active weights are parameters.

    :param parameters: A module, or its parameters; parameters used at several places of a module count once
    :return: Norm, at least 0
    """
    return _norm(_tensors(parameters))


def gradient_norm(gradients: Tensors) -> float:
    """
    L2 norm of the gradient with respect to the active weights, all layers together, biases and normalisation included (paper,
    section 4.2).

    In a layer of this package only active weights have a gradient. For a dense network under a mask of one's own, multiply
    the gradient with the mask first.

    When the gradients of a module are read matters: after SAC's ``train()``, for one, the critic's ``.grad`` also holds the
    gradient of the actor's loss. Read them between ``backward()`` and ``optimizer.step()``.

    :param gradients: A module, whose parameters' ``.grad`` are read (None counts as 0), or gradients
    :return: Norm, at least 0
    """
    if isinstance(gradients, nn.Module):
        return _norm([parameter.grad for parameter in gradients.parameters() if parameter.grad is not None])
    return _norm(_tensors(gradients))


def effective_learning_rate(learning_rate: float, parameters: Tensors, power: int = 2) -> float:
    """
    Learning rate on the unit sphere, ``learning_rate / ||parameters||^power``: how far a step turns parameters that a
    following normalisation makes scale-invariant (Lyle et al., 2024, "Normalization and effective learning rates in RL",
    section 3).

    :param learning_rate: Learning rate
    :param parameters: As for :func:`parameter_norm`
    :param power: 2 for gradient descent, whose gradient shrinks with the norm, 1 for optimizers that normalise it (Adam)
    :return: Effective learning rate; infinity if all parameters are 0
    """
    norm = parameter_norm(parameters)
    return learning_rate / norm**power if norm > 0.0 else float("inf")


def _tensors(given: Tensors) -> list[th.Tensor]:
    if isinstance(given, nn.Module):
        return list(given.parameters())
    return list(given.values() if isinstance(given, Mapping) else given)


def _norm(tensors: Iterable[th.Tensor]) -> float:
    norms = th._foreach_norm([tensor.detach() for tensor in tensors] or [th.zeros(1, device="cpu")])
    return float(th.stack([norm.double() for norm in norms]).norm())
