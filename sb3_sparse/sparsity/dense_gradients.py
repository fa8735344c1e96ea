"""Gradients of all weights of a pruned network, inactive ones included."""

from collections.abc import Callable

import torch as th
from torch import nn

from sb3_sparse.sparsity.conversion import sparse_layers
from sb3_sparse.sparsity.topology import Topology


def dense_gradients(network: nn.Module, losses: Callable[[], th.Tensor]) -> dict[Topology, th.Tensor]:
    """
    Gradients of all weights of a network's sparse layers, inactive ones included.

    :param network: Network
    :param losses: Runs it and returns its losses, a scalar or (samples,), whose mean is differentiated
    """
    layers = [layer for _, layer in sparse_layers(network)]
    for layer in layers:
        layer.record_dense_gradient()
    try:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:  # frozen
            return {}
        with th.enable_grad():
            th.autograd.grad(losses().mean(), parameters, allow_unused=True)
        return {layer.topology: layer.dense_gradient for layer in layers if layer.dense_gradient is not None}
    finally:
        for layer in layers:
            layer.record_dense_gradient(False)
