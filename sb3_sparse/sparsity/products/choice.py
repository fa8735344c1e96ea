"""Choice of the fastest product of a sparse weight matrix with a batch on a CPU, and its gradients."""

import functools
import importlib
import importlib.util
import os
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_sparse.sparsity.products import mkl_products
from sb3_sparse.sparsity.topology import Topology


class Products(NamedTuple):
    """
    Which products of a layer multiply active weights only; the others multiply the dense matrix, which is built for them.

    :param forward: The output
    :param input_gradient: The gradient of the input
    :param weight_gradient: The gradient of the active weights
    """

    forward: bool
    input_gradient: bool
    weight_gradient: bool


@dataclass(frozen=True)
class Crossover:
    """
    Up to which density a back end is faster than the dense matrix.

    :param forward: Largest density for the output
    :param input_gradient: Largest density for the gradient of the input
    :param weight_gradient: Largest density for the gradient of the active weights
    :param small_batch: Up to this batch size it is faster at every density, because the dense matrix has to be built first
    """

    forward: float
    input_gradient: float
    weight_gradient: float
    small_batch: int

    def products(self, density: float, batch: int) -> Products:
        """
        :param density: Density of a layer, in (0, 1]
        :param batch: Number of samples
        """
        if batch <= self.small_batch:
            return Products(True, True, True)
        return Products(density <= self.forward, density <= self.input_gradient, density <= self.weight_gradient)


# Measured by `python -m sb3_sparse bench products` on one core of an AMD EPYC (Zen 5), where MKL multiplies dense matrices
# at about 115 GFLOP/s, at 2048 x 512, 512 x 2048 and 2560 x 640; sizes differ no more than repetitions. Largest densities at
# batch 256, kernels: output 0.58 to 0.62, gradient of the input 0.48 to 0.55, of the weights 0.59 to 0.80; MKL: 0.21 to
# 0.26, below 0.2 to 0.24, 0.27 to 0.37. At batch 64 they are up to a third larger, at small batches there is none for the
# output. On processors that are faster at dense matrices they are lower, hence the lower ends.
KERNEL_CROSSOVER = Crossover(forward=0.55, input_gradient=0.55, weight_gradient=0.6, small_batch=32)
MKL_CROSSOVER = Crossover(forward=0.2, input_gradient=0.2, weight_gradient=0.3, small_batch=16)


@dataclass(frozen=True)
class BackEnd:
    """
    A way to multiply active weights only.

    :param name: Its name
    :param module: What multiplies: functions ``rows_of``, ``multiply``, ``input_gradient``, ``weight_gradient``
    :param crossover: Where it pays
    """

    name: str
    module: ModuleType
    crossover: Crossover


def back_end_for(topology: Topology) -> BackEnd | None:
    """
    Find what multiplies the active weights of a layer on a CPU: the compiled kernels (extra ``fast``) if they are installed,
    else Intel MKL if torch was built with it.

    :param topology: Topology of a matrix
    :return: The back end, or None if there is but the dense matrix
    """
    kernels = _kernels()
    if kernels is not None and kernels.module.fits(topology):
        return kernels
    return _mkl()


def products_by_kernels(topology: Topology, batch: int) -> Products:
    """
    :param topology: Topology of a matrix
    :param batch: Number of samples
    :return: Which products the compiled kernels make faster than BLAS those of the dense matrix
    """
    return KERNEL_CROSSOVER.products(topology.density, batch)


def available_back_ends() -> list[BackEnd]:
    """All back ends that can be used here, the fastest first."""
    return [back_end for back_end in (_kernels(), _mkl()) if back_end is not None]


def kernels_are_available() -> bool:
    """Whether the compiled kernels can be used: numba is installed, loads, and is not switched off (NUMBA_DISABLE_JIT)."""
    return _kernels() is not None


@functools.cache
def _kernels() -> BackEnd | None:
    if importlib.util.find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return None
    try:
        module = importlib.import_module("sb3_sparse.sparsity.products.kernel_products")
    except ImportError as error:  # numba does not load beside a NumPy that it doesn't know
        warnings.warn(f"numba cannot be used ({error}), so sparse layers are slower than they could be.", RuntimeWarning)
        return None
    return BackEnd("kernels", module, KERNEL_CROSSOVER)


@functools.cache
def _mkl() -> BackEnd | None:
    return BackEnd("mkl", mkl_products, MKL_CROSSOVER) if th.backends.mkl.is_available() else None


