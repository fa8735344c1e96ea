"""A SimBa encoder as one operation of autograd on a CPU."""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch as th
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_sparse.networks.fused.plan import Block, Encoder, Linear, Norm, Plan
from sb3_sparse.networks.fused.table import SAVED, SCRATCH, Layout
from sb3_sparse.networks.simba import SimBaBlock, SimBaEncoder, is_listened_to
from sb3_sparse.sparsity.layers import SparseLinear
from sb3_sparse.sparsity.products.choice import Products, products_by_kernels
from sb3_sparse.sparsity.products.dense_weights import DenseWeights
from sb3_sparse.sparsity.products.kernel_products import fits, rows_of
from sb3_sparse.sparsity.topology import Topology

# Smaller batches go from layer to layer: a pass would compute with zeros for the most part.
LEAST_BATCH = 16
MOST_PLANS = 16  # of one encoder, for batches of several shapes
_DENSE = Products(False, False, False)
# Shape and type of a batch, whether there is a backward pass, and whether parameters get gradients in it.
_Key = tuple[th.Size, th.dtype, bool, bool]


class Layers(NamedTuple):
    """
    The layers of a SimBa encoder.

    :param projection: Linear layer
    :param blocks: Layer normalisation, linear layer, activation and linear layer of every residual block
    :param norm: Layer normalisation
    :param heads: Linear layers on the encoder's output
    """

    projection: Any
    blocks: Sequence[tuple[Any, Any, Any, Any]]
    norm: Any
    heads: Sequence[Any]

    def linear(self) -> Iterator[Any]:
        """The linear layers."""
        yield self.projection
        for _, expand, _, contract in self.blocks:
            yield expand
            yield contract
        yield from self.heads

    def norms(self) -> Iterator[Any]:
        """The layer normalisations."""
        for norm, *_ in self.blocks:
            yield norm
        yield self.norm


class FusedPasses:
    """The passes through one encoder, with plans that are kept from one to the next."""

    def __init__(self) -> None:
        # Number of heads: the state of the layers, and the plans that were made for it.
        self._kept: dict[int, tuple[list[Any], dict[_Key, Plan | None]]] = {}
        # Who owns every write to the layers, and what was found out meanwhile. Heads: parameters; situation: plan.
        self._owner: weakref.ref[DenseWeights] | None = None
        self._parameters: dict[tuple[nn.Module, ...], list[th.Tensor]] = {}
        self._plans: dict[Any, Plan] = {}

    def __call__(self, encoder: SimBaEncoder, x: th.Tensor, heads: Sequence[nn.Module]) -> Sequence[th.Tensor] | None:
        """
        Pass a batch through the encoder and its heads.

        :param encoder: The encoder, the same every time
        :param x: (batch, input_dim) ordinary numbers in memory
        :param heads: Linear layers on its output
        :return: (batch, output_dim) of every head, or (batch, hidden_dim) features if there is none; None if something is
            unusual, so that the batch has to go from layer to layer
        """
        if x.ndim != 2 or len(x) < LEAST_BATCH or torch_module._has_any_global_hook():
            return None
        self._follow(encoder.dense_weights)
        known, layers = tuple(heads), None
        parameters = self._parameters.get(known)
        if parameters is None:
            layers = _plain_layers(encoder, heads)
            if layers is None:
                return None
            parameters = [parameter for pair in _parameters(layers) for parameter in pair if parameter is not None]
        is_learning = any([parameter.requires_grad for parameter in parameters])
        is_differentiated = th.is_grad_enabled() and (is_learning or x.requires_grad)
        situation = known, x.shape, x.dtype, is_differentiated, is_learning
        plan = self._plans.get(situation)
        if plan is None:
            layers = layers or _plain_layers(encoder, heads)
            plan = layers and self._plan(x, layers, parameters, is_differentiated, is_learning)
            if plan is None:
                return None
            if encoder.dense_weights is not None:
                self._parameters[known], self._plans[situation] = parameters, plan
        if is_differentiated:
            return _Encode.apply(x, plan, *parameters)  # type: ignore[no-any-return, no-untyped-call]
        return run_forward(plan, x)[0]

    def _follow(self, owner: DenseWeights | None) -> None:
        """Forget what was found out unless the same owner serves the layers, which notices what anybody changes in them."""
        if owner is not (self._owner and self._owner()) or len(self._plans) == MOST_PLANS:
            self._owner = None if owner is None else weakref.ref(owner)
            self._parameters, self._plans = {}, {}

    def _plan(
        self, x: th.Tensor, layers: Layers, parameters: list[th.Tensor], is_differentiated: bool, is_learning: bool
    ) -> Plan | None:
        """The plan for such a batch, made anew if parameters lie elsewhere or active weights moved."""
        state: list[Any] = [(parameter.data_ptr(), parameter.numel()) for parameter in parameters]
        state.extend(norm.eps for norm in layers.norms())
        for layer in layers.linear():
            if isinstance(layer, SparseLinear):
                if layer.records_dense_gradient:
                    return None
                state.append(layer.topology.derive(_Positions))
        number = len(layers.heads)
        if number not in self._kept or self._kept[number][0] != state:
            self._kept[number] = state, {}
        key, plans = (x.shape, x.dtype, is_differentiated, is_learning), self._kept[number][1]
        if key not in plans:
            if len(plans) == MOST_PLANS:
                del plans[next(iter(plans))]
            plans[key] = None
            if _fit(x, layers, parameters):
                plans[key] = Plan(_describe(layers, len(x)), Layout(len(x), x.dtype), is_differentiated, is_learning)
        return plans[key]


