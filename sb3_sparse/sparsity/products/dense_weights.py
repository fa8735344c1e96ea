"""Dense matrices of sparse layers that are kept from one forward pass to the next, by somebody who owns every write."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_sparse.sparsity.topology import Topology


class TakesDenseWeights(nn.Module):
    """Base of layers that can multiply with kept matrices."""

    # Set only while somebody serves kept matrices, so never part of a copy or a pickle.
    dense_weights: "DenseWeights | None" = None


class DenseWeights:
    """
    One dense matrix per topology, which the layers that share it (an online and its target network) fill with their active
    weights in turn. Inactive positions are zeroed once, so a layer costs a write of its active weights, and no second matrix
    is needed for the target.

    A layer fills the matrix only if another layer did so before, or after :meth:`expire`. Optimizers and averaging write
    values in place without leaving a trace, so whoever serves matrices must call that after each of these writes. A backward
    pass fills the matrix again if another layer used it meanwhile.
    """

    def __init__(self) -> None:
        self._matrices: dict[Topology, th.Tensor] = {}
        self._shown: dict[Topology, th.Tensor] = {}
        self._writes: Counter[th.Tensor] = Counter()
        self._layers: dict[nn.Module, list[nn.Module]] = {}

    @contextmanager
    def serving(self, module: nn.Module) -> Iterator[None]:
        """
        Let the layers of a module multiply with the kept matrices while this is open.

        :param module: Any module, which has the same layers every time; those without such a use are left alone
        """
        if module not in self._layers:
            self._layers[module] = [layer for layer in module.modules() if isinstance(layer, TakesDenseWeights)]
        layers = self._layers[module]
        self._shown.clear()
        self._writes.clear()
        # Past torch's __setattr__ and __delattr__, which take longer than a small product.
        for layer in layers:
            vars(layer)["dense_weights"] = self
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["dense_weights"]

    def expire(self, written: Iterable[th.Tensor]) -> None:
        """
        Take note that values were written: matrices that show them are filled anew before their next use.

        :param written: Parameters that were written, ``values`` of layers among them
        """
        if not self._matrices:  # where kernels make all products
            return
        parameters = set(written)
        self._writes.update(parameters)
        self._shown = {topology: values for topology, values in self._shown.items() if values not in parameters}

    def linear(self, input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, topology: Topology) -> th.Tensor:
        """
        ``input @ weight.T + bias``, differentiable once.

        :param input: (..., in_features)
        :param values: (active,) values of the active weights
        :param bias: (out_features,) or None
        :param topology: Their positions in an (out_features, in_features) matrix
        :return: (..., out_features)
        """
        flat = input.reshape(-1, input.shape[-1])
        output: th.Tensor = _Linear.apply(flat, values, bias, self, topology)  # type: ignore[no-untyped-call]
        return output.view(*input.shape[:-1], topology.shape[0])

    def writes(self, values: th.Tensor) -> int:
        """
        :param values: A parameter
        :return: How often it was written since serving began
        """
        return self._writes[values]

    @th.no_grad()
    def matrix(self, values: th.Tensor, topology: Topology) -> th.Tensor:
        """
        :param values: (active,) values of the active weights
        :param topology: Their positions
        :return: The dense matrix, until another layer asks for the one of this topology
        """
        matrix = self._matrices.get(topology)
        if matrix is None:
            matrix = self._matrices[topology] = values.new_zeros(topology.shape)
        if self._shown.get(topology) is not values:
            matrix.view(-1).index_copy_(0, topology.long_indices(), values)
            self._shown[topology] = values
        return matrix


class _Linear(th.autograd.Function):
    @staticmethod
    def forward(ctx, input, values, bias, dense_weights, topology):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(input, values)
        ctx.dense_weights, ctx.topology, ctx.writes = dense_weights, topology, dense_weights.writes(values)
        return F.linear(input, dense_weights.matrix(values, topology), bias)

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        input, values = ctx.saved_tensors
        # Which autograd does not notice: a fused optimizer leaves no trace.
        if ctx.dense_weights.writes(values) != ctx.writes:
            raise RuntimeError("Active weights were written between the forward and the backward pass.")
        grad_input = grad_values = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output @ ctx.dense_weights.matrix(values, ctx.topology)
        if ctx.needs_input_grad[1]:
            grad_values = ctx.topology.gather(grad_output.t() @ input)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_values, grad_bias, None, None
