"""
Products of small dense matrices with a batch that lies unit by unit, as vectorised kernels (extra ``fast``).

BLAS is as fast or faster at them, but is called from outside: between kernels that take microseconds that is what counts.
"""

from typing import Any

import llvmlite.ir as ir
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic

from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.kernels import LEAST_BYTES
from sb3_sparse.sparsity.products.vector_code import (
    FUSED,
    INT,
    VECTOR_BYTES,
    broadcast,
    horizontal_sums,
    load,
    place,
    size_of,
    store,
)

_kernel = compiled(nogil=True, error_model="numpy")
_COLUMNS = 256  # whose runs of LEAST_BYTES fill half of a first-level cache
_WIDE = max(2 * VECTOR_BYTES, LEAST_BYTES)
# What fills most registers: rows with _WIDE bytes of sums each, or pairs of rows and columns with a vector of sums each.
_ROWS, _FEW = (12, 4) if VECTOR_BYTES == 64 else (6, 2)
_OUTER, _INNER = (6, 4) if VECTOR_BYTES == 64 else (3, 4)


@intrinsic(prefer_literal=True)
def _add_products(typing_context, rows, wide, zero, sums, sums_step, weights, row_step, column_step, count, source, stride):  # type: ignore[no-untyped-def]
    """``sums[r] += weights[r, k] * source[k]`` for ``rows`` rows and all k below ``count``, over ``wide`` bytes of samples."""
    lanes = 8 * wide.literal_value // zero.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, _, sums, sums_step, weights, row_step, column_step, count, source, stride = arguments
        real = context.get_value_type(zero)
        vector = ir.VectorType(real, lanes)
        steps = [INT(r) for r in range(rows.literal_value)]
        places = [builder.add(sums, builder.mul(sums_step, r)) for r in steps]
        totals = [cgutils.alloca_once_value(builder, load(builder, address, vector)) for address in places]
        first = [builder.add(weights, builder.mul(row_step, r)) for r in steps]
        with cgutils.for_range_slice(builder, INT(0), count, INT(1), intp=INT) as (k, _):
            samples = load(builder, builder.add(source, builder.mul(k, stride)), vector)
            for total, row in zip(totals, first, strict=True):
                address = builder.add(row, builder.mul(k, column_step))
                value = broadcast(builder, builder.load(place(builder, address, INT(0), real)), lanes)
                product = builder.fmul(value, samples, flags=FUSED)
                builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
        for total, address in zip(totals, places, strict=True):
            store(builder, builder.load(total), address)
        return context.get_dummy_value()

    return types.void(rows, wide, zero, sums, sums_step, weights, row_step, column_step, count, source, stride), generate


@intrinsic(prefer_literal=True)
def _dot_products(typing_context, rows, columns, zero, target, row_step, outer, inner, stride, extent):  # type: ignore[no-untyped-def]
    """``target[r, c] = sum(outer[r] * inner[c])`` over ``extent`` bytes of samples, for ``rows`` and ``columns`` of them."""
    lanes = 8 * VECTOR_BYTES // zero.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, _, target, row_step, outer, inner, stride, extent = arguments
        real = context.get_value_type(zero)
        vector = ir.VectorType(real, lanes)
        height, width = range(rows.literal_value), range(columns.literal_value)
        nothing = ir.Constant(vector, [0.0] * lanes)
        totals = [[cgutils.alloca_once_value(builder, nothing) for _ in width] for _ in height]
        with cgutils.for_range_slice(builder, INT(0), extent, INT(VECTOR_BYTES), intp=INT) as (sample, _):
            a, b = (
                [load(builder, builder.add(builder.add(first, sample), builder.mul(stride, INT(i))), vector) for i in units]
                for first, units in ((outer, height), (inner, width))
            )
            for r in height:
                for c in width:
                    product = builder.fmul(a[r], b[c], flags=FUSED)
                    builder.store(builder.fadd(builder.load(totals[r][c]), product, flags=FUSED), totals[r][c])
        for r in height:
            row = builder.add(target, builder.mul(row_step, INT(r)))
            store(builder, horizontal_sums(builder, [builder.load(total) for total in totals[r]]), row)
        return context.get_dummy_value()

    return types.void(rows, columns, zero, target, row_step, outer, inner, stride, extent), generate


@_kernel
def _add_rows(wide, zero, total, weight, steps, rows, count, samples):  # type: ignore[no-untyped-def]
    """All rows, as many at a time as fit into registers."""
    literally(wide)
    row_step, column_step, stride = steps
    row = 0
    while row + _ROWS <= rows:
        _add_products(_ROWS, wide, zero, total, stride, weight, row_step, column_step, count, samples, stride)
        total, weight, row = total + _ROWS * stride, weight + _ROWS * row_step, row + _ROWS
    while row + _FEW <= rows:
        _add_products(_FEW, wide, zero, total, stride, weight, row_step, column_step, count, samples, stride)
        total, weight, row = total + _FEW * stride, weight + _FEW * row_step, row + _FEW
    while row < rows:
        _add_products(1, wide, zero, total, stride, weight, row_step, column_step, count, samples, stride)
        total, weight, row = total + stride, weight + row_step, row + 1


@_kernel
def add_dense_products(zero, sums, weights, row_step, column_step, first, last, width, source, stride, extent):  # type: ignore[no-untyped-def]
    """
    ``sums[first:last] += weights[first:last] @ source``.

    :param sums: (rows, extent), ``stride`` bytes from row to row
    :param weights: (rows, width), ``row_step`` and ``column_step`` bytes from one to the next
    :param source: (width, extent), ``stride`` bytes from row to row
    :param extent: Bytes of a row, a multiple of LEAST_BYTES
    """
    for left in range(0, width, _COLUMNS):
        count, line = min(_COLUMNS, width - left), 0
        weight, samples, total = weights + first * row_step + left * column_step, source + left * stride, sums + first * stride
        steps = row_step, column_step, stride
        while line + _WIDE <= extent:
            _add_rows(_WIDE, zero, total + line, weight, steps, last - first, count, samples + line)
            line += _WIDE
        while line < extent:
            _add_rows(LEAST_BYTES, zero, total + line, weight, steps, last - first, count, samples + line)
            line += LEAST_BYTES


@_kernel
def dense_gradients(zero, gradients, first, last, width, outer, inner, stride, extent):  # type: ignore[no-untyped-def]
    """
    ``gradients[first:last] = outer[first:last] @ inner.T``.

    :param gradients: (rows, width)
    :param outer: (rows, extent), ``stride`` bytes from row to row
    :param inner: (width, extent), the same
    :param extent: Bytes of a row, a multiple of LEAST_BYTES
    """
    size = size_of(zero)
    step = width * size
    for row in range(first, last - _OUTER + 1, _OUTER):
        target, units = gradients + row * step, outer + row * stride
        for column in range(0, width - _INNER + 1, _INNER):
            _dot_products(_OUTER, _INNER, zero, target + column * size, step, units, inner + column * stride, stride, extent)
        for column in range(width // _INNER * _INNER, width):
            _dot_products(_OUTER, 1, zero, target + column * size, step, units, inner + column * stride, stride, extent)
    for row in range(first + (last - first) // _OUTER * _OUTER, last):
        target, units = gradients + row * step, outer + row * stride
        for column in range(0, width - _INNER + 1, _INNER):
            _dot_products(1, _INNER, zero, target + column * size, step, units, inner + column * stride, stride, extent)
        for column in range(width // _INNER * _INNER, width):
            _dot_products(1, 1, zero, target + column * size, step, units, inner + column * stride, stride, extent)
