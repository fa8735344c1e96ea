"""Products of a sparse weight matrix with a batch that touch active weights only (compressed sparse rows, Intel MKL)."""

import functools
import warnings

import torch as th

from sb3_sparse.sparsity.topology import Topology

# Crossovers measured on one core of an x86 CPU at layer sizes from 512 x 128 to 4096 x 1024: at batch 256 the three products
# of a training step are faster on compressed rows up to this density; at small batches they are at every density, because
# the alternative builds the dense matrix first.
MAX_DENSITY = 0.2
SMALL_BATCH = 16


def prefers_compressed_rows(input: th.Tensor, values: th.Tensor, topology: Topology) -> bool:
    """
    Decide whether to multiply compressed rows rather than to build the dense matrix.

    :param input: (..., in_features) batch
    :param values: (active,) values of the active weights
    :param topology: Their positions
    """
    if input.device.type != "cpu" or not th.backends.mkl.is_available() or th.is_autocast_enabled("cpu"):
        return False
    # torch.func and torch.export have no rules for compressed rows.
    if th._C._are_functorch_transforms_active() or th.compiler.is_exporting():
        return False
    if values.dtype not in (th.float32, th.float64) or input.dtype != values.dtype or input.numel() == 0:
        return False
    return topology.density <= MAX_DENSITY or input.numel() <= SMALL_BATCH * input.shape[-1]


def compressed_linear(input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, topology: Topology) -> th.Tensor:
    """
    ``input @ weight.T + bias`` at a cost proportional to the number of active weights. Its gradient costs as much, unless it
    is to be differentiated itself (``create_graph=True``): then the dense matrix is built.

    :param input: (..., in_features) batch
    :param values: (active,) values of the active weights
    :param bias: (out_features,) or None
    :param topology: Positions of the active weights in an (out_features, in_features) matrix
    :return: (..., out_features)
    """
    _silence_beta_notice()
    flat = input.reshape(-1, input.shape[-1])
    output: th.Tensor = _CompressedLinear.apply(flat, values, bias, topology)  # type: ignore[no-untyped-call]
    return output.view(*input.shape[:-1], topology.shape[0]) if input.ndim != 2 else output


class _CompressedLinear(th.autograd.Function):
    # Batches are transposed, because MKL multiplies a sparse matrix from the left, and its rows by columns six times slower.
    # The output is transposed back, since a module may call ``view`` on what it takes for the output of a linear layer, and
    # the input's gradient, since elementwise operations are slow on two layouts.

    @staticmethod
    def forward(ctx, input, values, bias, topology):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(input, values)
        # Rows and not the topology, which may have moved by the time of the backward pass.
        ctx.shape, ctx.rows, ctx.indices = topology.shape, topology.compressed_rows(), topology.long_indices()
        ctx.columns = input.t().contiguous()  # (in, batch)
        output = _matrix(ctx.rows.row_starts, ctx.rows.columns, values, ctx.shape) @ ctx.columns  # (out, batch)
        if bias is not None:
            output += bias.unsqueeze(1)
        return output.t().contiguous()

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        input, values = ctx.saved_tensors
        needs_input, needs_values, needs_bias, _ = ctx.needs_input_grad
        rows, shape = ctx.rows, ctx.shape
        if th.is_grad_enabled():
            return _differentiable_gradients(grad_output, input, values, ctx)
        grad_columns = grad_output.t().contiguous()  # (out, batch)
        grad_input = grad_values = grad_bias = None
        if needs_input:
            transposed_values = values.index_select(0, rows.to_transposed)
            transposed = _matrix(rows.transposed_row_starts, rows.transposed_columns, transposed_values, shape[::-1])
            grad_input = (transposed @ grad_columns).t().contiguous()
        if needs_values:
            pattern = _matrix(rows.row_starts, rows.columns, th.zeros_like(values), shape)
            grad_values = th.sparse.sampled_addmm(pattern, grad_columns, ctx.columns.t(), beta=0.0).values()
        if needs_bias:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_values, grad_bias, None


def _differentiable_gradients(grad_output, input, values, ctx):  # type: ignore[no-untyped-def]
    weight = values.new_zeros(ctx.shape.numel()).index_put((ctx.indices,), values).view(ctx.shape)
    grad_values = (grad_output.t() @ input).reshape(-1).index_select(0, ctx.indices)
    return grad_output @ weight, grad_values, grad_output.sum(0) if ctx.needs_input_grad[2] else None, None


def _matrix(row_starts: th.Tensor, columns: th.Tensor, values: th.Tensor, shape: th.Size) -> th.Tensor:
    return th.sparse_csr_tensor(row_starts, columns, values, shape, check_invariants=False)


@functools.cache
def _silence_beta_notice() -> None:
    # torch says once per process that CSR support is in beta; a user of a sparse layer can do nothing about it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        _matrix(th.zeros(2, dtype=th.int32), th.zeros(0, dtype=th.int32), th.zeros(0), th.Size((1, 1)))
