"""Dormant ratio: the share of a network's units that are silent."""

from collections.abc import Iterable, Mapping

import torch as th

Activations = th.Tensor | Mapping[str, th.Tensor] | Iterable[th.Tensor]

# Keeps a layer that is all zero from dividing by zero, as in the paper's code: all its units are dormant.
_EPSILON = 1e-9


def dormancy_scores(activations: th.Tensor) -> th.Tensor:
    """
    How active each unit of a layer is relative to the layer's average, ``s_i = E|h_i| / mean_k E|h_k|`` (Sokar et al., 2023,
    definition 2.1; equation 1 of the paper).

    :param activations: (batch, units) or (batch, channels, ...): the units of a convolution are its channels, averaged over
        batch and space. Those of a linear layer are its last axis: flatten (batch, time, units) to (batch * time, units)
    :return: (units,) scores, at least 0 and 1 on average; all 0 if the layer is silent, NaN if an activation is
    :raises ValueError: if there is no batch or no unit.
    """
    if activations.ndim < 2 or activations.numel() == 0:
        raise ValueError(f"Activations have the shape (batch, units, ...), each at least 1; got {tuple(activations.shape)}.")
    strength = activations.detach().abs().transpose(0, 1).flatten(1).mean(1)  # (units,)
    return strength / (strength.mean() + _EPSILON)


def dormant_ratio(activations: Activations, tau: float = 0.1) -> float:
    """
    Fraction of units whose dormancy score is at most ``tau``, over the units of all layers together (Sokar et al., 2023;
    paper, section 4.2).

    What the units are is the caller's choice. Sokar et al. take activations *after* the non-linearity, of every hidden layer.
    The paper's text says "activation", its code takes the output of every linear layer *before* it, heads excluded; there a
    unit that a ReLU silences is not dormant. :class:`sb3_sparse.callbacks.PlasticityCallback` has both
    (``activation="post"``, the default, and ``"pre"``).

    :param activations: Activations of one layer, (batch, units) or (batch, channels, ...), or of several
    :param tau: Threshold, at least 0; with 0 only units that are exactly silent count. The paper's code logs 0.1 and 0.2
    :return: Fraction in [0, 1] (the paper's code returns percent); NaN if an activation is
    :raises ValueError: if ``tau`` is negative, or there is no layer.
    """
    if not tau >= 0.0:
        raise ValueError(f"tau must be at least 0, got {tau}.")
    scores = th.cat([dormancy_scores(layer) for layer in layers_of(activations)])
    return float(_nan_unless_finite(scores, (scores <= tau).float().mean()))


def fraction_active_units(activations: Activations, threshold: float = 0.0) -> float:
    """
    Fraction of (sample, unit) pairs whose activation exceeds the threshold (FAU; Ma et al., 2024, "Revisiting Plasticity in
    Visual Reinforcement Learning", equation 3). It counts pairs, not units that are active for some sample.

    It is meant for ReLU. After tanh or leaky ReLU it is the fraction of positive values.

    :param activations: Activations after the non-linearity, as for :func:`dormant_ratio`; positions of a convolution count
        one by one
    :param threshold: Value that an active unit exceeds
    :return: Fraction in [0, 1], about 0.5 at initialisation with ReLU; NaN if an activation is
    :raises ValueError: if there is no layer.
    """
    layers = [layer.detach() for layer in layers_of(activations)]
    active = th.stack([(layer > threshold).sum() for layer in layers]).sum()
    finite = th.stack([layer.isfinite().all() for layer in layers]).all()
    return float(active) / sum(layer.numel() for layer in layers) if bool(finite) else float("nan")


def layers_of(activations: Activations) -> list[th.Tensor]:
    """
    The layers that were given, as a list.

    :param activations: One layer or several
    :raises ValueError: if there is none.
    """
    if isinstance(activations, th.Tensor):
        return [activations]
    layers = list(activations.values() if isinstance(activations, Mapping) else activations)
    if not layers:
        raise ValueError("There are no activations to measure.")
    return layers


def _nan_unless_finite(values: th.Tensor, result: th.Tensor) -> th.Tensor:
    # A NaN is never at most tau: without this, a network that has diverged would look healthy.
    return th.where(values.isfinite().all(), result, th.nan)
