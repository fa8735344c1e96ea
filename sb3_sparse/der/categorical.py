"""Categorical value distributions (C51; Bellemare et al., 2017, "A Distributional Perspective on Reinforcement Learning")."""

import torch as th


def project(probabilities: th.Tensor, rewards: th.Tensor, discounts: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    Distribution of ``reward + discount * value``, brought back to the atoms: each shifted atom, clipped to the support, shares
    its probability among its two neighbours (algorithm 1 there).

    :param probabilities: (batch, atoms) distribution of the value
    :param rewards: (batch, 1)
    :param discounts: (batch, 1), 0 where there is no value after the reward
    :param support: (atoms,) equidistant, increasing
    :return: (batch, atoms)
    """
    shifted = (rewards + discounts * support).clamp(support[0], support[-1])  # (batch, atoms)
    distances = (shifted.unsqueeze(2) - support).abs() / (support[1] - support[0])  # (batch, from, to)
    return th.bmm(probabilities.unsqueeze(1), (1 - distances).clamp(min=0)).squeeze(1)


def clipped_mass(probabilities: th.Tensor, rewards: th.Tensor, discounts: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    How much of a target lies beyond the support, where :func:`project` clips it.

    :param probabilities: As for :func:`project`
    :param rewards: As for :func:`project`
    :param discounts: As for :func:`project`
    :param support: As for :func:`project`
    :return: Scalar in [0, 1], mean over the batch
    """
    shifted = rewards + discounts * support
    margin = 1e-3 * (support[1] - support[0])  # rounding is no clipping
    outside = (shifted < support[0] - margin) | (shifted > support[-1] + margin)
    return (probabilities * outside).sum(dim=1).mean()


def cross_entropy(logits: th.Tensor, target: th.Tensor) -> th.Tensor:
    """
    :param logits: (batch, atoms)
    :param target: (batch, atoms) probabilities
    :return: (batch,)
    """
    return -(target * th.log_softmax(logits, dim=1)).sum(dim=1)