class _Positions:
    """Stands for the positions of a topology until they move."""

    def __init__(self, topology: Topology):
        pass


class _Encode(th.autograd.Function):
    @staticmethod
    def forward(ctx, x, plan, *parameters):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, *parameters)
        outputs, ctx.activations = run_forward(plan, x)
        ctx.plan = plan
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grad_outputs):  # type: ignore[no-untyped-def]
        x, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[:1] + ctx.needs_input_grad[2:]
        # The gradient is to be differentiated, or there are several (is_grads_batched=True).
        if th.is_grad_enabled() or th._C._functorch.is_legacy_batchedtensor(grad_outputs[0]):
            gradients = _differentiate(ctx.plan.encoder, x, parameters, needed, grad_outputs)
        else:
            gradients = run_backward(ctx.plan, ctx.activations, grad_outputs, parameters, needed)
        return gradients[0], None, *gradients[1:]


def run_forward(plan: Plan, x: th.Tensor) -> tuple[list[th.Tensor], th.Tensor]:
    """
    Pass a batch through an encoder.

    :param plan: Its plan
    :param x: (batch, input_dim)
    :return: Its outputs, and what a backward pass reads
    """
    table, layout, encoder = plan.forward, plan.layout, plan.encoder
    saved, scratch = (layout.empty(table.units[base]) for base in (SAVED, SCRATCH))
    outputs = [x.new_empty(len(x), size) for size in encoder.output_dims]
    table.run((None, saved, scratch, x.detach().contiguous(), *outputs), encoder.eps)
    return outputs, saved


def run_backward(
    plan: Plan,
    saved: th.Tensor,
    grad_outputs: Sequence[th.Tensor],
    parameters: Sequence[th.Tensor],
    needed: tuple[bool, ...],
) -> list[th.Tensor | None]:
    """
    Pass a gradient back through an encoder.

    :param plan: Its plan
    :param saved: What the forward pass returned beside its outputs
    :param grad_outputs: Gradients of the outputs
    :param parameters: The encoder's parameters
    :param needed: Whether a gradient is wanted, of the input and of every parameter
    :return: The gradients, None where none is wanted
    """
    table, layout = plan.backward(needed), plan.layout
    scratch = layout.empty(table.units[SCRATCH])
    grad_input = saved.new_empty(layout.batch, plan.encoder.projection.shape[1]) if needed[0] else None
    gradients = [
        th.empty_like(parameter) if wanted else None for parameter, wanted in zip(parameters, needed[1:], strict=True)
    ]
    outer = [gradient.contiguous() for gradient in grad_outputs]
    table.run((None, saved, scratch, grad_input, *outer, *gradients), plan.encoder.eps)
    return [grad_input, *gradients]


def _differentiate(
    encoder: Encoder,
    x: th.Tensor,
    parameters: Sequence[th.Tensor],
    needed: tuple[bool, ...],
    grad_outputs: Sequence[th.Tensor],
) -> list[th.Tensor | None]:
    """The gradients by torch's own operations, which can be differentiated again."""

    def linear(layer: Linear, x: th.Tensor) -> th.Tensor:
        weight = parameters[layer.number]
        if layer.rows is not None:
            flat = weight.new_zeros(layer.shape[0] * layer.shape[1])
            weight = flat.scatter(0, layer.rows.positions(), weight).view(layer.shape)
        return F.linear(x, weight, None if layer.bias is None else parameters[layer.number + 1])

    def normalize(norm: Norm, x: th.Tensor) -> th.Tensor:
        return F.layer_norm(x, x.shape[-1:], parameters[norm.number], parameters[norm.number + 1], encoder.eps)

    is_differentiable = th.is_grad_enabled()
    with th.enable_grad():
        stream = linear(encoder.projection, x)
        for block in encoder.blocks:
            stream = stream + linear(block.contract, F.relu(linear(block.expand, normalize(block.norm, stream))))
        features = normalize(encoder.norm, stream)
        outputs = [linear(head, features) for head in encoder.heads] or [features]
    wanted = [tensor for tensor, is_wanted in zip((x, *parameters), needed, strict=True) if is_wanted]
    found = iter(th.autograd.grad(outputs, wanted, grad_outputs, create_graph=is_differentiable))
    return [next(found) if is_wanted else None for is_wanted in needed]


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return type(module) in kinds and not is_listened_to(module)


