"""
Products of compressed rows with a batch, as vectorised kernels that numba compiles (extra ``fast``).

A batch lies in memory sample by sample, but a kernel wants all samples of one unit side by side: every active weight is then
multiplied with a run of samples by vector instructions. So a kernel works on a tile of samples and a block of columns at a
time, transposed into scratch memory that stays in the cache, and transposes its result back. A few samples are multiplied one
by one instead, each gathering the inputs that a row's active weights want.

Arguments are addresses (``tensor.data_ptr()``) and sizes: numba takes integers several times faster than arrays, which a
product with a single sample would notice. The first argument, a zero, says which floating point type they point to.
"""

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.vector_code import (
    FUSED,
    INT,
    INT16,
    INT32,
    VECTOR_BYTES,
    broadcast,
    horizontal_sum,
    load,
    load_index,
    place,
    pointer,
    selection,
    size_of,
    store,
)

# What a kernel keeps in registers while it goes through a row: half of them, as AVX-512 has twice as many.
REGISTER_BYTES = 16 * VECTOR_BYTES if VECTOR_BYTES == 64 else 8 * VECTOR_BYTES
HALF_BYTES, QUARTER_BYTES = REGISTER_BYTES // 2, REGISTER_BYTES // 4
# Columns that are in scratch memory at a time: with TILE_BYTES of samples each half of a second-level cache.
BLOCK_COLUMNS = 512
TILE_BYTES = 1024  # samples of one unit side by side
LEAST_BYTES = 64  # a cache line, of which samples are padded with zeros to a multiple
# Rows whose sums are transposed back at a time, if all columns are in one block.
PANEL_ROWS = 64
GATHERED = 8  # weights of a row that a product with one sample takes at a time


@intrinsic(prefer_literal=True)
def _accumulate(typing_context, width, zero, sums, values, order, columns, start, end, block, stride):  # type: ignore[no-untyped-def]
    """
    ``sums += values[order[k]] * block[columns[k]]`` for k from ``start`` to ``end``, over ``width`` bytes of samples, whose
    sums stay in registers. ``order`` is None if the values come in the order of the columns.
    """
    has_order = not isinstance(order, types.NoneType)
    lanes = 8 * width.literal_value // zero.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, sums, values, order, columns, start, end, block, stride = arguments
        real = context.get_value_type(zero)
        vector = ir.VectorType(real, lanes)
        total = cgutils.alloca_once(builder, vector)
        builder.store(load(builder, sums, vector), total)
        with cgutils.for_range_slice(builder, start, end, INT(1), intp=INT) as (k, _):
            position = load_index(builder, order, k, INT32) if has_order else k
            value = broadcast(builder, builder.load(place(builder, values, position, real)), lanes)
            column = load_index(builder, columns, k, INT16)
            samples = load(builder, builder.add(block, builder.mul(column, stride)), vector)
            product = builder.fmul(value, samples, flags=FUSED)
            builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
        store(builder, builder.load(total), sums)
        return context.get_dummy_value()

    return types.void(width, zero, sums, values, order, columns, start, end, block, stride), generate


@intrinsic(prefer_literal=True)
def _add_dot_products(typing_context, width, zero, gradients, row, columns, start, end, block, stride):  # type: ignore[no-untyped-def]
    """``gradients[k] += sum(row * block[columns[k]])`` for k from ``start`` to ``end``, over ``width`` bytes of samples."""
    lanes = 8 * width.literal_value // zero.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, gradients, row, columns, start, end, block, stride = arguments
        real = context.get_value_type(zero)
        vector = ir.VectorType(real, lanes)
        kept = load(builder, row, vector)
        with cgutils.for_range_slice(builder, start, end, INT(1), intp=INT) as (k, _):
            column = load_index(builder, columns, k, INT16)
            samples = load(builder, builder.add(block, builder.mul(column, stride)), vector)
            entry = place(builder, gradients, k, real)
            dot = horizontal_sum(builder, builder.fmul(kept, samples, flags=FUSED))
            builder.store(builder.fadd(builder.load(entry), dot), entry)
        return context.get_dummy_value()

    return types.void(width, zero, gradients, row, columns, start, end, block, stride), generate


