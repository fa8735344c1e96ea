"""
The steps of a pass through an encoder and back, as compiled kernels (extra ``fast``).

Activations lie unit by unit: all samples of a batch are side by side, so that a weight is multiplied with a run of samples,
and a layer normalisation goes through the units with all samples at once. The runs of two units are a ``stride`` apart, of
which ``extent`` bytes are computed with: the batch and zeros up to the next multiple of LEAST_BYTES.

A pass is a table of steps; :func:`run` makes some of them, one after the other. A step writes nothing that it shares with the
other parts of itself, so that threads can each make a part.
"""

import math

import numpy as np
from numba import carray

from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.dense_kernels import add_dense_products, dense_gradients
from sb3_sparse.sparsity.products.kernels import LEAST_BYTES, TILE_BYTES, accumulate_row, add_row_gradients, transpose
from sb3_sparse.sparsity.products.vector_code import pointer, size_of

# Columns of the table of steps: what is to be done, numbers of rows, columns and blocks of columns, and which addresses.
KIND, ROWS, WIDTH, BLOCKS, EPILOGUE, TARGET, SOURCE, VALUES, ORDER, COLUMNS, STARTS, BIAS, OTHER, SPREAD = range(14)
OPERANDS = {
    "target": TARGET,
    "source": SOURCE,
    "values": VALUES,
    "order": ORDER,
    "columns": COLUMNS,
    "starts": STARTS,
    "bias": BIAS,
    "other": OTHER,
    "spread": SPREAD,
}
# Kinds of steps.
(
    READ,
    LINEAR,
    DENSE,
    DENSE_BACK,
    FINISH,
    NORM,
    NORM_BACK,
    ADD_UP,
    WEIGHT_GRADIENTS,
    DENSE_GRADIENTS,
    WRITE,
) = range(11)
# What is made of the sums of a product: nothing, their positive part, added to what is there, those where OTHER is positive.
PLAIN, POSITIVE, ADDED, MASKED = range(4)

