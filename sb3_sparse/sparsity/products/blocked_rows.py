"""A topology as the compiled kernels take it."""

from typing import NamedTuple

import torch as th

from sb3_sparse.sparsity.products.kernels import BLOCK_COLUMNS
from sb3_sparse.sparsity.topology import Topology


class BlockedRows(NamedTuple):
    """
    Compressed sparse rows whose beginnings are known for every block of ``BLOCK_COLUMNS`` columns.

    :param shape: Numbers of rows and columns
    :param blocks: Number of blocks
    :param starts: (rows, blocks + 1) int32, first entry of every block in every row, and the row's end
    :param columns: (active,) uint16, column of every active weight
    """

    shape: th.Size
    blocks: int
    starts: th.Tensor
    columns: th.Tensor

    def positions(self) -> th.Tensor:
        """(active,) int64 flat row-major positions."""
        counts = (self.starts[:, -1] - self.starts[:, 0]).long()
        rows = th.arange(self.shape[0], device=self.starts.device).repeat_interleave(counts)
        return rows * self.shape[1] + self.columns.long()


def blocked_rows(topology: Topology) -> BlockedRows:
    """
    :param topology: Topology of a matrix that has up to 65,536 rows and columns, and less than 2**31 weights
    """
    return _block(topology.indices.long(), topology.shape)


def transposed_blocked_rows(topology: Topology) -> tuple[BlockedRows, th.Tensor]:
    """
    :param topology: Topology of a matrix that has up to 65,536 rows and columns, and less than 2**31 weights
    :return: Rows of the transpose, and (active,) int32 numbers with which its values are ``values[numbers]``
    """
    indices, (rows, columns) = topology.indices.long(), topology.shape
    ordered, order = ((indices % columns) * rows + indices // columns).sort()
    return _block(ordered, topology.shape[::-1]), order.int()


def _block(indices: th.Tensor, shape: th.Size) -> BlockedRows:
    blocks = -(-shape[1] // BLOCK_COLUMNS)
    rows, starts = (th.arange(count, device=indices.device) for count in (shape[0], blocks + 1))
    firsts = rows.unsqueeze(1) * shape[1] + (starts * BLOCK_COLUMNS).clamp(max=shape[1])
    return BlockedRows(shape, blocks, th.searchsorted(indices, firsts).int(), (indices % shape[1]).to(th.uint16))
