"""The passes through a SimBa encoder of given layers, forward and backward."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_sparse.networks.fused import kernels
from sb3_sparse.networks.fused.table import INPUT, OUTPUTS, SAVED, SCRATCH, Layout, Table, Units
from sb3_sparse.sparsity.products.blocked_rows import BlockedRows
from sb3_sparse.sparsity.products.choice import Products
from sb3_sparse.sparsity.layers import SparseLinear
from sb3_sparse.sparsity.products.kernel_products import Rows


# Dense matrices up to this size are the kernels', too; see :mod:`sb3_sparse.sparsity.products.dense_kernels`.
SMALL = 2**17


class Linear(NamedTuple):
    """
    A linear layer.

    :param shape: Numbers of outputs and inputs
    :param weight: Its weight, or the values of its active weights
    :param bias: Its bias
    :param number: The number of its weight among the encoder's parameters; that of the bias follows
    :param layer: The layer
    :param rows: Where the active weights are; None in a dense layer
    :param products: Which products are the kernels', the others are dense
    :param positions: (active,) flat positions of the active weights, if a product is dense
    """

    shape: tuple[int, int]
    weight: th.Tensor
    bias: th.Tensor | None
    number: int
    layer: nn.Module
    rows: Rows | None
    products: Products
    positions: th.Tensor | None

    def matrix(self) -> th.Tensor:
        """The dense matrix, until it is asked for again."""
        if not isinstance(self.layer, SparseLinear):
            return self.weight
        if self.layer.dense_weights is not None:
            return self.layer.dense_weights.matrix(self.weight, self.layer.topology)
        assert self.positions is not None
        matrix = self.weight.new_zeros(self.shape)
        matrix.view(-1).index_copy_(0, self.positions, self.weight)
        return matrix

    @property
    def is_small(self) -> bool:
        """Whether the matrix is dense and so small that a call of BLAS would be noticed."""
        return self.rows is None and self.weight.numel() <= SMALL


class Norm(NamedTuple):
    """
    A layer normalisation.

    :param weight: Its weight
    :param bias: Its bias
    :param number: The number of its weight among the encoder's parameters; that of the bias follows
    """

    weight: th.Tensor
    bias: th.Tensor
    number: int


class Block(NamedTuple):
    """
    A residual block.

    :param norm: Its layer normalisation
    :param expand: Its first linear layer, before the ReLU
    :param contract: Its second one
    """

    norm: Norm
    expand: Linear
    contract: Linear


class Encoder(NamedTuple):
    """
    An encoder.

    :param projection: What comes first
    :param blocks: Residual blocks
    :param norm: What follows them
    :param heads: Linear layers on its output, if they belong to the pass
    :param eps: Of the layer normalisations
    """

    projection: Linear
    blocks: Sequence[Block]
    norm: Norm
    heads: Sequence[Linear]
    eps: float

    @property
    def output_dims(self) -> list[int]:
        """Sizes of the outputs: those of the heads, or the hidden dimension."""
        return [head.shape[0] for head in self.heads] or [self.projection.shape[0]]


class _Normal(NamedTuple):
    """What the backward pass wants of a layer normalisation: its output without weight and bias, and the scale."""

    output: Units
    spread: Units


class Plan:
    """
    How to pass through an encoder and back.

    :param encoder: The encoder
    :param layout: How a batch lies in memory
    :param is_differentiated: Whether there will be a backward pass
    :param has_gradients: Whether it is to find gradients of parameters
    """

    def __init__(self, encoder: Encoder, layout: Layout, is_differentiated: bool, has_gradients: bool):
        self.encoder, self.layout = encoder, layout
        self.forward = table = Table(layout)
        self._backward: dict[tuple[bool, ...], Table] = {}
        kept = SAVED if is_differentiated else SCRATCH
        inputs = SAVED if is_differentiated and has_gradients else SCRATCH
        projection, hidden = encoder.projection, encoder.projection.shape[0]
        self._input = table.allocate(inputs, projection.shape[1])
        table.step(kernels.READ, projection.shape[1], source=INPUT, target=self._input)
        stream = table.allocate(SCRATCH, hidden)
        _multiply(table, projection, self._input, stream)
        self._blocks: list[tuple[_Normal, Units, Units]] = []
        # What no backward pass reads is written over by the next block.
        shared = table.allocate(SCRATCH, hidden) if inputs == SCRATCH else None
        widest = max((block.expand.shape[0] for block in encoder.blocks), default=0)
        for block in encoder.blocks:
            if is_differentiated or not self._blocks:
                normal = _Normal(table.allocate(kept, hidden), table.allocate(kept, 2))
                room = table.allocate(kept, block.expand.shape[0] if is_differentiated else widest)
            inner = room._replace(size=block.expand.shape[0])
            normalized = shared or table.allocate(inputs, hidden)
            _normalize(table, block.norm, stream, normal, normalized)
            _multiply(table, block.expand, normalized, inner, kernels.POSITIVE)
            _multiply(table, block.contract, inner, stream, kernels.ADDED)
            self._blocks.append((normal, normalized, inner))
        self._last = _Normal(table.allocate(kept, hidden), table.allocate(kept, 2))
        self._features = table.allocate(inputs if encoder.heads else SCRATCH, hidden)
        _normalize(table, encoder.norm, stream, self._last, self._features)
        outputs = [table.allocate(SCRATCH, head.shape[0]) for head in encoder.heads]
        for head, output in zip(encoder.heads, outputs, strict=True):
            _multiply(table, head, self._features, output)
        for base, output in enumerate(outputs or [self._features], OUTPUTS):
            table.step(kernels.WRITE, output.size, source=output, target=base)
        table.finish()

    def backward(self, needed: tuple[bool, ...]) -> Table:
        """
        :param needed: Whether a gradient is wanted, of the input and of every parameter
        :return: The pass back
        """
        if needed not in self._backward:
            self._backward[needed] = self._plan_back(needed[0], needed[1:])
        return self._backward[needed]

    def _plan_back(self, is_input_needed: bool, needed: Sequence[bool]) -> Table:
        encoder, table = self.encoder, Table(self.layout, self.forward.units[SAVED], OUTPUTS + len(self.encoder.output_dims))
        projection, hidden = encoder.projection, encoder.projection.shape[0]
        stream, outer = table.allocate(SCRATCH, hidden), table.allocate(SCRATCH, hidden)
        wider = max([block.expand.shape[0] for block in encoder.blocks] + [projection.shape[1]])
        inner, sums = table.allocate(SCRATCH, wider), table.allocate(SCRATCH, 2)
        outputs = [table.allocate(SCRATCH, head.shape[0]) for head in encoder.heads]
        for base, output in enumerate(outputs or [outer], OUTPUTS):
            table.step(kernels.READ, output.size, source=base, target=output)
        for head, output in zip(encoder.heads, outputs, strict=True):
            _differentiate(table, head, self._features, output, needed)
            _multiply_back(table, head, output, outer, kernels.PLAIN if head is encoder.heads[0] else kernels.ADDED)
        _normalize_back(table, encoder.norm, self._last, outer, stream, sums, needed, kernels.PLAIN)
        for block, (normal, normalized, active) in zip(reversed(encoder.blocks), reversed(self._blocks), strict=True):
            within = inner._replace(size=block.expand.shape[0])
            _differentiate(table, block.contract, active, stream, needed)
            _multiply_back(table, block.contract, stream, within, kernels.MASKED, active)
            _differentiate(table, block.expand, normalized, within, needed)
            _multiply_back(table, block.expand, within, outer)
            _normalize_back(table, block.norm, normal, outer, stream, sums, needed, kernels.ADDED)
        _differentiate(table, projection, self._input, stream, needed)
        if is_input_needed:
            within = inner._replace(size=projection.shape[1])
            _multiply_back(table, projection, stream, within)
            table.step(kernels.WRITE, projection.shape[1], source=within, target=INPUT)
        return table.finish()


def _places(rows: BlockedRows) -> dict[str, Any]:
    return {"blocks": rows.blocks, "columns": rows.columns, "starts": rows.starts, "work": rows.columns.numel()}


def _multiply(table: Table, layer: Linear, source: Units, target: Units, epilogue: int = kernels.PLAIN) -> None:
    """The output of a linear layer, and what is made of it."""
    height, layout = layer.shape[0], table.layout
    if layer.products.forward:
        assert layer.rows is not None
        values, bias = layer.weight, layer.bias
        places = _places(layer.rows.rows)
        table.step(kernels.LINEAR, height, epilogue=epilogue, target=target, source=source, values=values, bias=bias, **places)
        return
    if layer.is_small:
        operands: dict[str, Any] = {"target": target, "source": source, "values": layer.weight, "bias": layer.bias}
        table.step(kernels.DENSE, height, layer.shape[1], epilogue=epilogue, work=layer.weight.numel(), **operands)
        return

    def multiply(bases: Sequence[Any]) -> None:
        output = layout.view(bases, target)
        th.addmm(output, layer.matrix(), layout.view(bases, source), beta=int(epilogue == kernels.ADDED), out=output)

    table.multiply(multiply)
    table.step(kernels.FINISH, height, epilogue=epilogue, target=target, bias=layer.bias)


def _multiply_back(
    table: Table,
    layer: Linear,
    source: Units,
    target: Units,
    epilogue: int = kernels.PLAIN,
    output: Units | None = None,
) -> None:
    """The gradient of a linear layer's input, and what is made of it."""
    width, layout = layer.shape[1], table.layout
    if layer.products.input_gradient:
        assert layer.rows is not None and layer.rows.transposed is not None
        rows, order = layer.rows.transposed
        operands: dict[str, Any] = {
            "target": target,
            "source": source,
            "values": layer.weight,
            "order": order,
            "other": output,
        }
        table.step(kernels.LINEAR, width, epilogue=epilogue, **operands, **_places(rows))
        return
    if layer.is_small:
        operands = {"target": target, "source": source, "values": layer.weight, "other": output}
        table.step(kernels.DENSE_BACK, width, layer.shape[0], epilogue=epilogue, work=layer.weight.numel(), **operands)
        return

    def multiply(bases: Sequence[Any]) -> None:
        gradient = layout.view(bases, target)
        beta = int(epilogue == kernels.ADDED)
        th.addmm(gradient, layer.matrix().t(), layout.view(bases, source), beta=beta, out=gradient)

    table.multiply(multiply)
    if epilogue == kernels.MASKED:
        table.step(kernels.FINISH, width, epilogue=epilogue, target=target, other=output)


