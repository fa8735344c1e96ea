"""
Scores by which a network is pruned before or while it trains: the weights of highest score stay. Each function returns name of
a weight -> score of every entry, for ``prune(module, sparsity, scores=...)``, and leaves the module as it was.

===========================  =====================================  =========  ==============
function                     score of a weight w                    needs      scope
===========================  =====================================  =========  ==============
:func:`magnitude`            abs(w)                                 nothing    "layer"
:func:`snip`                 abs(w dL/dw)                           a loss     "global"
:func:`grasp`                w (H g), g = dL/dw, H its Hessian      a loss     "global"
:func:`synflow`              w dR/dw, all positive, in rounds       an input   "global"
===========================  =====================================  =========  ==============

The scope is the one of the publications. Magnitudes of a network that was not trained yet say how each layer is initialised:
they favour layers with few inputs, unless each layer is pruned by itself.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.sparsity.allocation import check_sparsity
from sb3_sparse.sparsity.prunable import Skip
from sb3_sparse.sparsity.pruning_plan import PruningPlan

Loss = Callable[[], th.Tensor]
Scores = dict[str, th.Tensor]

# What is the identity on what SynFlow computes with, or would break its positivity.
_LINEARISED = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm, nn.Dropout,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid,
)  # fmt: skip


def magnitude(module: nn.Module, skip: Skip = ()) -> Scores:
    """
    Absolute values of the weights.

    :param module: Dense module
    :param skip: As for :func:`~sb3_sparse.sparsity.prune`
    """
    return {name: weight.detach().abs() for name, weight in _weights(module, skip).items()}


def snip(module: nn.Module, losses: Loss | Iterable[Loss], skip: Skip = ()) -> Scores:
    r"""
    Connection sensitivity :math:`|w\, \partial L / \partial w|` (Lee et al., 2019, "SNIP", equation 4, not normalised, which
    changes no order). In reinforcement learning: Arnob et al., 2021.

    :param module: Dense module
    :param losses: Runs the module and returns its loss, a scalar; or several such, e.g. one a batch, whose gradients are added
    :param skip: As for :func:`~sb3_sparse.sparsity.prune`
    :raises ValueError: if a loss is no finite scalar, or does not depend on the module.
    """
    weights = _weights(module, skip)
    gradients = [th.zeros_like(weight) for weight in weights.values()]
    for loss in _several(losses):
        for total, gradient in zip(gradients, _gradients(loss, weights), strict=True):
            total += gradient
    return {name: (weight * g).detach().abs() for (name, weight), g in zip(weights.items(), gradients, strict=True)}


def grasp(module: nn.Module, losses: Loss | Iterable[Loss], skip: Skip = ()) -> Scores:
    r"""
    What a weight does to the norm of the gradient, :math:`w\, (H g)` (Wang et al., 2020, "Picking Winning Tickets Before
    Training by Preserving Gradient Flow", equation 8, whose sign is the other way round: there the highest go). The loss has
    no temperature, which the publication's classification has.

    :param module: Dense module; everything on the way to the loss has to be differentiable twice
    :param losses: See :func:`snip`
    :param skip: As for :func:`~sb3_sparse.sparsity.prune`
    :raises ValueError: see :func:`snip`
    """
    weights = _weights(module, skip)
    products = [th.zeros_like(weight) for weight in weights.values()]
    for loss in _several(losses):
        gradients = _gradients(loss, weights, create_graph=True)
        flow = sum(((gradient.detach() * gradient).sum() for gradient in gradients), th.zeros(()))
        for total, product in zip(products, _differentiate(flow, weights), strict=True):
            total += product
    return {name: (weight * p).detach() for (name, weight), p in zip(weights.items(), products, strict=True)}


def synflow(module: nn.Module, inputs: Any, sparsity: float, rounds: int = 100, skip: Skip = ()) -> Scores:
    r"""
    Synaptic flow (Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow"):
    :math:`w\, \partial R / \partial w` of the sum R of what the network puts out, where all parameters are positive. It is
    computed anew in every round on what is left, which is the fraction :math:`(1 - S)^{k / \mathrm{rounds}}` after round k.
    What goes later has the higher score.

    The flow is positive in a network that is linear in its inputs, so normalisation and activations are left out (modules of
    torch's types; functions such as ``F.relu`` do nothing to positive numbers).

    :param module: Dense module
    :param inputs: What its ``forward`` takes, a tensor or a tuple of several; their entries are replaced by ones
    :param sparsity: Fraction of the weights that are to be pruned, in [0, 1)
    :param rounds: Number of rounds
    :param skip: As for :func:`~sb3_sparse.sparsity.prune`
    :raises ValueError: if a score is negative or no finite number: something in the module is not linear.
    """
    check_sparsity(sparsity)
    names = list(_weights(module, skip))
    twin = _linearised(module)
    weights = {name: twin.get_parameter(name) for name in names}
    ones = tuple(th.ones_like(x, dtype=th.float64) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
    total = sum(weight.numel() for weight in weights.values())
    ranks = th.zeros(total, dtype=th.float64)
    alive = th.ones(total, dtype=th.bool)
    for k in range(1, rounds + 1):
        flow = _flow(twin, ones, weights)
        left = max(1, round(total * (1.0 - sparsity) ** (k / rounds)))
        order = flow.masked_fill(~alive, -1.0).argsort(descending=True, stable=True)
        gone = th.zeros_like(alive)
        gone[order[left:]] = True
        ranks[gone & alive] = k - rounds - 1.0  # below all that stays, which are positive
        alive &= ~gone
        _zero(weights, alive)
    ranks[alive] = _flow(twin, ones, weights)[alive]
    parts = ranks.split([weight.numel() for weight in weights.values()])
    return {name: part.view(module.get_parameter(name).shape) for name, part in zip(names, parts, strict=True)}


def _weights(module: nn.Module, skip: Skip) -> dict[str, nn.Parameter]:
    """Name -> prunable weight, the first of several under one mask."""
    names = [weight.names[0] for weight in PruningPlan(module, None, skip=skip).weights]
    return {name: module.get_parameter(name) for name in names}


def _several(losses: Loss | Iterable[Loss]) -> Iterable[Loss]:
    return [losses] if callable(losses) else losses


def _gradients(loss: Loss, weights: Mapping[str, nn.Parameter], create_graph: bool = False) -> list[th.Tensor]:
    with th.enable_grad():
        value = loss()
    if value.numel() != 1 or not bool(value.isfinite().all()):
        raise ValueError(f"A loss has to be one finite number, got {value.detach()}.")
    return _differentiate(value, weights, create_graph)


def _differentiate(value: th.Tensor, weights: Mapping[str, nn.Parameter], create_graph: bool = False) -> list[th.Tensor]:
    if not value.requires_grad:
        raise ValueError("The loss does not depend on any parameter: run the module that is scored, with gradients.")
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ValueError(f"{frozen[0]!r} requires no gradient, so it has no score: skip its layer.")
    gradients = th.autograd.grad(value, list(weights.values()), create_graph=create_graph, allow_unused=True)
    return [th.zeros_like(w) if g is None else g for g, w in zip(gradients, weights.values(), strict=True)]


def _linearised(module: nn.Module) -> nn.Module:
    """A copy in double precision with positive parameters, without normalisation and activations."""
    twin = copy.deepcopy(module).double().eval().requires_grad_(True)
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, _LINEARISED) and name:
            parent, _, key = name.rpartition(".")
            twin.get_submodule(parent)._modules[key] = nn.Identity()
    with th.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    return twin


def _flow(twin: nn.Module, ones: tuple[th.Tensor, ...], weights: Mapping[str, nn.Parameter]) -> th.Tensor:
    """(weights,) scores of all weights."""
    with th.enable_grad():
        outputs = twin(*ones)
        total = sum((output.sum() for output in _tensors(outputs)), th.zeros((), dtype=th.float64))
    gradients = _differentiate(total, weights)
    flow = th.cat([(w * g).detach().reshape(-1) for w, g in zip(weights.values(), gradients, strict=True)]).cpu()
    if not bool((flow >= 0).all() & flow.isfinite().all()):
        raise ValueError(
            "Synaptic flow is negative or infinite somewhere, so something in the module is not linear in positive numbers. "
            'Use another score, e.g. "magnitude", or skip that part.'
        )
    return flow


def _tensors(outputs: Any) -> list[th.Tensor]:
    if isinstance(outputs, th.Tensor):
        return [outputs]
    return [
        tensor for output in (outputs.values() if isinstance(outputs, Mapping) else outputs) for tensor in _tensors(output)
    ]


@th.no_grad()
def _zero(weights: Mapping[str, nn.Parameter], alive: th.Tensor) -> None:
    parts = alive.split([weight.numel() for weight in weights.values()])
    for weight, part in zip(weights.values(), parts, strict=True):
        weight.mul_(part.view(weight.shape).to(weight.device))
