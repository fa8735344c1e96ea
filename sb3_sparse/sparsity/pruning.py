"""One-shot random pruning of any torch module."""

from typing import TypeVar

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import Distribution
from sb3_sparse.sparsity.pruning_plan import PruningPlan, Skip, random_positions

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def prune(
    module: ModuleT,
    sparsity: float,
    *,
    distribution: str | Distribution = "erdos_renyi",
    budget: str = "all",
    generator: th.Generator | None = None,
    skip: Skip = (),
) -> ModuleT:
    """
    Prune a module at random, once and in place (paper, section 2.2: static sparse training by one-shot random pruning).

    Every linear and two-dimensional convolutional layer (and whatever :func:`register_sparse_layer` added) becomes a layer
    whose active weights alone are parameters. The kept weights are not rescaled. A layer that is allotted density 1 stays as
    it is, so with ``sparsity=0`` nothing changes at all. Layers used at several places and layers with a tied weight count
    once and stay tied. Optimizers made before hold the old parameters: make them anew.

    Deviation: the paper's code draws each weight's mask as an independent Bernoulli; here every layer has the exact number,
    ``round((1 - layer sparsity) * size)``.

    :param module: Any module
    :param sparsity: Fraction of the budget's parameters to remove, in [0, 1) (of every layer with distribution "uniform")
    :param distribution: Layer-wise allocation: "erdos_renyi", "uniform", or a function with the signature of
        :func:`erdos_renyi`
    :param budget: What ``sparsity`` is a fraction of: "all" parameters of the module as in the paper's code (biases,
        normalisation and layers that cannot be pruned stay dense, the others make up for it) or the prunable "weights" only
    :param generator: CPU random generator for the masks, whatever device the module lives on; torch's default one if None
    :param skip: What stays dense: names of submodules, modules or types, each with all below it; or a predicate of
        (name, module), which is asked about every layer by itself
    :return: The same module
    :raises ValueError: if the sparsity cannot be reached, would leave a layer without any weight, or the module was pruned
        before. Nothing has changed then.
    """
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"Masks are drawn on the CPU, to be the same on every device; got a generator on {generator.device}.")
    PruningPlan(module, sparsity, distribution=distribution, budget=budget, skip=skip).apply(random_positions(generator))
    return module


def allocate(
    module: nn.Module,
    sparsity: float,
    *,
    distribution: str | Distribution = "erdos_renyi",
    budget: str = "all",
    skip: Skip = (),
) -> dict[str, int]:
    """
    Compute how many weights :func:`prune` would keep, without changing anything.

    :param module: Any module that was not pruned
    :param sparsity: As for :func:`prune`
    :param distribution: As for :func:`prune`
    :param budget: As for :func:`prune`
    :param skip: As for :func:`prune`
    :return: Parameter name of each prunable weight -> number of weights that stay active
    :raises ValueError: as :func:`prune`
    """
    return PruningPlan(module, sparsity, distribution=distribution, budget=budget, skip=skip).counts
