"""Whether samples pull a network in the same direction."""

from collections.abc import Iterable

import torch as th


def gradient_covariance(
    gradients: th.Tensor | Iterable[th.Tensor] | None = None, *, gram: th.Tensor | None = None
) -> th.Tensor:
    """
    Cosine similarity of every pair of per-sample gradients (equation 2 of the paper, after Lyle et al., 2023)::

        C[i, j] = <g_i, g_j> / (||g_i|| ||g_j||)

    The gradient of all parameters of a large network does not fit into memory for every sample at once. Give it in pieces, an
    iterable over blocks of columns, each of which may be dropped before the next is made; or give the Gram matrix that
    :func:`gradient_gram` computes layer by layer.

    :param gradients: (samples, parameters) per-sample gradients, or an iterable of such blocks with the same samples
    :param gram: (samples, samples) inner products of the gradients, instead
    :return: (samples, samples), symmetric, entries in [-1, 1], diagonal 1; rows and columns of samples whose gradient is zero
        are 0, those of samples whose gradient is not finite are NaN
    :raises ValueError: unless exactly one of the two is given.
    """
    if (gradients is None) == (gram is None):
        raise ValueError("Give either the gradients or their Gram matrix.")
    if gram is None:
        assert gradients is not None
        gram = _accumulate([gradients] if isinstance(gradients, th.Tensor) else gradients)
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    scale = th.where(norms == 0.0, 1.0, norms)
    cosines = gram / (scale[:, None] * scale[None, :])
    # Rounding; NaN passes.
    return cosines.clamp(-1.0, 1.0)


def _accumulate(blocks: Iterable[th.Tensor]) -> th.Tensor:
    gram: th.Tensor | None = None
    for block in blocks:
        flat = block.detach().flatten(1)
        product = (flat @ flat.T).double()
        gram = product if gram is None else gram + product
    if gram is None:
        raise ValueError("There are no gradients to compare.")
    return gram
