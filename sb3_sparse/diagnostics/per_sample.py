"""Inner products of per-sample gradients, without ever holding the gradients of a whole network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch as th
from torch import nn
from torch.func import functional_call, vjp, vmap

from sb3_sparse.sparsity.layers import SparseLinear

MAX_BYTES = 2**28
# The sum of all inner products is the squared norm of the summed gradient, which autograd computes by itself.
_TOLERANCE = 1e-2


def gradient_gram(module: nn.Module, losses: Callable[[], th.Tensor], max_bytes: int = MAX_BYTES) -> th.Tensor:
    """
    Inner products ``<g_i, g_j>`` of the gradients of each sample's loss with respect to a module's parameters, for
    :func:`gradient_covariance`.

    One backward pass gives the gradient at every layer's output; the layers' contributions are added up one after the other.
    A linear layer's is a product of two small matrices, a sparse one's a sum over pieces of its active weights, all others'
    per-sample gradients are made in pieces. So memory is bounded, whatever the size of the network: 256 gradients of 105
    million weights would take 107 GB.

    :param module: Module whose parameters count; those that require no gradient do not
    :param losses: Runs the module once on a batch and returns the losses, (samples,); a sample's loss may only depend on that
        sample (no batch normalisation in training mode)
    :param max_bytes: Bound of the memory for pieces of gradients
    :return: (samples, samples) in double precision
    :raises ValueError: if the losses are no vector, if the parameters are used outside their module's forward pass or at
        several modules, which this method cannot see, or if a layer takes something else than tensors.
    """
    owners = _owners(module)
    calls: dict[nn.Module, list[_Call]] = {owner: [] for owner in owners}
    with _watched(calls), th.enable_grad():
        values = losses()
    if values.ndim != 1:
        raise ValueError(f"Losses must be a vector with one entry per sample, got shape {tuple(values.shape)}.")
    parameters = [p for owner in owners for p in _own(owner).values()]
    outputs = [call.output for layer_calls in calls.values() for call in layer_calls]
    found = th.autograd.grad(values.sum(), [*outputs, *parameters], allow_unused=True)
    for call, delta in zip([c for cs in calls.values() for c in cs], found[: len(outputs)], strict=True):
        call.delta = delta
    gram = th.zeros(len(values), len(values), dtype=th.float64, device=values.device)
    for owner, layer_calls in calls.items():
        gram += _layer_gram(owner, [c for c in layer_calls if c.delta is not None], len(values), max_bytes).to(gram.device)
    _check(gram, [gradient for gradient in found[len(outputs) :] if gradient is not None])
    return gram


@dataclass
class _Call:
    inputs: tuple[th.Tensor, ...]
    output: th.Tensor = field(repr=False)
    delta: th.Tensor | None = None


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters(recurse=False) if p.requires_grad}


def _owners(module: nn.Module) -> list[nn.Module]:
    seen: set[int] = set()
    owners = [part for part in module.modules() if _own(part)]
    for owner in owners:
        for name, parameter in _own(owner).items():
            if id(parameter) in seen:
                raise ValueError(f"Parameter {name!r} of {type(owner).__name__} is tied: per-sample gradients are not known.")
            seen.add(id(parameter))
    return owners


@contextmanager
def _watched(calls: dict[nn.Module, list[_Call]]) -> Iterator[None]:
    def keep(owner: nn.Module, inputs: tuple[th.Tensor, ...], output: th.Tensor) -> None:
        if th.is_grad_enabled() and isinstance(output, th.Tensor) and output.requires_grad:
            if not all(isinstance(value, th.Tensor) for value in inputs):
                raise ValueError(f"{type(owner).__name__} takes something else than tensors: its gradients are not known.")
            calls[owner].append(_Call(tuple(value.detach() for value in inputs), output))

    handles = [owner.register_forward_hook(keep) for owner in calls]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@th.no_grad()
def _layer_gram(layer: nn.Module, calls: list[_Call], samples: int, max_bytes: int) -> th.Tensor:
    if not calls:
        return th.zeros(samples, samples, dtype=th.float64, device="cpu")
    once = len(calls) == 1 and len(calls[0].inputs) == 1 and calls[0].inputs[0].ndim == 2
    if once and type(layer) in (nn.Linear, SparseLinear) and len(calls[0].inputs[0]) == samples:
        inputs, delta = calls[0].inputs[0], calls[0].delta
        assert delta is not None
        own = _own(layer)
        outer = (delta @ delta.T).double()
        gram = outer if "bias" in own else th.zeros_like(outer)
        if "weight" in own:
            gram = gram + outer * (inputs @ inputs.T).double()
        if "values" in own:
            topology: Any = layer.topology
            gram = gram + _active_gram(topology.long_indices(), inputs, delta, max_bytes)
        return gram
    return _block_gram(layer, calls, samples, max_bytes)


def _active_gram(indices: th.Tensor, inputs: th.Tensor, delta: th.Tensor, max_bytes: int) -> th.Tensor:
    """Of a sparse matrix: the gradient of an active weight is the product of what its row got back and its column took in."""
    gram = th.zeros(len(inputs), len(inputs), dtype=th.float64, device=inputs.device)
    # A piece needs its two factors and their product.
    size = max(1, max_bytes // (3 * len(inputs) * inputs.element_size()))
    by_unit, by_input = delta.T.contiguous(), inputs.T.contiguous()
    for piece in indices.split(size):
        gradients = by_unit[piece // inputs.shape[1]] * by_input[piece % inputs.shape[1]]  # (piece, samples)
        gram += gradients.T @ gradients
    return gram


def _block_gram(layer: nn.Module, calls: list[_Call], samples: int, max_bytes: int) -> th.Tensor:
    """Of any layer: per-sample gradients in blocks of samples, every block with every other."""
    parameters = {name: p.detach() for name, p in _own(layer).items()}
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    block = max(1, min(samples, max_bytes // (2 * size)))
    starts = range(0, samples, block)
    gram = th.zeros(samples, samples, dtype=th.float64, device=calls[0].output.device)
    for i in starts:
        left = _sample_gradients(layer, parameters, calls, slice(i, i + block))
        for j in starts:
            if j < i:
                continue
            right = left if i == j else _sample_gradients(layer, parameters, calls, slice(j, j + block))
            product = (left @ right.T).double()
            gram[i : i + block, j : j + block] = product
            gram[j : j + block, i : i + block] = product.T
    return gram


def _sample_gradients(layer: nn.Module, parameters: dict[str, th.Tensor], calls: list[_Call], samples: slice) -> th.Tensor:
    def pull(delta: th.Tensor, *inputs: th.Tensor) -> dict[str, th.Tensor]:
        one_sample = tuple(value.unsqueeze(0) for value in inputs)
        _, back, *_ = vjp(lambda values: functional_call(layer, values, one_sample), parameters)
        return back(delta.unsqueeze(0))[0]

    total: th.Tensor | None = None
    for call in calls:
        assert call.delta is not None
        gradients = vmap(pull)(call.delta[samples], *(value[samples] for value in call.inputs))
        flat = th.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
        total = flat if total is None else total + flat
    assert total is not None
    return total


def _check(gram: th.Tensor, gradients: list[th.Tensor]) -> None:
    expected = sum(float(gradient.double().square().sum()) for gradient in gradients)
    # Relative to what could have cancelled.
    scale = float(gram.abs().sum())
    if abs(float(gram.sum()) - expected) > _TOLERANCE * max(scale, expected):
        raise ValueError(
            "The layers' gradients do not add up to the network's: a parameter is used outside its own module's forward pass, "
            "or samples depend on each other (batch normalisation in training mode)."
        )
