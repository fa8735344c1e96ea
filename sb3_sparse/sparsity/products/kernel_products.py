"""The products of a sparse layer by compiled kernels: addresses, scratch memory and threads for them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_sparse.sparsity.products import kernels
from sb3_sparse.sparsity.products.blocked_rows import BlockedRows, blocked_rows, transposed_blocked_rows
from sb3_sparse.sparsity.topology import Topology

# Up to this many samples are multiplied one by one; more are cheaper as a tile, however small.
FEW_SAMPLES = 2
# Multiplications worth a thread, about 0.2 ms: handing work to a thread costs some 20 us.
WORK_PER_THREAD = 2**23

ZEROS = {th.float32: np.float32(0.0), th.float64: np.float64(0.0)}


class Rows(NamedTuple):
    """
    What the products need of a topology.

    :param rows: The topology
    :param transposed: Its transpose, and the order of the values in it; None if no gradient of the input is wanted
    """

    rows: BlockedRows
    transposed: tuple[BlockedRows, th.Tensor] | None

    def positions(self) -> th.Tensor:
        """(active,) int64 flat row-major positions of the active weights."""
        return self.rows.positions()


def fits(topology: Topology) -> bool:
    """
    :param topology: Topology of a matrix
    :return: Whether the kernels can number its rows and columns with 16 bits, and its weights with 31
    """
    rows, columns = topology.shape
    return rows <= 2**16 and columns <= 2**16 and topology.numel < 2**31


def rows_of(topology: Topology, with_transpose: bool) -> Rows:
    """
    :param topology: Topology of a matrix
    :param with_transpose: Whether the input's gradient will be wanted
    """
    return Rows(topology.derive(blocked_rows), topology.derive(transposed_blocked_rows) if with_transpose else None)


def multiply(input: th.Tensor, values: th.Tensor, bias: th.Tensor | None, rows: Rows) -> th.Tensor:
    """
    :param input: (batch, in_features)
    :param values: (active,)
    :param bias: (out_features,) or None
    :param rows: Where the values are
    :return: (batch, out_features)
    """
    return _multiply(input, values, None, rows.rows, bias)


def input_gradient(grad_output: th.Tensor, values: th.Tensor, rows: Rows) -> th.Tensor:
    """
    :param grad_output: (batch, out_features)
    :param values: (active,)
    :param rows: Where the values are, with the transpose
    :return: (batch, in_features)
    """
    assert rows.transposed is not None
    transposed, order = rows.transposed
    return _multiply(grad_output, values, order, transposed, None)


def weight_gradient(grad_output: th.Tensor, input: th.Tensor, rows: Rows) -> th.Tensor:
    """
    :param grad_output: (batch, out_features)
    :param input: (batch, in_features)
    :param rows: Where the active weights are
    :return: (active,)
    """
    grad_output, input = grad_output.contiguous(), input.contiguous()
    gradients = input.new_zeros(rows.rows.columns.numel())
    run = partial(_add_weight_gradients, grad_output, input, rows.rows, gradients)
    _share_out(run, rows.rows.shape[0], gradients.numel() * len(input))
    return gradients


def _multiply(
    input: th.Tensor, values: th.Tensor, order: th.Tensor | None, rows: BlockedRows, bias: th.Tensor | None
) -> th.Tensor:
    input, values, bias = input.contiguous(), values.contiguous(), None if bias is None else bias.contiguous()
    batch, height = input.shape[0], rows.shape[0]
    output = input.new_empty(batch, height)
    if order is None and batch <= FEW_SAMPLES:
        run = partial(_multiply_samples, input, values, rows, bias, output)
    else:
        run = partial(_multiply_tiles, input, values, order, rows, bias, output)
    _share_out(run, height, values.numel() * batch)
    return output


# Below, an address is only good as long as its tensor is referred to, which the callers see to.


def _multiply_samples(
    input: th.Tensor, values: th.Tensor, rows: BlockedRows, bias: th.Tensor | None, output: th.Tensor, first: int, last: int
) -> None:
    # Without _problem, whose call a single sample would notice.
    (height, width), blocks, starts, columns = rows
    kernels.multiply_samples(
        ZEROS[input.dtype],
        values.data_ptr(),
        columns.data_ptr(),
        starts.data_ptr(),
        blocks,
        first,
        last,
        input.data_ptr(),
        width,
        input.shape[0],
        0 if bias is None else bias.data_ptr(),
        output.data_ptr(),
        height,
    )


def _multiply_tiles(
    input: th.Tensor,
    values: th.Tensor,
    order: th.Tensor | None,
    rows: BlockedRows,
    bias: th.Tensor | None,
    output: th.Tensor,
    first: int,
    last: int,
) -> None:
    block, sums = _scratch(input, rows.blocks, last - first)
    kernels.multiply_tiles(
        ZEROS[input.dtype],
        values.data_ptr(),
        None if order is None else order.data_ptr(),
        *_problem(rows, input, first, last),
        0 if bias is None else bias.data_ptr(),
        output.data_ptr(),
        rows.shape[0],
        block.data_ptr(),
        sums.data_ptr(),
    )


def _add_weight_gradients(
    grad_output: th.Tensor, input: th.Tensor, rows: BlockedRows, gradients: th.Tensor, first: int, last: int
) -> None:
    block, outer = _scratch(input, rows.blocks, last - first)
    kernels.add_weight_gradients(
        ZEROS[input.dtype],
        gradients.data_ptr(),
        *_problem(rows, input, first, last),
        grad_output.data_ptr(),
        rows.shape[0],
        block.data_ptr(),
        outer.data_ptr(),
    )


def _problem(rows: BlockedRows, input: th.Tensor, first: int, last: int) -> tuple[int, int, int, int, int, int, int, int]:
    """What kernels take of the positions, the range of rows that are its share, and the batch."""
    (_, width), blocks, starts, columns = rows
    return columns.data_ptr(), starts.data_ptr(), blocks, first, last, input.data_ptr(), width, input.shape[0]


def _scratch(input: th.Tensor, blocks: int, rows: int) -> tuple[th.Tensor, th.Tensor]:
    """Memory for a block of columns, and for the rows that belong to it at a time."""
    lanes = kernels.TILE_BYTES // input.itemsize
    columns = min(input.shape[1], kernels.BLOCK_COLUMNS)
    return input.new_empty(columns * lanes), input.new_empty((kernels.PANEL_ROWS if blocks == 1 else rows) * lanes)


def _share_out(run: Callable[[int, int], None], rows: int, work: int) -> None:
    """Run on ranges of rows, in as many threads as torch uses if they are worth it; results don't depend on their number."""
    shares = max(1, min(th.get_num_threads(), work // WORK_PER_THREAD, rows // kernels.PANEL_ROWS))
    run_shares(lambda share: run(rows * share // shares, rows * (share + 1) // shares), shares)


def run_shares(run: Callable[[int], None], shares: int) -> None:
    """
    Run shares of some work side by side.

    :param run: Does the share of this number
    :param shares: Number of shares
    """
    others = [_pool().submit(run, share) for share in range(1, shares)]
    run(0)
    for other in others:
        other.result()


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    # By process: the threads of a parent don't live on in a forked child.
    process = os.getpid()
    if process not in _pools:
        _pools.clear()
        _pools[process] = ThreadPoolExecutor(os.cpu_count() or 1, "sb3-sparse")
    return _pools[process]