_kernel = compiled(nogil=True, error_model="numpy")
_reduction = compiled(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


@_reduction
def _total(zero, row, entries):  # type: ignore[no-untyped-def]
    total, numbers = zero, carray(pointer(row, zero), entries)
    for i in range(entries):
        total += numbers[i]
    return total


@_reduction
def _dot(zero, row, other, entries):  # type: ignore[no-untyped-def]
    total, a, b = zero, carray(pointer(row, zero), entries), carray(pointer(other, zero), entries)
    for i in range(entries):
        total += a[i] * b[i]
    return total


@_kernel
def _run(zero, first, unit, stride, samples):  # type: ignore[no-untyped-def]
    """The samples of a unit."""
    return carray(pointer(first + unit * stride, zero), samples)


@_kernel
def _begin(zero, sums, entries, bias, is_added):  # type: ignore[no-untyped-def]
    sum_of = carray(pointer(sums, zero), entries)
    if is_added:
        for i in range(entries):
            sum_of[i] += bias
    else:
        sum_of[:] = bias


@_kernel
def _end(zero, sums, entries, epilogue, other):  # type: ignore[no-untyped-def]
    sum_of = carray(pointer(sums, zero), entries)
    if epilogue == POSITIVE:
        for i in range(entries):
            sum_of[i] = zero if sum_of[i] <= zero else sum_of[i]  # so that NaN stays
    elif epilogue == MASKED:
        output = carray(pointer(other, zero), entries)
        for i in range(entries):
            sum_of[i] = sum_of[i] if output[i] > zero else zero


@_kernel
def _multiply(zero, step, at, first, last, stride, extent):  # type: ignore[no-untyped-def]
    """Rows of a sparse product, tile by tile of the batch and block by block of columns."""
    size, blocks, epilogue, order, columns = size_of(zero), step[BLOCKS], step[EPILOGUE], at[step[ORDER]], at[step[COLUMNS]]
    values, bias = at[step[VALUES]], at[step[BIAS]]
    start_of = carray(pointer(at[step[STARTS]], np.int32(0)), (last, blocks + 1))
    for tile in range(0, extent, TILE_BYTES):
        width = min(TILE_BYTES, extent - tile)
        source, other = at[step[SOURCE]] + tile, at[step[OTHER]] + tile
        for number in range(blocks):
            for row in range(first, last):
                sums = at[step[TARGET]] + row * stride + tile
                start, end = np.intp(start_of[row, number]), np.intp(start_of[row, number + 1])
                if number == 0:
                    initial = carray(pointer(bias, zero), last)[row] if bias != 0 else zero
                    _begin(zero, sums, width // size, initial, epilogue == ADDED)
                if order == 0:
                    accumulate_row(zero, sums, values, None, columns, start, end, source, stride, width)
                else:
                    accumulate_row(zero, sums, values, order, columns, start, end, source, stride, width)
                if number == blocks - 1:
                    _end(zero, sums, width // size, epilogue, other + row * stride)


@_kernel
def _multiply_dense(zero, step, at, first, last, stride, extent):  # type: ignore[no-untyped-def]
    """Rows of the product of a small dense matrix, or of its transpose."""
    size, entries, epilogue, bias, width = size_of(zero), extent // size_of(zero), step[EPILOGUE], at[step[BIAS]], step[WIDTH]
    target, is_transposed = at[step[TARGET]], step[KIND] == DENSE_BACK
    row_step, column_step = (size, step[ROWS] * size) if is_transposed else (width * size, size)
    for row in range(first, last):
        initial = carray(pointer(bias, zero), last)[row] if bias != 0 else zero
        _begin(zero, target + row * stride, entries, initial, epilogue == ADDED)
    source = at[step[SOURCE]]
    add_dense_products(zero, target, at[step[VALUES]], row_step, column_step, first, last, width, source, stride, extent)
    for row in range(first, last):
        _end(zero, target + row * stride, entries, epilogue, at[step[OTHER]] + row * stride)


@_kernel
def _finish(zero, step, at, first, last, stride, extent):  # type: ignore[no-untyped-def]
    """What follows a dense product: the bias is added, and what else is made of the sums."""
    entries, bias = extent // size_of(zero), at[step[BIAS]]
    for row in range(first, last):
        sums = at[step[TARGET]] + row * stride
        if bias != 0:
            _begin(zero, sums, entries, carray(pointer(bias, zero), last)[row], True)
        _end(zero, sums, entries, step[EPILOGUE], at[step[OTHER]] + row * stride)


@_kernel
def _normalize(zero, step, at, first, last, stride, eps):  # type: ignore[no-untyped-def]
    """Layer normalisation of the samples ``first`` to ``last``; OTHER takes it without weight and bias."""
    size, units, samples = size_of(zero), step[WIDTH], last - first
    source, target, normal = at[step[SOURCE]] + first * size, at[step[TARGET]] + first * size, at[step[OTHER]] + first * size
    weight, bias = carray(pointer(at[step[VALUES]], zero), units), carray(pointer(at[step[BIAS]], zero), units)
    scale = carray(pointer(at[step[SPREAD]] + first * size, zero), samples)
    mean = carray(pointer(at[step[SPREAD]] + stride + first * size, zero), samples)
    mean[:], scale[:] = zero, zero
    paired = units // 2 * 2  # two at a time, which is faster, and rounds less
    for unit in range(0, paired, 2):
        x, y = _run(zero, source, unit, stride, samples), _run(zero, source, unit + 1, stride, samples)
        for i in range(samples):
            mean[i] += x[i] + y[i]
    for unit in range(paired, units):
        x = _run(zero, source, unit, stride, samples)
        for i in range(samples):
            mean[i] += x[i]
    for i in range(samples):
        mean[i] /= units
    for unit in range(0, paired, 2):
        x, y = _run(zero, source, unit, stride, samples), _run(zero, source, unit + 1, stride, samples)
        for i in range(samples):
            scale[i] += (x[i] - mean[i]) * (x[i] - mean[i]) + (y[i] - mean[i]) * (y[i] - mean[i])
    for unit in range(paired, units):
        x = _run(zero, source, unit, stride, samples)
        for i in range(samples):
            scale[i] += (x[i] - mean[i]) * (x[i] - mean[i])
    for i in range(samples):
        scale[i] = 1 / math.sqrt(scale[i] / units + eps)
    for unit in range(units):
        x, y = _run(zero, source, unit, stride, samples), _run(zero, target, unit, stride, samples)
        z = _run(zero, normal, unit, stride, samples)
        factor, offset = weight[unit], bias[unit]
        for i in range(samples):
            normal_entry = (x[i] - mean[i]) * scale[i]
            z[i] = normal_entry
            y[i] = normal_entry * factor + offset


@_kernel
def _normalize_back(zero, step, at, first, last, stride):  # type: ignore[no-untyped-def]
    """The gradient of a layer normalisation's input, added to TARGET or written there."""
    size, units, samples = size_of(zero), step[WIDTH], last - first
    source, target, normal = at[step[SOURCE]] + first * size, at[step[TARGET]] + first * size, at[step[OTHER]] + first * size
    weight = carray(pointer(at[step[VALUES]], zero), units)
    scale = carray(pointer(at[step[SPREAD]] + first * size, zero), samples)
    mean = carray(pointer(at[step[BIAS]] + first * size, zero), samples)  # of the weighted gradients
    slope = carray(pointer(at[step[BIAS]] + stride + first * size, zero), samples)  # and of their products with the output
    mean[:], slope[:] = zero, zero
    for unit in range(units):
        g = _run(zero, source, unit, stride, samples)
        z = _run(zero, normal, unit, stride, samples)
        factor = weight[unit]
        for i in range(samples):
            mean[i] += factor * g[i]
            slope[i] += factor * g[i] * z[i]
    for i in range(samples):
        mean[i] /= units
        slope[i] /= units
    for unit in range(units):
        g = _run(zero, source, unit, stride, samples)
        z = _run(zero, normal, unit, stride, samples)
        d = _run(zero, target, unit, stride, samples)
        factor = weight[unit]
        if step[EPILOGUE] == ADDED:
            for i in range(samples):
                d[i] += scale[i] * (factor * g[i] - mean[i] - slope[i] * z[i])
        else:
            for i in range(samples):
                d[i] = scale[i] * (factor * g[i] - mean[i] - slope[i] * z[i])


@_kernel
def _add_up(zero, step, at, first, last, stride, extent):  # type: ignore[no-untyped-def]
    """Gradients of a bias, and of a layer normalisation's weight if there is an output to multiply with."""
    entries, target, weight = extent // size_of(zero), at[step[TARGET]], at[step[VALUES]]
    for row in range(first, last):
        gradient = at[step[SOURCE]] + row * stride
        if target != 0:
            carray(pointer(target, zero), last)[row] = _total(zero, gradient, entries)
        if weight != 0:
            carray(pointer(weight, zero), last)[row] = _dot(zero, gradient, at[step[OTHER]] + row * stride, entries)


@_kernel
def _differentiate_weights(zero, step, at, first, last, stride, extent):  # type: ignore[no-untyped-def]
    """Gradients of the active weights in some rows."""
    blocks, gradients, columns = step[BLOCKS], at[step[TARGET]], at[step[COLUMNS]]
    start_of = carray(pointer(at[step[STARTS]], np.int32(0)), (last, blocks + 1))
    end = np.intp(start_of[last - 1, blocks])
    carray(pointer(gradients, zero), end)[np.intp(start_of[first, 0]) :] = zero
    for tile in range(0, extent, TILE_BYTES):
        width = min(TILE_BYTES, extent - tile)
        source, inputs = at[step[SOURCE]] + tile, at[step[OTHER]] + tile
        for number in range(blocks):
            for row in range(first, last):
                start, end = np.intp(start_of[row, number]), np.intp(start_of[row, number + 1])
                add_row_gradients(zero, gradients, source + row * stride, columns, start, end, inputs, stride, width)


@_kernel
def run(zero, steps, at, stride, extent, batch, eps, shares, share):  # type: ignore[no-untyped-def]
    """
    Make one share of some steps.

    :param zero: A zero that says which floating point type activations have
    :param steps: (steps, 14) int64, the columns above
    :param at: (addresses,) int64; the first is 0, for what a step does not have
    :param stride: Bytes from one unit to the next
    :param extent: Bytes of a unit that are computed with
    :param batch: Number of samples
    :param eps: Of the layer normalisations
    :param shares: Number of shares, of rows, or of samples where a step goes through all units
    :param share: Number of this share
    """
    size = size_of(zero)
    for step in steps:
        kind = step[KIND]
        # Whole registers, so that the results don't depend on the number of shares.
        runs, entries = extent // LEAST_BYTES, LEAST_BYTES // size
        left, right = runs * share // shares * entries, runs * (share + 1) // shares * entries
        first, last = step[ROWS] * share // shares, step[ROWS] * (share + 1) // shares
        if kind == NORM:
            _normalize(zero, step, at, left, right, stride, eps)
        elif kind == NORM_BACK:
            _normalize_back(zero, step, at, left, right, stride)
        elif first == last:
            continue
        elif kind == LINEAR:
            _multiply(zero, step, at, first, last, stride, extent)
        elif kind == DENSE or kind == DENSE_BACK:
            _multiply_dense(zero, step, at, first, last, stride, extent)
        elif kind == DENSE_GRADIENTS:
            outer, inner, width = at[step[SOURCE]], at[step[OTHER]], step[WIDTH]
            dense_gradients(zero, at[step[TARGET]], first, last, width, outer, inner, stride, extent)
        elif kind == WEIGHT_GRADIENTS:
            _differentiate_weights(zero, step, at, first, last, stride, extent)
        elif kind == FINISH:
            _finish(zero, step, at, first, last, stride, extent)
        elif kind == ADD_UP:
            _add_up(zero, step, at, first, last, stride, extent)
        elif kind == READ:
            # Columns of the batch become rows.
            source, target = at[step[SOURCE]] + first * size, at[step[TARGET]] + first * stride
            transpose(zero, source, step[ROWS] * size, batch, last - first, target, stride, extent // size)
        else:
            source, target = at[step[SOURCE]] + first * stride, at[step[TARGET]] + first * size
            transpose(zero, source, stride, last - first, batch, target, step[ROWS] * size, last - first)
