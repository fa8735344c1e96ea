"""Convolutions in which only the active weights are parameters."""

import torch as th
from torch import nn

from sb3_sparse.sparsity.layers import SparseLayer, register_sparse_layer


class SparseConvolution(SparseLayer):
    """Base class: a convolution of any number of dimensions with a fixed set of active weights."""

    bias: nn.Parameter | None

    def forward(self, input: th.Tensor) -> th.Tensor:
        """
        :param input: (batch, in_channels, \\*size) or without batch
        :return: (batch, out_channels, \\*new size)
        """
        return self.dense_type._conv_forward(self, input, self.weight, self.bias)  # type: ignore[attr-defined, no-any-return]


@register_sparse_layer
class SparseConv1d(SparseConvolution):
    """Made from ``torch.nn.Conv1d``."""

    dense_type = nn.Conv1d


@register_sparse_layer
class SparseConv2d(SparseConvolution):
    """Made from ``torch.nn.Conv2d``."""

    dense_type = nn.Conv2d


@register_sparse_layer
class SparseConv3d(SparseConvolution):
    """Made from ``torch.nn.Conv3d``."""

    dense_type = nn.Conv3d


class SparseTransposedConvolution(SparseLayer):
    """
    Base class: a transposed convolution with a fixed set of active weights. Its weight has the shape (in_channels,
    out_channels / groups, \\*kernel size); under an N:M pattern it stays dense.
    """

    has_rows = False
    bias: nn.Parameter | None
    groups: int

    def forward(self, input: th.Tensor, output_size: list[int] | None = None) -> th.Tensor:
        """
        :param input: (batch, in_channels, \\*size) or without batch
        :param output_size: See the dense layer
        :return: (batch, out_channels, \\*new size)
        """
        return self.dense_type.forward(self, input, output_size)  # type: ignore[no-any-return]

    def _output_padding(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return self.dense_type._output_padding(self, *args, **kwargs)  # type: ignore[attr-defined]

    def units(self, positions: th.Tensor) -> th.Tensor:
        """See :meth:`SparseLayer.units`."""
        inputs, outputs, *_ = self.topology.shape
        kernel = self.topology.numel // (inputs * outputs)
        group = positions // (outputs * kernel) // (inputs // self.groups)
        return group * outputs + positions // kernel % outputs

    def by_unit(self, weight: th.Tensor) -> th.Tensor:
        """See :meth:`SparseLayer.by_unit`."""
        inputs, outputs, *_ = self.topology.shape
        grouped = weight.reshape(self.groups, inputs // self.groups, outputs, -1)
        return grouped.transpose(1, 2).reshape(self.groups * outputs, -1)


@register_sparse_layer
class SparseConvTranspose1d(SparseTransposedConvolution):
    """Made from ``torch.nn.ConvTranspose1d``."""

    dense_type = nn.ConvTranspose1d


@register_sparse_layer
class SparseConvTranspose2d(SparseTransposedConvolution):
    """Made from ``torch.nn.ConvTranspose2d``."""

    dense_type = nn.ConvTranspose2d


@register_sparse_layer
class SparseConvTranspose3d(SparseTransposedConvolution):
    """Made from ``torch.nn.ConvTranspose3d``."""

    dense_type = nn.ConvTranspose3d