def sparse_linear(input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, topology: Topology) -> th.Tensor | None:
    """
    ``input @ weight.T + bias``, where active weights are multiplied only and that is the fastest way, for the output or for a
    gradient. Where the gradient is to be differentiated itself (``create_graph=True``), the dense matrix is built.

    Nothing is kept from one call to the next but what follows from the topology: the values may change in place, unnoticed.

    :param input: (..., in_features) batch
    :param values: (active,) values of the active weights
    :param bias: (out_features,) or None
    :param topology: Positions of the active weights in an (out_features, in_features) matrix
    :return: (..., out_features), contiguous; None if all products are to be made with the dense matrix
    """
    if not are_ordinary(input, values) or not _fit(input, values, bias, topology):
        return None
    back_end = back_end_for(topology)
    if back_end is None:
        return None
    features = input.shape[-1]
    products = back_end.crossover.products(topology.density, input.numel() // features)
    needs_grad = th.is_grad_enabled() and (
        input.requires_grad or values.requires_grad or (bias is not None and bias.requires_grad)
    )
    if not (any(products) if needs_grad else products.forward):
        return None
    flat = input if input.ndim == 2 else input.reshape(-1, features)
    if needs_grad:
        output = _SparseLinear.apply(flat, values, bias, topology, back_end.module, products)  # type: ignore[no-untyped-call]
    else:
        output = back_end.module.multiply(flat, values, bias, back_end.module.rows_of(topology, False))
    return output if input.ndim == 2 else output.view(*input.shape[:-1], topology.shape[0])


def are_ordinary(input: th.Tensor, values: th.Tensor) -> bool:
    """
    :param input: Input of a layer
    :param values: Its weights
    :return: Whether these are plain numbers in memory that nobody follows through torch's operations
    """
    # torch.compile and torch.export, torch.jit.trace, torch.func, and modes such as FakeTensorMode.
    if th.compiler.is_compiling() or th._C._is_tracing() or th._C._are_functorch_transforms_active():
        return False
    if not (input.is_cpu and values.is_cpu) or th._C._len_torch_dispatch_stack() or th.is_autocast_enabled("cpu"):
        return False
    return type(input) in (th.Tensor, th.nn.Parameter) and input.dtype in (th.float32, th.float64)


def _fit(input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, topology: Topology) -> bool:
    """Whether types and shapes fit together: kernels would not notice, the dense product says what is wrong."""
    if input.shape[-1] != topology.shape[1] or input.numel() == 0 or values.shape != (topology.active,):
        return False
    if bias is not None and (bias.dtype != input.dtype or bias.shape != topology.shape[:1] or not bias.is_cpu):
        return False
    return values.dtype == input.dtype


class _SparseLinear(th.autograd.Function):
    @staticmethod
    def forward(ctx, input, values, bias, topology, module, products):  # type: ignore[no-untyped-def]
        # Rows and positions and not the topology, which may have moved by the time of the backward pass.
        rows = module.rows_of(topology, with_transpose=ctx.needs_input_grad[0] and products.input_gradient)
        # The topology keeps its positions for the dense matrix; otherwise they are a detour that is seldom taken.
        positions = None if all(products) else topology.long_indices()
        ctx.positions = rows.positions if positions is None else lambda: positions
        ctx.save_for_backward(input, values)
        ctx.shape, ctx.rows, ctx.module, ctx.products = topology.shape, rows, module, products
        if products.forward:
            return module.multiply(input, values, bias, rows)
        return F.linear(input, _dense(values, ctx.positions(), topology.shape), bias)

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        input, values = ctx.saved_tensors
        module, rows, products = ctx.module, ctx.rows, ctx.products
        # The gradient is to be differentiated, or there are several (is_grads_batched=True).
        if th.is_grad_enabled() or th._C._functorch.is_legacy_batchedtensor(grad_output):
            products = Products(False, False, False)
        grad_input = grad_values = grad_bias = None
        if ctx.needs_input_grad[0] and products.input_gradient:
            grad_input = module.input_gradient(grad_output, values, rows)
        elif ctx.needs_input_grad[0]:
            grad_input = grad_output @ _dense(values, ctx.positions(), ctx.shape)
        if ctx.needs_input_grad[1] and products.weight_gradient:
            grad_values = module.weight_gradient(grad_output, input, rows)
        elif ctx.needs_input_grad[1]:
            grad_values = (grad_output.t() @ input).reshape(-1).index_select(0, ctx.positions())
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_values, grad_bias, None, None, None


def _dense(values: th.Tensor, positions: th.Tensor, shape: th.Size) -> th.Tensor:
    return values.new_zeros(shape.numel()).scatter(0, positions, values).view(shape)
