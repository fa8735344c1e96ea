"""CrossQ's encoder as steps of a compiled pass, which is not a training pass."""

from typing import Any

import numpy as np

from sb3_sparse.crossq.batch_renorm import SafeBatchRenorm1d
from sb3_sparse.crossq.encoder import RenormEncoder


def encode(steps: Any, encoder: RenormEncoder) -> None:
    """
    Write down the encoder.

    :param steps: :class:`~sb3_sparse.networks.live_steps.LiveSteps`
    :param encoder: Encoder
    """
    steps.add(encoder.input_norm, encoder.projection, encoder.blocks, encoder.norm)


def renormalize(steps: Any, layer: SafeBatchRenorm1d) -> None:
    """
    Write down what the layer does with its running statistics.

    :param steps: :class:`~sb3_sparse.networks.live_steps.LiveSteps`
    :param layer: Batch renormalisation
    """
    mean, var, weight, bias = map(steps.array, (layer.ra_mean, layer.ra_var, layer.scale, layer.bias))
    deviation, eps = np.empty_like(var), np.float32(layer.eps)
    steps.derive(lambda: np.sqrt(var + eps, out=deviation))
    steps.append("standardize", mean=mean, scale=deviation)
    if layer.affine:
        steps.append("affine", scale=weight, offset=bias)
