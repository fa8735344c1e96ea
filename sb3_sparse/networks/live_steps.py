"""Networks as steps on the memory of their tensors: what is written there in place is what the next pass computes with."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_sparse.networks.bronet import BroNetBlock, BroNetEncoder
from sb3_sparse.networks.simba import HeadedEncoder, SimBaBlock, SimBaEncoder
from sb3_sparse.networks.steps import Step
from sb3_sparse.sparsity import SparseLinear, Topology
from sb3_sparse.sparsity.products.blocked_rows import BlockedRows, blocked_rows
from sb3_sparse.sparsity.products.kernel_products import fits


class LiveSteps:
    """
    The steps of modules, one after the other.

    :param modules: Modules in the order in which a vector passes them
    :param rules: Type of module -> function that writes one down here; other types are refused
    :raises ValueError: for a module of another type, a matrix that is too large for the kernels, and tensors other than
        contiguous float32 on the CPU.
    """

    def __init__(self, modules: Iterable[nn.Module], rules: Mapping[type[nn.Module], "Rule"]):
        self.steps: list[Step] = []
        self._rules = rules
        # Tensors whose memory the steps read, and the positions they were written down with.
        self._tensors: list[th.Tensor] = []
        self._rows: list[tuple[Topology, BlockedRows]] = []
        self._derivations: list[Callable[[], None]] = []
        for module in modules:
            self.add(module)
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]

    def add(self, *modules: nn.Module) -> None:
        """
        Write modules down.

        :param modules: Modules
        """
        for module in modules:
            if type(module) not in self._rules:
                raise ValueError(f"There is no rule for a {type(module).__name__}.")
            self._rules[type(module)](self, module)

    def append(self, name: str, **arrays: np.ndarray) -> None:
        """
        Append a step.

        :param name: Name of the step
        :param arrays: Its arrays
        """
        self.steps.append(Step(name, arrays))

    def array(self, tensor: th.Tensor) -> np.ndarray:
        """
        :param tensor: Contiguous float32 tensor on the CPU
        :return: An array of the same memory
        """
        if tensor.dtype != th.float32 or not tensor.is_cpu or not tensor.is_contiguous():
            raise ValueError(f"Steps are on contiguous float32 tensors on the CPU, got {tensor.dtype} on {tensor.device}.")
        self._tensors.append(tensor)
        return tensor.detach().numpy()

    def positions(self, topology: Topology) -> BlockedRows:
        """
        :param topology: Topology of a matrix
        :return: Its rows
        """
        if not fits(topology):
            raise ValueError(f"A matrix of shape {tuple(topology.shape)} is too large for the kernels.")
        rows = topology.derive(blocked_rows)
        self._rows.append((topology, rows))
        return rows

    def derive(self, compute: Callable[[], None]) -> None:
        """
        Have something computed before every pass.

        :param compute: Computes it from tensors, into arrays of steps
        """
        self._derivations.append(compute)
        compute()

    def is_current(self) -> bool:
        """Whether all tensors still have their memory, and no active weights moved."""
        if [tensor.data_ptr() for tensor in self._tensors] != self._addresses:
            return False
        return all(topology.derive(blocked_rows) is rows for topology, rows in self._rows)

    def refresh(self) -> None:
        """Compute anew what is derived from tensors."""
        for compute in self._derivations:
            compute()


# Writes a module down.
Rule = Callable[[LiveSteps, Any], None]


def _bias(steps: LiveSteps, layer: Any, size: int) -> np.ndarray:
    return np.zeros(size, np.float32) if layer.bias is None else steps.array(layer.bias)


def _linear(steps: LiveSteps, layer: nn.Linear) -> None:
    steps.append("dense", weight=steps.array(layer.weight), bias=_bias(steps, layer, layer.out_features))


def _sparse_linear(steps: LiveSteps, layer: SparseLinear) -> None:
    rows = steps.positions(layer.topology)
    # The blocks of a row lie one after the other.
    starts = np.append(rows.starts[:, 0].numpy(), rows.starts[-1:, -1].numpy())
    arrays = {"values": steps.array(layer.values), "columns": rows.columns.numpy(), "starts": starts}
    steps.append("sparse", **arrays, bias=_bias(steps, layer, layer.topology.shape[0]))


def _layer_norm(steps: LiveSteps, layer: nn.LayerNorm) -> None:
    eps = np.array([layer.eps], np.float32)
    steps.append("layer_norm", weight=steps.array(layer.weight), bias=steps.array(layer.bias), eps=eps)


def _simba_block(steps: LiveSteps, block: SimBaBlock) -> None:
    steps.append("save")
    steps.add(block.norm, block.expand, block.activation, block.contract)
    steps.append("add")


def _bronet_block(steps: LiveSteps, block: BroNetBlock) -> None:
    steps.append("save")
    steps.add(block.expand, block.norm1, block.activation, block.contract, block.norm2)
    steps.append("add")


RULES: dict[type[nn.Module], Rule] = {
    nn.Sequential: lambda steps, module: steps.add(*module),
    HeadedEncoder: lambda steps, module: steps.add(*module),
    nn.Flatten: lambda steps, module: None,
    nn.ReLU: lambda steps, module: steps.append("relu"),
    nn.Tanh: lambda steps, module: steps.append("tanh"),
    nn.Linear: _linear,
    SparseLinear: _sparse_linear,
    nn.LayerNorm: _layer_norm,
    SimBaEncoder: lambda steps, encoder: steps.add(encoder.projection, encoder.blocks, encoder.norm),
    SimBaBlock: _simba_block,
    BroNetEncoder: lambda steps, encoder: steps.add(encoder.projection, encoder.norm, encoder.activation, encoder.blocks),
    BroNetBlock: _bronet_block,
}
