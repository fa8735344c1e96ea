"""Layer-wise allocation: how sparse each layer becomes so that the whole reaches a given sparsity."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real

from sb3_sparse.sparsity.patterns import Pattern

Shapes = Mapping[str, Sequence[int]]
Distribution = Callable[..., dict[str, float]]


class UnreachableSparsityError(ValueError):
    """What has to stay of a network is more than the overall sparsity leaves."""


def check_sparsity(sparsity: float, name: str = "sparsity") -> float:
    """
    Validate an overall sparsity.

    :param sparsity: Fraction of parameters to remove, in [0, 1).
    :param name: What to call the value in the error.
    :return: The sparsity as a float.
    :raises TypeError: if it is not a number.
    :raises ValueError: if it lies outside [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise TypeError(f"{name} must be a number in [0, 1), got {sparsity!r}.")
    sparsity = float(sparsity)
    if not 0.0 <= sparsity < 1.0:
        hint = f"; for {sparsity:g} % give {sparsity / 100:g}" if 1.0 < sparsity < 100.0 else ""
        raise ValueError(f"{name} must lie in [0, 1), the fraction of parameters removed; got {sparsity:g}{hint}.")
    return sparsity


def uniform(shapes: Shapes, sparsity: float, dense: Collection[str] = ()) -> dict[str, float]:
    """
    Give every weight the overall sparsity (paper, section 2.2).

    Parameters with fewer than two dimensions (biases, normalisation) stay dense, and nothing makes up for them: all parameters
    together are a little less sparse.

    :param shapes: Parameter name -> shape.
    :param sparsity: Sparsity of every weight, in [0, 1).
    :param dense: Names that stay dense.
    :return: Parameter name -> sparsity in [0, 1).
    """
    sparsity = check_sparsity(sparsity)
    kept = _always_dense(shapes, dense)
    return {name: 0.0 if name in kept else sparsity for name in shapes}


def erdos_renyi(shapes: Shapes, sparsity: float, dense: Collection[str] = ()) -> dict[str, float]:
    r"""
    Erdos-Renyi allocation (Mocanu et al., 2018; convolutions: Evci et al., 2020; paper, section 2.2).

    The density of a layer is :math:`\epsilon \sum_i n_i / \prod_i n_i` over the dimensions :math:`n_i` of its weight, which
    is :math:`\epsilon (n_{in} + n_{out}) / (n_{in} n_{out})` for a linear and
    :math:`\epsilon (n_{in} + n_{out} + w + h) / (n_{in} n_{out} w h)` for a convolutional layer. The scale :math:`\epsilon` is
    solved so that all parameters in ``shapes`` together keep the fraction ``1 - sparsity``; layers whose density would exceed
    one are made dense and the rest is solved again.

    What to count is up to the caller: every parameter of a network (the paper's code) or its weights only.
    Deviation: the paper's code would prune biases and normalisation parameters in tiny networks or at extreme sparsity; here
    parameters with fewer than two dimensions always stay dense. They do count in the budget when they are in ``shapes``.

    :param shapes: Parameter name -> shape.
    :param sparsity: Overall fraction of the parameters in ``shapes`` to remove, in [0, 1).
    :param dense: Names that stay dense, but count in the budget.
    :return: Parameter name -> sparsity in [0, 1).
    :raises UnreachableSparsityError: if the parameters that stay dense alone exceed what the overall sparsity leaves.
    """
    sparsity = check_sparsity(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    zeros = {name: math.floor(size * sparsity) for name, size in sizes.items()}
    if not any(zeros.values()):
        return dict.fromkeys(shapes, 0.0)
    kept = _always_dense(shapes, dense)
    raw_density = {name: sum(shape) / sizes[name] for name, shape in shapes.items() if name not in kept}
    while True:
        open_names = [name for name in shapes if name not in kept]
        budget = sum(sizes[n] - zeros[n] for n in open_names) - sum(zeros[n] for n in kept)
        if budget <= 0:
            raise UnreachableSparsityError(_unreachable(sparsity, sizes, kept))
        scale = budget / sum(raw_density[n] * sizes[n] for n in open_names)
        densest = max(raw_density[n] for n in open_names)
        if scale * densest <= 1.0:
            return {name: 0.0 if name in kept else 1.0 - scale * raw_density[name] for name in shapes}
        kept |= {name for name in open_names if raw_density[name] == densest}


DISTRIBUTIONS: dict[str, Distribution] = {"erdos_renyi": erdos_renyi, "uniform": uniform}


def get_distribution(distribution: str | Distribution) -> Distribution:
    """
    Look up an allocation by name.

    :param distribution: "erdos_renyi", "uniform", an N:M pattern such as "2:4", or a function with the signature of
        :func:`erdos_renyi`.
    :return: The function.
    :raises ValueError: if there is none of that name.
    """
    if callable(distribution):
        return distribution
    found = DISTRIBUTIONS.get(distribution) or Pattern.parse(distribution)
    if found is None:
        known = ", ".join(map(repr, DISTRIBUTIONS))
        raise ValueError(f'Unknown distribution {distribution!r}: choose one of {known}, or an N:M pattern such as "2:4".')
    return found


def _always_dense(shapes: Shapes, dense: Collection[str]) -> set[str]:
    return {name for name, shape in shapes.items() if len(shape) < 2 or 0 in shape or name in dense}


def _unreachable(sparsity: float, sizes: Mapping[str, int], kept: Collection[str]) -> str:
    total, dense = sum(sizes.values()), sum(sizes[name] for name in kept)
    return (
        f"A sparsity of {sparsity:g} leaves {(1 - sparsity) * total:.0f} of {total} parameters, but those that stay dense "
        f"(biases, normalisation, skipped layers) are {dense} already: choose a sparsity below {1 - dense / total:.3f}, "
        'a larger network, or budget="weights".'
    )
