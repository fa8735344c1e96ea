"""The SimBa encoder with CrossQ's normalisation."""

from typing import Any

import torch as th
from torch import nn

from sb3_sparse.crossq.batch_renorm import SafeBatchRenorm1d
from sb3_sparse.networks import SimBaEncoder


class RenormEncoder(SimBaEncoder):
    """
    SimBa encoder with batch renormalisation in place of each layer normalisation, and of the observations' normaliser: it
    stands before the projection, too.

    :param input_dim: Size of the input, which need not be normalised
    :param hidden_dim: Width h of the residual stream, and of the output
    :param num_blocks: Number of residual blocks
    :param renorm: Arguments of the batch renormalisation: ``momentum``, ``eps``, ``warmup_steps``
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_blocks: int, renorm: dict[str, Any]):
        super().__init__(input_dim, hidden_dim, num_blocks)
        self.input_norm: nn.Module = SafeBatchRenorm1d(input_dim, **renorm)
        for block in self.blocks:
            block.norm = SafeBatchRenorm1d(hidden_dim, **renorm)
        self.norm = SafeBatchRenorm1d(hidden_dim, **renorm)  # type: ignore[assignment]

    def reset_parameters(self) -> None:
        """Draw all parameters anew; in a pruned encoder the topology stays."""
        super().reset_parameters()
        if "input_norm" in self._modules:  # not yet while the base class draws them for the first time
            self.input_norm.reset_parameters()  # type: ignore[operator]

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, input_dim)
        :return: (batch, hidden_dim) normalised features
        """
        return super().forward(self.input_norm(x))
