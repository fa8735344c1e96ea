"""The steps of a pass as a table for the kernels, with the products of dense matrices between them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_sparse.networks.fused import kernels
from sb3_sparse.sparsity.products.kernel_products import WORK_PER_THREAD, ZEROS, run_shares
from sb3_sparse.sparsity.products.kernels import LEAST_BYTES

# What addresses are relative to: nothing, memory that the backward pass reads again, memory of a pass alone, the encoder's
# input or its gradient, and from there on the outputs or their gradients, and the gradients of the parameters.
ABSOLUTE, SAVED, SCRATCH, INPUT, OUTPUTS = range(5)


class Units(NamedTuple):
    """
    Memory of the activations of some units.

    :param base: ``SAVED`` or ``SCRATCH``
    :param first: First unit
    :param size: Number of units
    """

    base: int
    first: int
    size: int


# Multiplies by BLAS. Takes what the bases are.
DenseProduct = Callable[[Sequence[Any]], None]


class Layout:
    """
    How a batch lies in memory, unit by unit.

    :param batch: Number of samples
    :param dtype: Type of the activations
    """

    def __init__(self, batch: int, dtype: th.dtype):
        self.batch, self.dtype = batch, dtype
        lines = -(-batch * dtype.itemsize // LEAST_BYTES)
        self.extent = lines * LEAST_BYTES
        # An odd number of lines: units would compete for the same few places of a cache otherwise.
        self.stride = (lines | 1) * LEAST_BYTES

    def empty(self, units: int) -> th.Tensor:
        """
        :param units: Number of units
        :return: Memory for them
        """
        return th.empty(units * self.stride // self.dtype.itemsize, dtype=self.dtype, device="cpu")

    def view(self, bases: Sequence[Any], units: Units) -> th.Tensor:
        """
        :param bases: Memory by its base
        :param units: Some of it
        :return: (units, samples, zeros included)
        """
        stride, samples = self.stride // self.dtype.itemsize, self.extent // self.dtype.itemsize
        return bases[units.base].as_strided((units.size, samples), (stride, 1), units.first * stride)  # type: ignore[no-any-return]


class Table:
    """
    The steps of one pass.

    :param layout: How a batch lies in memory
    :param saved: Number of units that another pass has saved
    :param gradients: Base of the first parameter's gradient
    """

    def __init__(self, layout: Layout, saved: int = 0, gradients: int = 0):
        self.gradients = gradients
        self.layout, self.units = layout, {SAVED: saved, SCRATCH: 0}
        self._bases, self._offsets = [ABSOLUTE], [0]
        self._steps: list[tuple[list[int], int]] = []
        self._parts: list[Any] = []

    def allocate(self, base: int, count: int) -> Units:
        """
        :param base: ``SAVED`` or ``SCRATCH``
        :param count: Number of units
        :return: Memory for them
        """
        self.units[base] += count
        return Units(base, self.units[base] - count, count)

    def step(
        self,
        kind: int,
        rows: int,
        width: int = 0,
        blocks: int = 0,
        epilogue: int = kernels.PLAIN,
        work: int = 0,
        **places: "Units | th.Tensor | int | None",
    ) -> None:
        """
        Append a step of the kernels.

        :param kind: What is done
        :param rows: Number of rows
        :param width: Number of columns
        :param blocks: Number of blocks of columns
        :param epilogue: What is made of sums
        :param work: Multiplications for a sample
        :param places: Operands: memory of units, a tensor that stays where it is, or a base
        """
        line = [kind, rows, width, blocks, epilogue, *[0] * len(kernels.OPERANDS)]
        for name, place in places.items():
            line[kernels.OPERANDS[name]] = self._address(place)
        self._steps.append((line, work * self.layout.batch))

    def multiply(self, product: DenseProduct) -> None:
        """
        Append a product of a dense matrix.

        :param product: The product
        """
        self._close()
        self._parts.append(product)

    def finish(self) -> "Table":
        """
        Take no more steps.

        :return: This table
        """
        self._close()
        self._base_of, self._offset_of = np.array(self._bases), np.array(self._offsets, np.int64)
        return self

    def run(self, bases: Sequence[Any], eps: float) -> None:
        """
        Make the pass.

        :param bases: What the bases are, see above: None or a tensor each
        :param eps: Of the layer normalisations
        """
        memory = np.array([0 if base is None else base.data_ptr() for base in bases], np.int64)
        at = memory[self._base_of] + self._offset_of
        layout, threads = self.layout, th.get_num_threads()
        arguments = at, layout.stride, layout.extent, layout.batch, eps
        zero = ZEROS[layout.dtype]
        for part in self._parts:
            if callable(part):
                part(bases)
                continue
            steps, groups = part
            if threads == 1:
                kernels.run(zero, steps, *arguments, 1, 0)
                continue
            for group, work in groups:
                shares = max(1, min(threads, work // WORK_PER_THREAD))
                run_shares(partial(kernels.run, zero, group, *arguments, shares), shares)

    def _address(self, place: "Units | th.Tensor | int | None") -> int:
        """The number by which a step names an address."""
        if place is None:
            return 0
        if isinstance(place, Units):
            base, offset = place.base, place.first * self.layout.stride
        else:
            base, offset = (ABSOLUTE, place.data_ptr()) if isinstance(place, th.Tensor) else (place, 0)
        self._bases.append(base)
        self._offsets.append(offset)
        return len(self._bases) - 1

    def _close(self) -> None:
        """Put the steps so far together: those with work for several threads one by one, the others in groups."""
        if not self._steps:
            return
        groups: list[tuple[list[list[int]], int]] = []
        for line, work in self._steps:
            if work < 2 * WORK_PER_THREAD and groups and groups[-1][1] == 0:
                groups[-1][0].append(line)
            else:
                groups.append(([line], work if work >= 2 * WORK_PER_THREAD else 0))
        everything = np.array([line for line, _ in self._steps], np.int64)
        self._parts.append((everything, [(np.array(lines, np.int64), work) for lines, work in groups]))
        self._steps = []
