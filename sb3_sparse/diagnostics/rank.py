"""Srank: the number of directions that a layer's features use."""

import torch as th


def srank(features: th.Tensor, delta: float = 0.01, threshold: float | None = None) -> float:
    """
    Effective rank of features, from the singular values ``sigma_1 >= sigma_2 >= ...`` of the matrix of features.

    Two definitions go by this name:

    - Kumar et al. (2021), section 3, and the paper's code: the smallest k with ``sum_{i<=k} sigma_i >= (1 - delta) sum_i
      sigma_i``. This is the default.
    - The paper's text (section 4.1): the number of ``sigma_i > threshold``. Give ``threshold`` to get it. It depends on the
      scale of the features; with 0.01 it is saturated at initialisation for every sparsity.

    The rank is bounded by the batch as well as by the number of features: a batch that is smaller than that measures the
    batch.

    :param features: (batch, features) e.g. the output of a critic's encoder, before its head
    :param delta: Share of the singular values' sum that may be missing, in (0, 1)
    :param threshold: Count singular values above this instead
    :return: Rank between 1 and min(batch, features); 1 for features that are all zero (0 with ``threshold``), NaN for features
        that are not finite
    :raises ValueError: if the features are no matrix, or an argument is out of range.
    """
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"Features have the shape (batch, features), each at least 1; got {tuple(features.shape)}.")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must lie in (0, 1), got {delta}.")
    if not bool(features.isfinite().all()):
        return float("nan")
    sigma = th.linalg.svdvals(features.detach().float())
    if threshold is not None:
        return float((sigma > threshold).sum())
    cumulative = sigma.double().cumsum(0)
    # The smallest k is one more than the number of sums that fall short.
    return float((cumulative < (1.0 - delta) * cumulative[-1]).sum() + 1)