@intrinsic
def _gathered_dot_product(typing_context, zero, values, columns, start, end, sample):  # type: ignore[no-untyped-def]
    """
    ``sum(values[k] * sample[columns[k]])`` for k from ``start`` to ``end``, a multiple of GATHERED apart.

    The columns are read four at a time as one integer and the inputs one by one: half the time of gather instructions.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, values, columns, start, end, sample = arguments
        real = context.get_value_type(zero)
        vector = ir.VectorType(real, GATHERED)
        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * GATHERED))
        with cgutils.for_range_slice(builder, start, end, INT(GATHERED), intp=INT) as (k, _):
            gathered = ir.Constant(vector, ir.Undefined)
            for lane in range(GATHERED):
                if lane % 4 == 0:
                    numbers = place(builder, columns, builder.add(k, INT(lane)), INT16)
                    four = builder.load(builder.bitcast(numbers, INT.as_pointer()), align=2)
                column = builder.and_(builder.lshr(four, INT(16 * (lane % 4))), INT(0xFFFF))
                gathered = builder.insert_element(gathered, builder.load(place(builder, sample, column, real)), INT32(lane))
            weights = load(builder, builder.ptrtoint(place(builder, values, k, real), INT), vector)
            product = builder.fmul(weights, gathered, flags=FUSED)
            builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
        return horizontal_sum(builder, builder.load(total))

    return zero(zero, values, columns, start, end, sample), generate


@intrinsic
def _transpose_square(typing_context, zero, source, source_stride, target, target_stride):  # type: ignore[no-untyped-def]
    """Transpose a square as wide as a vector: a perfect shuffle of its rows for every bit of their number."""
    n = 8 * VECTOR_BYTES // zero.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_stride, target, target_stride = arguments
        vector = ir.VectorType(context.get_value_type(zero), n)
        rows = [load(builder, builder.add(source, builder.mul(source_stride, INT(i))), vector) for i in range(n)]
        lower, upper = (selection(j for i in half for j in (i, n + i)) for half in (range(n // 2), range(n // 2, n)))
        for _ in range(n.bit_length() - 1):
            pairs = [(rows[i], rows[i + n // 2]) for i in range(n // 2)]
            rows = [builder.shuffle_vector(*pair, half) for pair in pairs for half in (lower, upper)]
        for i, row in enumerate(rows):
            store(builder, row, builder.add(target, builder.mul(target_stride, INT(i))))
        return context.get_dummy_value()

    return types.void(zero, source, source_stride, target, target_stride), generate


# Threads run kernels side by side.
_kernel = compiled(nogil=True, error_model="numpy")


@_kernel
def transpose(zero, source, source_stride, rows, columns, target, target_stride, padded):  # type: ignore[no-untyped-def]
    """Transpose (rows, columns) into (columns, padded), zeros in what is padded; strides in bytes."""
    size = size_of(zero)
    n = VECTOR_BYTES // size
    squared_rows, squared_columns = rows // n * n, columns // n * n
    for j in range(0, squared_columns, n):
        for i in range(0, squared_rows, n):
            from_here, to_there = source + i * source_stride + j * size, target + j * target_stride + i * size
            _transpose_square(zero, from_here, source_stride, to_there, target_stride)
    for j in range(columns):
        to = carray(pointer(target + j * target_stride, zero), padded)
        for i in range(0 if j >= squared_columns else squared_rows, rows):
            to[i] = carray(pointer(source + i * source_stride, zero), columns)[j]
        to[rows:] = zero


@_kernel
def _transpose_block(zero, inputs, width, tile, samples, number, block, stride):  # type: ignore[no-untyped-def]
    """Put block ``number`` of a tile's columns into the scratch memory."""
    size, left = size_of(zero), number * BLOCK_COLUMNS
    source = inputs + (tile * width + left) * size
    transpose(zero, source, width * size, samples, min(BLOCK_COLUMNS, width - left), block, stride, stride // size)


@_kernel
def accumulate_row(zero, sums, values, order, columns, start, end, block, stride, extent):  # type: ignore[no-untyped-def]
    """
    Go through a row for ``extent`` bytes of samples, a multiple of LEAST_BYTES, as many at a time as fit into registers;
    ``stride`` bytes lie between the columns of the block.
    """
    lane = 0
    while lane + REGISTER_BYTES <= extent:
        _accumulate(REGISTER_BYTES, zero, sums + lane, values, order, columns, start, end, block + lane, stride)
        lane += REGISTER_BYTES
    while lane + HALF_BYTES <= extent:
        _accumulate(HALF_BYTES, zero, sums + lane, values, order, columns, start, end, block + lane, stride)
        lane += HALF_BYTES
    while lane + QUARTER_BYTES <= extent:
        _accumulate(QUARTER_BYTES, zero, sums + lane, values, order, columns, start, end, block + lane, stride)
        lane += QUARTER_BYTES
    while lane < extent:
        _accumulate(LEAST_BYTES, zero, sums + lane, values, order, columns, start, end, block + lane, stride)
        lane += LEAST_BYTES


@_kernel
def add_row_gradients(zero, gradients, row, columns, start, end, block, stride, extent):  # type: ignore[no-untyped-def]
    """The same for the gradients of a row's weights."""
    lane = 0
    while lane + REGISTER_BYTES <= extent:
        _add_dot_products(REGISTER_BYTES, zero, gradients, row + lane, columns, start, end, block + lane, stride)
        lane += REGISTER_BYTES
    while lane + HALF_BYTES <= extent:
        _add_dot_products(HALF_BYTES, zero, gradients, row + lane, columns, start, end, block + lane, stride)
        lane += HALF_BYTES
    while lane + QUARTER_BYTES <= extent:
        _add_dot_products(QUARTER_BYTES, zero, gradients, row + lane, columns, start, end, block + lane, stride)
        lane += QUARTER_BYTES
    while lane < extent:
        _add_dot_products(LEAST_BYTES, zero, gradients, row + lane, columns, start, end, block + lane, stride)
        lane += LEAST_BYTES


@_kernel
def multiply_samples(zero, values, columns, starts, blocks, first, last, inputs, width, batch, bias, outputs, height):  # type: ignore[no-untyped-def]
    """
    Multiply a few samples one by one: ``outputs[:, first:last] = inputs @ weight[first:last].T + bias``.

    :param values: (active,) values of the active weights
    :param columns: (active,) uint16, their columns
    :param starts: (rows, blocks + 1) int32, where in every row the blocks of columns begin, and where it ends
    :param inputs: (batch, width)
    :param bias: (rows,), or 0
    :param outputs: (batch, height)
    """
    size = size_of(zero)
    start_of = carray(pointer(starts, np.int32(0)), (last, blocks + 1))
    weights, places = carray(pointer(values, zero), 1), carray(pointer(columns, np.uint16(0)), 1)
    for sample in range(batch):
        given = carray(pointer(inputs + sample * width * size, zero), width)
        result = carray(pointer(outputs + sample * height * size, zero), height)
        for row in range(first, last):
            start, end = np.intp(start_of[row, 0]), np.intp(start_of[row, blocks])
            gathered = start + (end - start) // GATHERED * GATHERED
            total = _gathered_dot_product(zero, values, columns, start, gathered, inputs + sample * width * size)
            for k in range(gathered, end):
                total += weights[k] * given[np.intp(places[k])]
            result[row] = total + carray(pointer(bias, zero), last)[row] if bias != 0 else total


@_kernel
def multiply_tiles(
    zero, values, order, columns, starts, blocks, first, last, inputs, width, batch, bias, outputs, height, block, sums
):  # type: ignore[no-untyped-def]
    """
    Multiply tiles of samples: ``outputs[:, first:last] = inputs @ weight[first:last].T + bias``.

    :param order: (active,) int32, where the value of every entry of ``columns`` is found, or None for the order of the columns
    :param block: Scratch of TILE_BYTES for every column, BLOCK_COLUMNS of them at most
    :param sums: Scratch of TILE_BYTES for every row, or PANEL_ROWS of them if there is but one block
    """
    size = size_of(zero)
    start_of = carray(pointer(starts, np.int32(0)), (last, blocks + 1))
    panel = PANEL_ROWS if blocks == 1 else last - first
    for tile in range(0, batch, TILE_BYTES // size):
        samples = min(TILE_BYTES // size, batch - tile)
        stride = (samples * size + LEAST_BYTES - 1) // LEAST_BYTES * LEAST_BYTES
        if blocks == 1:
            _transpose_block(zero, inputs, width, tile, samples, 0, block, stride)
        for top in range(first, last, panel):
            bottom = min(top + panel, last)
            for row in range(top, bottom):
                initial = carray(pointer(bias, zero), last)[row] if bias != 0 else zero
                carray(pointer(sums + (row - top) * stride, zero), stride // size)[:] = initial
            for number in range(blocks):
                if blocks > 1:
                    _transpose_block(zero, inputs, width, tile, samples, number, block, stride)
                origin = block - number * BLOCK_COLUMNS * stride
                for row in range(top, bottom):
                    start, end = np.intp(start_of[row, number]), np.intp(start_of[row, number + 1])
                    accumulate_row(
                        zero, sums + (row - top) * stride, values, order, columns, start, end, origin, stride, stride
                    )
            target = outputs + (tile * height + top) * size
            transpose(zero, sums, stride, bottom - top, samples, target, height * size, bottom - top)


@_kernel
def add_weight_gradients(
    zero, gradients, columns, starts, blocks, first, last, inputs, width, batch, outer, height, block, rows
):  # type: ignore[no-untyped-def]
    """
    ``gradients += (outer.T @ inputs)[active]`` for the active weights of rows ``first`` to ``last``.

    :param gradients: (active,)
    :param outer: (batch, height) gradient of the output
    :param block: Scratch of TILE_BYTES for every column, BLOCK_COLUMNS of them at most
    :param rows: Scratch of TILE_BYTES for every row, or PANEL_ROWS of them if there is but one block
    """
    size = size_of(zero)
    start_of = carray(pointer(starts, np.int32(0)), (last, blocks + 1))
    panel = PANEL_ROWS if blocks == 1 else last - first
    for tile in range(0, batch, TILE_BYTES // size):
        samples = min(TILE_BYTES // size, batch - tile)
        stride = (samples * size + LEAST_BYTES - 1) // LEAST_BYTES * LEAST_BYTES
        if blocks == 1:
            _transpose_block(zero, inputs, width, tile, samples, 0, block, stride)
        for top in range(first, last, panel):
            bottom = min(top + panel, last)
            source = outer + (tile * height + top) * size
            transpose(zero, source, height * size, samples, bottom - top, rows, stride, stride // size)
            for number in range(blocks):
                if blocks > 1:
                    _transpose_block(zero, inputs, width, tile, samples, number, block, stride)
                origin = block - number * BLOCK_COLUMNS * stride
                for row in range(top, bottom):
                    start, end = np.intp(start_of[row, number]), np.intp(start_of[row, number + 1])
                    add_row_gradients(
                        zero, gradients, rows + (row - top) * stride, columns, start, end, origin, stride, stride
                    )
