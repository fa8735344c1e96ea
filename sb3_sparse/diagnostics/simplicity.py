"""Simplicity bias of an architecture at initialisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_sparse.arguments import check_integer

GRID_POINTS, GRID_RANGE = 300, 100.0
_ROWS = GRID_POINTS // 2 + 1  # frequencies that a real image of this size has


@dataclass(frozen=True)
class SimplicityScore:
    """
    Simplicity-bias score of an architecture.

    :param mean: Mean over the networks
    :param standard_error: Standard error of the mean, NaN for a single network; 1.96 of them on both sides are a 95 % interval
    :param scores: Score of every network
    """

    mean: float
    standard_error: float
    scores: tuple[float, ...]

    def __float__(self) -> float:
        return self.mean


@th.no_grad()
def simplicity_bias_score(
    make_network: Callable[[], nn.Module], networks: int = 100, normalize: bool = False
) -> SimplicityScore:
    """
    Simplicity-bias score of networks at initialisation (SimBa, Lee et al., 2024, section 3.1 and appendix B, after Teney et
    al., 2024, "Neural Redshift"; figure 8 of the paper): the inverse of the mean frequency of the function, averaged over
    random networks.

    Each network is evaluated on a grid of 300 x 300 points over [-100, 100]^2. With F the absolute value of the image's
    two-dimensional discrete Fourier transform without its mean, frequencies (i, j) from 0 to 150 are summed up in rings of
    radius k = round(sqrt(i^2 + j^2)), and ``complexity = sum_k k F_k / (K sum_k F_k)``, K = 212. The score is the mean of
    ``1 / complexity``. It does not depend on the output's scale or offset, but on the initialisation and on whether the grid
    is normalised: compare like with like. A network without parameters that vary, or with a constant output, has no score.

    :param make_network: Makes a network, (points, 2) -> (points, 1), with new random parameters from torch's generator
    :param networks: Number of networks
    :param normalize: Standardise the grid first, as SimBa's observation normalisation would
    :return: Mean, standard error and the single scores; higher is simpler
    :raises ValueError: if a network is constant or its output is not finite or not one number per point.
    """
    check_integer("networks", networks)
    grid = _grid(normalize)
    found = [1.0 / _complexity(_image(make_network(), grid)) for _ in range(networks)]
    scores = th.tensor(found, dtype=th.float64, device="cpu")
    error = float(scores.std() / math.sqrt(networks)) if networks > 1 else float("nan")
    return SimplicityScore(float(scores.mean()), error, tuple(scores.tolist()))


def _grid(normalize: bool) -> th.Tensor:
    line = th.linspace(-GRID_RANGE, GRID_RANGE, GRID_POINTS)
    points = th.cartesian_prod(line, line)
    return (points - points.mean(0)) / points.std(0, correction=0) if normalize else points


def _image(network: nn.Module, grid: th.Tensor) -> th.Tensor:
    output = network(grid)
    if output.numel() != len(grid):
        raise ValueError(f"The network must return one number per point, got shape {tuple(output.shape)}.")
    return output.double().view(GRID_POINTS, GRID_POINTS)


def _complexity(image: th.Tensor) -> float:
    """Mean frequency of an image, as a fraction of the highest."""
    if not bool(image.isfinite().all()) or float(image.max() - image.min()) == 0.0:
        raise ValueError("The network is constant or returns numbers that are not finite: it has no spectrum.")
    strength = th.fft.rfft2(image).abs()[:_ROWS]  # (151, 151)
    strength[0, 0] = 0.0
    frequency = th.arange(_ROWS, dtype=th.float64, device=image.device)
    radius = (frequency[:, None].square() + frequency[None, :].square()).sqrt().round()
    total = strength.sum()
    return float((radius * strength).sum() / (radius.max() * total))
