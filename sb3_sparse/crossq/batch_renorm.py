"""CrossQ's batch normalisation for networks that were pruned."""

import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm1d

from sb3_sparse.sparsity.constant_units import register_safe_layer


@register_safe_layer
class SafeBatchRenorm1d(BatchRenorm1d):
    """
    Batch renormalisation that passes no gradient to units which are constant over the batch: those without inputs, and those
    whose ReLU is off for all samples. After its warm-up sb3-contrib's layer takes the root of the variance, whose gradient is
    infinite at 0, and NaN in all layers below. Outputs and all other gradients are the same.
    """

    def reset_parameters(self) -> None:
        """Begin anew: no scale, no shift, and the statistics of nothing."""
        with th.no_grad():
            self.scale.fill_(1.0)
            self.bias.zero_()
            self.ra_mean.zero_()  # type: ignore[operator]
            self.ra_var.fill_(1.0)  # type: ignore[operator]
            self.steps.zero_()  # type: ignore[operator]

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, features)
        :return: (batch, features) normalised
        """
        if self.training:
            fixed = x.detach()
            x = th.where(fixed.var(dim=0) == 0.0, fixed, x)
        return super().forward(x)