def _differentiate(table: Table, layer: Linear, inputs: Units, outer: Units, needed: Sequence[bool]) -> None:
    """The gradients of a linear layer's parameters."""
    height, layout, gradient = layer.shape[0], table.layout, table.gradients + layer.number
    if layer.bias is not None and needed[layer.number + 1]:
        table.step(kernels.ADD_UP, height, source=outer, target=gradient + 1)
    if not needed[layer.number]:
        return
    if layer.products.weight_gradient:
        assert layer.rows is not None
        places = _places(layer.rows.rows)
        table.step(kernels.WEIGHT_GRADIENTS, height, source=outer, other=inputs, target=gradient, **places)
        return
    if layer.is_small:
        operands: dict[str, Any] = {"source": outer, "other": inputs, "target": gradient}
        table.step(kernels.DENSE_GRADIENTS, height, layer.shape[1], work=layer.weight.numel(), **operands)
        return

    def multiply(bases: Sequence[Any]) -> None:
        factors = layout.view(bases, outer), layout.view(bases, inputs).t()
        if layer.positions is None:
            th.mm(*factors, out=bases[gradient])
        else:
            th.index_select(th.mm(*factors).view(-1), 0, layer.positions, out=bases[gradient])

    table.multiply(multiply)


def _normalize(table: Table, norm: Norm, source: Units, normal: _Normal, target: Units) -> None:
    units: dict[str, Any] = {"source": source, "target": target, "other": normal.output, "spread": normal.spread}
    table.step(kernels.NORM, source.size, source.size, values=norm.weight, bias=norm.bias, **units)


def _normalize_back(
    table: Table,
    norm: Norm,
    normal: _Normal,
    source: Units,
    target: Units,
    sums: Units,
    needed: Sequence[bool],
    epilogue: int,
) -> None:
    """The gradients of a layer normalisation's parameters, and of its input."""
    wanted = [table.gradients + number if needed[number] else None for number in (norm.number, norm.number + 1)]
    if any(wanted):
        table.step(kernels.ADD_UP, source.size, source=source, other=normal.output, values=wanted[0], target=wanted[1])
    units: dict[str, Any] = {"source": source, "target": target, "other": normal.output, "spread": normal.spread, "bias": sums}
    table.step(kernels.NORM_BACK, source.size, source.size, epilogue=epilogue, values=norm.weight, **units)
