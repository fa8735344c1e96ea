"""A topology as compressed sparse rows."""

from typing import NamedTuple

import torch as th

from sb3_sparse.sparsity.topology import Topology


class CompressedRows(NamedTuple):
    """
    Compressed sparse rows of a matrix and of its transpose (all int32, what MKL takes).

    :param row_starts: (rows + 1,) first entry of every row
    :param columns: (active,) column of every active weight
    :param transposed_row_starts: (columns + 1,) first entry of every row of the transpose
    :param transposed_columns: (active,) column of every active weight in the transpose
    :param to_transposed: (active,) values[to_transposed] are the transpose's values
    """

    row_starts: th.Tensor
    columns: th.Tensor
    transposed_row_starts: th.Tensor
    transposed_columns: th.Tensor
    to_transposed: th.Tensor


def compressed_rows(topology: Topology) -> CompressedRows:
    """
    :param topology: Topology of a matrix
    """
    (rows, columns), shape = topology.coordinates(), topology.shape
    to_transposed = th.argsort(columns * shape[0] + rows)
    return CompressedRows(
        row_starts=_starts(rows, shape[0]),
        columns=columns.int(),
        transposed_row_starts=_starts(columns, shape[1]),
        transposed_columns=rows[to_transposed].int(),
        to_transposed=to_transposed.int(),
    )


def _starts(rows: th.Tensor, number_of_rows: int) -> th.Tensor:
    starts = th.zeros(number_of_rows + 1, dtype=th.int32, device=rows.device)
    starts[1:] = th.bincount(rows, minlength=number_of_rows).cumsum(0)
    return starts
