"""The products of a sparse layer by torch's operations on compressed rows, which Intel MKL multiplies."""

import functools
import warnings
from typing import NamedTuple

import torch as th

from sb3_sparse.sparsity.products.compressed_rows import CompressedRows, compressed_rows
from sb3_sparse.sparsity.topology import Topology


class Rows(NamedTuple):
    """
    What the products need of a topology.

    :param shape: Shape of the matrix
    :param rows: Its compressed rows
    """

    shape: th.Size
    rows: CompressedRows

    def positions(self) -> th.Tensor:
        """(active,) int64 flat row-major positions of the active weights."""
        counts = self.rows.row_starts.diff().long()
        rows = th.arange(self.shape[0], device=counts.device).repeat_interleave(counts)
        return rows * self.shape[1] + self.rows.columns


def rows_of(topology: Topology, with_transpose: bool) -> Rows:
    """
    :param topology: Topology of a matrix
    :param with_transpose: Whether the input's gradient will be wanted; compressed rows have the transpose always
    """
    return Rows(topology.shape, topology.derive(compressed_rows))


# Batches are transposed, because MKL multiplies a sparse matrix from the left, and its rows by columns six times slower.
# Results are transposed back, since a module may call ``view`` on what it takes for the output of a linear layer, and
# elementwise operations are slow on two layouts.


def multiply(input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, rows: Rows) -> th.Tensor:
    """See :func:`sb3_sparse.sparsity.products.kernel_products.multiply`."""
    output = _matrix(rows.rows.row_starts, rows.rows.columns, values, rows.shape) @ input.t().contiguous()  # (out, batch)
    if bias is not None:
        output += bias.unsqueeze(1)
    return output.t().contiguous()


def input_gradient(grad_output: th.Tensor, values: th.Tensor, rows: Rows) -> th.Tensor:
    """See :func:`sb3_sparse.sparsity.products.kernel_products.input_gradient`."""
    _, _, row_starts, columns, order = rows.rows
    transposed = _matrix(row_starts, columns, values.index_select(0, order), rows.shape[::-1])
    return (transposed @ grad_output.t().contiguous()).t().contiguous()


def weight_gradient(grad_output: th.Tensor, input: th.Tensor, rows: Rows) -> th.Tensor:
    """See :func:`sb3_sparse.sparsity.products.kernel_products.weight_gradient`."""
    zeros = input.new_zeros(rows.rows.columns.numel())
    pattern = _matrix(rows.rows.row_starts, rows.rows.columns, zeros, rows.shape)
    outer = grad_output.t().contiguous(), input.t().contiguous().t()
    return th.sparse.sampled_addmm(pattern, *outer, beta=0.0).values()


def _matrix(row_starts: th.Tensor, columns: th.Tensor, values: th.Tensor, shape: th.Size) -> th.Tensor:
    _silence_beta_notice()
    return th.sparse_csr_tensor(row_starts, columns, values, shape, device=values.device, check_invariants=False)


@functools.cache
def _silence_beta_notice() -> None:
    # torch says once per process that CSR support is in beta; a user of a sparse layer can do nothing about it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        starts, columns, values = (th.zeros(size, device="cpu") for size in (2, 0, 0))
        th.sparse_csr_tensor(starts.int(), columns.int(), values, (1, 1), device="cpu", check_invariants=False)