def _plain_layers(encoder: SimBaEncoder, heads: Sequence[nn.Module]) -> Layers | None:
    """The layers of an encoder, None if one is of an unusual type or somebody listens."""
    # Past torch's __getattr__, which takes longer than a small product.
    modules: Any = encoder._modules
    chain = modules["blocks"]
    blocks = [block for block in chain._modules.values()]
    if not _is_plain(chain, nn.Sequential):
        return None
    if not all(_is_plain(block, SimBaBlock) for block in blocks):
        return None
    inner = [tuple(block._modules[name] for name in ("norm", "expand", "activation", "contract")) for block in blocks]
    layers = Layers(modules["projection"], inner, modules["norm"], heads)
    is_plain = (
        all(_is_plain(layer, SparseLinear, nn.Linear) for layer in layers.linear())
        and all(_is_plain(norm, nn.LayerNorm) for norm in layers.norms())
        and all(_is_plain(activation, nn.ReLU) for _, _, activation, _ in layers.blocks)
    )
    return layers if is_plain else None


def _parameters(layers: Layers) -> list[tuple[th.Tensor, th.Tensor | None]]:
    """Weight and bias of every layer."""
    blocks = [layer for norm, expand, _, contract in layers.blocks for layer in (norm, expand, contract)]
    kinds = [(layer, layer._parameters) for layer in (layers.projection, *blocks, layers.norm, *layers.heads)]
    return [(kept["values" if type(layer) is SparseLinear else "weight"], kept["bias"]) for layer, kept in kinds]


def _fit(x: th.Tensor, layers: Layers, parameters: Sequence[th.Tensor]) -> bool:
    """Whether types and shapes fit together: kernels would not notice, torch's own operations say what is wrong."""
    shapes, hidden = [layer.weight.shape for layer in layers.linear()], layers.projection.out_features
    widths = [x.shape[1], *(width for _, expand, _, _ in layers.blocks for width in (hidden, expand.out_features))]
    widths += [hidden for _ in layers.heads]
    heights = [hidden, *(height for _, expand, _, _ in layers.blocks for height in (expand.out_features, hidden))]
    heights += [head.out_features for head in layers.heads]
    return (
        all(fits(layer.topology) for layer in layers.linear() if isinstance(layer, SparseLinear))
        and all(parameter.dtype == x.dtype and parameter.is_cpu and parameter.is_contiguous() for parameter in parameters)
        and shapes == list(zip(heights, widths, strict=True))
        and all(norm.normalized_shape == (hidden,) and None not in (norm.weight, norm.bias) for norm in layers.norms())
        and len({norm.eps for norm in layers.norms()}) == 1
    )


def _describe(layers: Layers, batch: int) -> Encoder:
    parameters = _parameters(layers)
    numbers = [sum(tensor is not None for pair in parameters[:i] for tensor in pair) for i in range(len(parameters))]
    described = iter(zip(numbers, parameters, strict=True))

    def linear(layer: Any) -> Linear:
        number, (weight, bias) = next(described)
        products, rows, positions = _DENSE, None, None
        if isinstance(layer, SparseLinear):
            products = products_by_kernels(layer.topology, batch)
            rows = rows_of(layer.topology, with_transpose=products.input_gradient)
            positions = None if all(products) else layer.topology.long_indices()
        return Linear((layer.out_features, layer.in_features), weight, bias, number, layer, rows, products, positions)

    def norm() -> Norm:
        number, (weight, bias) = next(described)
        assert bias is not None
        return Norm(weight, bias, number)

    projection = linear(layers.projection)
    blocks = [Block(norm(), linear(expand), linear(contract)) for _, expand, _, contract in layers.blocks]
    return Encoder(projection, blocks, norm(), [linear(head) for head in layers.heads], layers.norm.eps)
