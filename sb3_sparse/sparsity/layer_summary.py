"""Summary of a pruned module: shape, active weights and sparsity, per layer and in all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_sparse.sparsity.layers import SparseLayer


@dataclass(frozen=True)
class LayerSummary:
    """
    One layer's weight.

    :param shape: Shape of the dense weight
    :param total: Weights of the dense layer
    :param active: Weights that are active
    :param units_without_input: Output units (rows, output channels) of which no weight is active; they output their bias
    """

    shape: tuple[int, ...]
    total: int
    active: int
    units_without_input: int

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
        rows: list[tuple[str, ...]] = [("layer", "shape", "total", "active", "sparsity", "units without input")]
        for name, layer in self.layers.items():
            rows.append((name or "(itself)", " x ".join(map(str, layer.shape)), *_figures(layer)))
        rows.append(("biases, normalisation", "", f"{self.other:,}", f"{self.other:,}", "0.0000", ""))
        rows.append(("all", "", *_figures(self)))
        return rows


def summary(module: nn.Module) -> Summary:
    """
    Summarise the weights of a module, pruned or not; parameters used at several places count once.

    :param module: Any module
    :return: Per layer: shape, total, active, sparsity and units left without input; and the totals
    """
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
                layers[label] = _sparse(layer)
            elif parameter.ndim >= 2:
                layers[label] = LayerSummary(tuple(parameter.shape), parameter.numel(), parameter.numel(), 0)
            else:
                other += parameter.numel()
    return Summary(layers, other)


def _sparse(layer: SparseLayer) -> LayerSummary:
    topology = layer.topology
    units = len(layer.by_unit(th.empty(topology.shape, device="meta")))
    with_input = th.unique(layer.units(topology.long_indices())).numel()
    return LayerSummary(tuple(topology.shape), topology.numel, topology.active, units - with_input)


def _figures(row: LayerSummary | Summary) -> tuple[str, str, str, str]:
    return f"{row.total:,}", f"{row.active:,}", f"{row.sparsity:.4f}", str(row.units_without_input)


def _format(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    # Names and shapes to the left, figures to the right.
    aligned = [
        [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)
