"""One-shot pruning of any torch module."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch as th
from torch import nn

from sb3_sparse.arguments import check_choice
from sb3_sparse.sparsity.allocation import Distribution, get_distribution
from sb3_sparse.sparsity.choices import SCOPES, given_masks, highest_scores, largest_magnitudes, random_positions
from sb3_sparse.sparsity.masks import nonzero_masks
from sb3_sparse.sparsity.patterns import Pattern
from sb3_sparse.sparsity.prunable import Skip
from sb3_sparse.sparsity.pruning_plan import PruningPlan

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def prune(
    module: ModuleT,
    sparsity: float | None = None,
    *,
    distribution: str | Distribution = "erdos_renyi",
    budget: str = "all",
    generator: th.Generator | None = None,
    skip: Skip = (),
    scores: str | Mapping[str, th.Tensor] | None = None,
    scope: str = "layer",
    masks: str | Mapping[str, th.Tensor] | None = None,
) -> ModuleT:
    """
    Prune a module once and in place: at random (paper, section 2.2: static sparse training by one-shot random pruning), by
    scores, or as masks say.

    Every linear and convolutional layer (and whatever :func:`register_sparse_layer` added) becomes a layer whose active
    weights alone are parameters. The kept weights are not rescaled. A layer that is allotted density 1 stays as
    it is, so with ``sparsity=0`` nothing changes at all. Layers used at several places and layers with a tied weight count
    once and stay tied. Optimizers made before hold the old parameters: make them anew.

    Deviation: the paper's code draws each weight's mask as an independent Bernoulli; here every layer has the exact number,
    ``round((1 - layer sparsity) * size)``.

    :param module: Any module
    :param sparsity: Fraction of the budget's parameters to remove, in [0, 1) (of every layer with distribution "uniform").
        It must be given unless ``masks`` are
    :param distribution: Layer-wise allocation: "erdos_renyi", "uniform", an N:M pattern such as "2:4" (see
        :class:`~sb3_sparse.sparsity.Pattern`), or a function with the signature of :func:`erdos_renyi`
    :param budget: What ``sparsity`` is a fraction of: "all" parameters of the module as in the paper's code (biases,
        normalisation and layers that cannot be pruned stay dense, the others make up for it) or the prunable "weights" only
    :param generator: CPU random generator for the masks, whatever device the module lives on; torch's default one if None
    :param skip: What stays dense: names of submodules, modules or types, each with all below it; or a predicate of
        (name, module), which is asked about every layer by itself
    :param scores: Keep the weights of highest score instead of random ones: "magnitude", or what a function of
        :mod:`sb3_sparse.sparsity.scores` returned (name of a weight, or of its layer -> score of every entry). Of equal
        scores the first stay
    :param scope: With scores, "layer" keeps of every layer as many as it is allotted; "global" as many in all, wherever scores
        are highest, but of every layer at least the smaller of its numbers of inputs and outputs (or what it is allotted, if
        that is less)
    :param masks: Keep these weights: name of a weight, or of its layer -> mask of its shape, True (or 1) where a weight stays;
        weights that are not named stay whole. Or "nonzero": those that are not 0, of a module that ``torch.nn.utils.prune``
        or something else has filled with zeros (what torch left on the layers is removed, as its own ``remove`` does)
    :return: The same module
    :raises ValueError: if the sparsity cannot be reached, would leave a layer without any weight, or the module was pruned
        before; scores or masks have another shape or are not numbers. Nothing has changed then.
    """
    _check(sparsity, distribution, generator, scores, scope, masks)
    if isinstance(masks, str):
        masks = nonzero_masks(module)
    plan = PruningPlan(module, sparsity, distribution=distribution, budget=budget, skip=skip)
    if masks is not None:
        choose = given_masks(masks)
    elif scores is None:
        choose = random_positions(generator)
    else:
        choose = largest_magnitudes(scope) if isinstance(scores, str) else highest_scores(scores, scope)
    plan.apply(choose)
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


def _check(
    sparsity: float | None,
    distribution: str | Distribution,
    generator: th.Generator | None,
    scores: Any,
    scope: str,
    masks: Any,
) -> None:
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"Masks are drawn on the CPU, to be the same on every device; got a generator on {generator.device}.")
    check_choice("scope", scope, SCOPES)
    if isinstance(scores, str):
        check_choice("scores", scores, ("magnitude",))
    if isinstance(masks, str):
        check_choice("masks", masks, ("nonzero",))
    if (sparsity is None) == (masks is None):
        raise ValueError("Give either a sparsity, or masks, which say by themselves how much stays.")
    if scores is not None and masks is not None:
        raise ValueError("Give either scores or masks.")
    if scope == "global" and scores is None:
        raise ValueError('scope="global" compares scores of all layers: give scores, e.g. "magnitude".')
    if scope == "global" and isinstance(get_distribution(distribution), Pattern):
        raise ValueError(f'A pattern fixes what every layer keeps: {distribution!r} needs scope="layer".')
