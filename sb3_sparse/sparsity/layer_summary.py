"""Summary of a pruned module: shape, active weights and sparsity, per layer and in all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.sparsity.convolutions import SparseTransposedConvolution
from sb3_sparse.sparsity.layers import SparseLayer


@dataclass(frozen=True)
class LayerSummary:
    """
    One layer's weight.

    :param shape: Shape of the dense weight
    :param total: Weights of the dense layer
    :param active: Weights that are active
    :param units_without_input: Output units (rows, output channels) of which no weight is active; they output their bias
    :param multiply_adds: Multiplications by active weights, each with an addition; None if it is not known how often there are
    """

    shape: tuple[int, ...]
    total: int
    active: int
    units_without_input: int
    multiply_adds: int | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of weights removed, in [0, 1)."""
        return 1.0 - self.active / self.total


class Summary(Mapping[str, LayerSummary]):
    """
    Layer name -> :class:`LayerSummary`; ``print`` shows it as a table.

    :param layers: Weights by layer name
    :param other: Number of remaining parameters (biases, normalisation), which are never pruned
    """

    def __init__(self, layers: Mapping[str, LayerSummary], other: int):
        self.layers = dict(layers)
        self.other = other

    @property
    def total(self) -> int:
        """Number of parameters the dense module has."""
        return sum(layer.total for layer in self.layers.values()) + self.other

    @property
    def active(self) -> int:
        """Number of parameters the pruned module has."""
        return sum(layer.active for layer in self.layers.values()) + self.other

    @property
    def sparsity(self) -> float:
        """Fraction of all parameters removed, in [0, 1)."""
        return 1.0 - self.active / self.total if self.total else 0.0

    @property
    def units_without_input(self) -> int:
        """Number of units without input in all layers."""
        return sum(layer.units_without_input for layer in self.layers.values())

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of all layers, None if those of one are not known."""
        numbers = [layer.multiply_adds for layer in self.layers.values()]
        return None if None in numbers else sum(number or 0 for number in numbers)

    def __getitem__(self, name: str) -> LayerSummary:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return _format(self._rows())

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "shape", "total", "active", "sparsity", "units without input", "multiply-adds")
        ]
        for name, layer in self.layers.items():
            rows.append((name or "(itself)", " x ".join(map(str, layer.shape)), *_figures(layer)))
        rows.append(("biases, normalisation", "", f"{self.other:,}", f"{self.other:,}", "0.0000", "", ""))
        rows.append(("all", "", *_figures(self)))
        return rows


def summary(module: nn.Module, *inputs: Any) -> Summary:
    """
    Summarise the weights of a module, pruned or not; parameters used at several places count once.

    Multiply-adds are one for each active weight, and so those of one vector, unless an example is given: how often a
    convolution uses its weights depends on the size of the image. Biases, normalisations and activations are not counted.

    :param module: Any module
    :param inputs: Arguments of a pass, such as a batch of one image, to count the multiply-adds of that pass: of a layer
        that is not called, 0; of one that is no linear layer or convolution, unknown
    :return: Per layer: shape, total, active, sparsity, units left without input and multiply-adds; and the totals
    """
    uses = _uses(module, inputs) if inputs else None
    layers: dict[str, LayerSummary] = {}
    seen: set[int] = set()
    other = 0
    for name, layer in module.named_modules():
        for key, parameter in layer.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            weight_name = layer.weight_names().get(key) if isinstance(layer, SparseLayer) else None
            label = name if "weight" in (key, weight_name) else f"{name}.{weight_name or key}".lstrip(".")
            if isinstance(layer, SparseLayer) and weight_name is not None:
                found = _sparse(layer)
            elif parameter.ndim >= 2:
                found = LayerSummary(tuple(parameter.shape), parameter.numel(), parameter.numel(), 0)
            else:
                other += parameter.numel()
                continue
            used = (1 if len(found.shape) == 2 else None) if uses is None else uses.get(layer, 0)
            layers[label] = replace(found, multiply_adds=None if used is None else used * found.active)
    return Summary(layers, other)


@th.no_grad()
def _uses(module: nn.Module, inputs: Sequence[Any]) -> dict[nn.Module, int | None]:
    """How often every layer that a pass calls uses each of its weights, None if that is not known."""
    uses: dict[nn.Module, int | None] = {}

    def count(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        used, before = _uses_of_one(layer, given, output), uses.get(layer, 0)
        uses[layer] = None if used is None or before is None else before + used

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if any(True for _ in layer.parameters(False))]
    was_training = {layer: layer.training for layer in module.modules()}
    try:
        module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in was_training.items():
            layer.training = training
    return uses


def _uses_of_one(layer: nn.Module, given: tuple[Any, ...], output: Any) -> int | None:
    # One use for each position: of a transposed convolution, whose weight has the inputs first, in the input.
    if isinstance(layer, nn.modules.conv._ConvTransposeNd | SparseTransposedConvolution):
        return given[0].numel() // layer.weight.shape[0]  # type: ignore[no-any-return]
    if isinstance(output, th.Tensor) and isinstance(layer, SparseLayer | nn.Linear | nn.modules.conv._ConvNd):
        return output.numel() // (layer.topology if isinstance(layer, SparseLayer) else layer.weight).shape[0]
    return None


def _sparse(layer: SparseLayer) -> LayerSummary:
    topology = layer.topology
    units = len(layer.by_unit(th.empty(topology.shape, device="meta")))
    with_input = th.unique(layer.units(topology.long_indices())).numel()
    return LayerSummary(tuple(topology.shape), topology.numel, topology.active, units - with_input)


def _figures(row: LayerSummary | Summary) -> tuple[str, ...]:
    multiply_adds = "?" if row.multiply_adds is None else f"{row.multiply_adds:,}"
    return f"{row.total:,}", f"{row.active:,}", f"{row.sparsity:.4f}", str(row.units_without_input), multiply_adds


def _format(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    # Names and shapes to the left, figures to the right.
    aligned = [
        [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)
