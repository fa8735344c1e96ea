"""Recording the activations of a network's units on a batch, and which layers feed which."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.sparsity.convolutions import SparseConvolution
from sb3_sparse.sparsity.layers import SparseLayer, sparse_type_of

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardswish,
    nn.Hardtanh,
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, SparseConvolution)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SparseLayer)
# Operations of the autograd graph that are activations, whoever calls them. Clamping is none: normalisations use it.
_ACTIVATION_NODES = re.compile(
    "(Relu|LeakyRelu|RreluWithNoise|PreluKernel|Elu|Celu|Gelu|Glu|Silu|Mish|Softplus|LogSigmoid|Tanh|Sigmoid|Hard(swish|tanh|"
    "sigmoid|shrink)|Softshrink|Threshold)Backward"
)
# Operations of the autograd graph that hand on what they get, in another shape.
_VIEWS = ("ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward", "AliasBackward", "TBackward", "CloneBackward")


@dataclass(frozen=True)
class Chain:
    """
    Units whose weights can be told one by one: a layer, the activation that it alone feeds, and the layers that alone take it.
    Where a taker has several inputs per unit, those of a channel lie side by side, those of a linear layer on sequences as
    many inputs apart as there are units.

    :param producer: Name of the layer whose outputs are the units
    :param activation: Name of the activation module
    :param consumers: Names of the layers that take the activations
    :param is_convolution: Whether the units are channels
    """

    producer: str
    activation: str
    consumers: tuple[str, ...]
    is_convolution: bool


@dataclass
class Recording:
    """
    One forward pass of a network. Each position of a sequence that a linear layer is applied to counts as a sample.

    :param pre: Layer -> its output, (batch, units, ...), of all linear and convolutional layers but the output layers
    :param post: Activation module -> its output, (batch, units, ...), but without squashed outputs of the network
    :param features: Output layer -> its input, (batch, features); output layers with the same input count once. Of an encoder:
        its last module -> what it returns
    :param output_layers: Layers that no other layer takes the output of: heads
    :param chains: Units with known weights in and out
    """

    pre: dict[str, th.Tensor] = field(default_factory=dict)
    post: dict[str, th.Tensor] = field(default_factory=dict)
    features: dict[str, th.Tensor] = field(default_factory=dict)
    output_layers: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()


def record(module: nn.Module, forward: Callable[[], Any], is_encoder: bool = False) -> Recording:
    """
    Run a network and keep what its units did.

    Layers are found by their type and their order by the autograd graph, so this works on any torch module whose
    non-linearities are modules of torch. What is left out is named in a warning: other modules with weights (LSTM, GRU,
    attention), and other activations, be they functions (``F.relu``) or modules; ``post`` stays empty without any module.
    All parts are in evaluation mode meanwhile, which is set without calling ``train()``: running statistics do not move.

    :param module: Network to watch
    :param forward: Runs it once on a batch; its result, tensors at any depth, is what the network returns
    :param is_encoder: Whether what it returns is the input of another network: then it has no output layer, and its last units
        are hidden ones, too
    :return: What was seen; tensors are detached, and those of a module that ran several times are joined along the batch
    """
    calls: list[_Call] = []
    others: list[_Other] = []
    with _hooked(module, calls, others), evaluation_mode(module), _differentiable(module), th.enable_grad():
        output = forward()
    graph = _Graph(calls, output)
    graph.find_units()
    _warn_of_unseen(module, graph, others, is_encoder)
    recording = Recording(chains=tuple(graph.chains()))
    _note_units(recording, calls if is_encoder else [call for call in calls if graph.feeds_a_layer(call)])
    if not is_encoder:
        _note_output_layers(recording, [call for call in calls if graph.is_output_layer(call)])
    elif calls:
        recording.features[calls[-1].name] = th.cat([part.detach().flatten(1) for part in _tensors(output)], dim=1)
    return recording


def _note_units(recording: Recording, calls: "list[_Call]") -> None:
    for name, call_list in _by_name(calls).items():
        joined = th.cat([call.units_of(call.output) for call in call_list])
        (recording.post if call_list[0].is_activation else recording.pre)[name] = joined


def _note_output_layers(recording: Recording, calls: "list[_Call]") -> None:
    sources = set()
    for name, call_list in _by_name(calls).items():
        if call_list[0].source not in sources:
            sources.add(call_list[0].source)
            recording.features[name] = th.cat([call.units_of(call.input).flatten(1) for call in call_list])
    recording.output_layers = tuple(dict.fromkeys(call.name for call in calls))


@contextmanager
def _differentiable(module: nn.Module) -> Iterator[None]:
    """Frozen parameters would leave no autograd graph to tell the order of layers by."""
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """
    Set evaluation mode and restore what was, without ``train()``: running normalisers may do something there.

    :param module: Module, with all its parts
    """
    modes = {part: part.training for part in module.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def is_layer(module: nn.Module) -> bool:
    """
    Tell whether a module has units with weights of their own: linear, convolutional, or registered to be pruned.

    :param module: Any module
    """
    return isinstance(module, _LAYERS) or sparse_type_of(module) is not None


@dataclass
class _Call:
    """One call of a layer or an activation: its node in the autograd graph, and the node that made its input."""

    name: str
    is_activation: bool
    input: th.Tensor
    output: th.Tensor
    source: Any
    node: Any
    is_convolution: bool

    def units_of(self, values: th.Tensor) -> th.Tensor:
        """(batch, units, ...): the units of a linear layer are on the last axis, those of a convolution on the second."""
        return values if self.is_convolution else values.reshape(-1, values.shape[-1])

    def takes_units_of(self, producer: "_Call") -> bool:
        """Whether each input of this layer belongs to one unit of another, whose results it gets in another shape at most."""
        if self.is_activation or (self.is_convolution and not producer.is_convolution):
            return False
        if producer.is_convolution:
            axis_is_known = self.is_convolution or self.input.ndim == 2
            return axis_is_known and self.input.shape[1] % producer.output.shape[1] == 0
        return self.input.shape[-1] % producer.output.shape[-1] == 0


@dataclass
class _Other:
    """One call of a module that is not recorded: the autograd nodes of what it was given and of what it returned."""

    name: str
    has_weights: bool
    sources: list[Any]
    nodes: list[Any]

    def inner_nodes(self) -> set[Any]:
        return _ancestors(self.nodes) - _ancestors(self.sources)


@contextmanager
def _hooked(module: nn.Module, calls: list[_Call], others: list[_Other]) -> Iterator[None]:
    handles = []
    # An activation that works in place overwrites what its layer returned.
    in_place = any(getattr(part, "inplace", False) for part in module.modules())

    def watch(name: str, part: nn.Module) -> None:
        is_activation = isinstance(part, _ACTIVATIONS)

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            sources.append((inputs[0].detach(), inputs[0].grad_fn))

        def after(_: nn.Module, inputs: tuple[Any, ...], output: th.Tensor) -> None:
            kept = output.detach().clone() if in_place else output.detach()
            given, source = sources.pop()
            calls.append(_Call(name, is_activation, given, kept, source, output.grad_fn, isinstance(part, _CONVOLUTIONS)))

        sources: list[tuple[th.Tensor, Any]] = []
        handles.append(part.register_forward_pre_hook(before))
        handles.append(part.register_forward_hook(after))

    def watch_other(name: str, part: nn.Module) -> None:
        title, has_weights = f"{name or 'the network'} ({type(part).__name__})", _has_weights(part)

        def after(_: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = [tensor.grad_fn for tensor in _tensors((inputs, kwargs))]
            others.append(_Other(title, has_weights, given, [tensor.grad_fn for tensor in _tensors(output)]))

        handles.append(part.register_forward_hook(after, with_kwargs=True))

    try:
        for name, part in module.named_modules():
            if isinstance(part, _ACTIVATIONS) or is_layer(part):
                watch(name, part)
            elif _has_weights(part) or not any(part.children()):
                watch_other(name, part)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has a matrix of its own. An embedding has rows, but no units that read all of an input."""
    own = (parameter.ndim >= 2 for parameter in module.parameters(recurse=False))
    return any(own) and not isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm)


def _warn_of_unseen(module: nn.Module, graph: "_Graph", others: list[_Other], is_encoder: bool) -> None:
    unseen = {other.name for other in others if other.has_weights}
    inside = {node: other.name for other in others for node in other.inner_nodes()}
    for node in graph.unseen_activations(is_encoder):
        after = " and ".join(sorted(call.name for call in graph.nearest_layers(node)))
        unseen.add(inside.get(node, f"what follows {after}, {node.name().partition('Backward')[0]} as a function"))
    if unseen:
        warnings.warn(
            f"What these units of {type(module).__name__} do is not recorded: {'; '.join(sorted(unseen))}. Recorded are "
            "linear and convolutional layers, and activations that are modules of torch.nn.",
            stacklevel=3,
        )


class _Graph:
    """Which call takes the result of which, read off the autograd graph."""

    def __init__(self, calls: list[_Call], output: Any):
        self.calls = calls
        self.call_at = {call.node: call for call in calls if call.node is not None}
        # What layers are made of; the sources of activations lead to no layer by themselves.
        self.before_layers = _ancestors([call.source for call in calls if not call.is_activation])
        self.takers: dict[Any, set[Any]] = defaultdict(set)
        # Calls are ends, too: a forward pass need not return what every head says.
        ends = [tensor.grad_fn for tensor in _tensors(output)] + [call.node for call in calls]
        for node in _ancestors(ends):
            for source in _next(node):
                self.takers[source].add(node)

    def find_units(self) -> None:
        """Have activations take over from the layers before them where their units are."""
        for call in self.calls:
            if call.is_activation:
                layers = self.nearest_layers(call.source)
                call.is_convolution = any(
                    layer.is_convolution and call.output.shape[1:2] == layer.output.shape[1:2] for layer in layers
                )

    def nearest_layers(self, node: Any) -> "list[_Call]":
        """The layers that a node is made of with no other layer in between."""
        found, seen, pending = [], {node}, [node]
        while pending:
            node = pending.pop()
            call = self.call_at.get(node)
            if call is not None and not call.is_activation:
                found.append(call)
                continue
            following = [] if node is None else [source for source in _next(node) if source not in seen]
            seen.update(following)
            pending.extend(following)
        return found

    def unseen_activations(self, is_encoder: bool) -> set[Any]:
        """Nodes that are activations between two layers, and of no module that is recorded."""
        within = set(self.takers) | {call.node for call in self.calls} if is_encoder else self.before_layers
        hidden = {node for node in within if node is not None and _ACTIVATION_NODES.match(node.name())}
        seen = {
            node for call in self.calls if call.is_activation for node in _ancestors([call.node]) - _ancestors([call.source])
        }
        return {node for node in hidden - seen if self.nearest_layers(node)}

    def feeds_a_layer(self, call: _Call) -> bool:
        return call.node in self.before_layers

    def is_output_layer(self, call: _Call) -> bool:
        # What ran without gradients belongs to another network, such as an extractor that the actor trains.
        return not call.is_activation and call.node is not None and not self.feeds_a_layer(call)

    def chains(self) -> Iterator[Chain]:
        counts = {name: len(calls) for name, calls in _by_name(self.calls).items()}
        for call in self.calls:
            producer = self.call_at.get(call.source) if call.is_activation else None
            if producer is None or producer.is_activation or counts[producer.name] > 1 or counts[call.name] > 1:
                continue
            consumers = self._consumers(call.node)
            if self._consumers(producer.node) == [call] and all(
                c is not None and c.takes_units_of(producer) for c in consumers
            ):
                names = tuple(c.name for c in consumers if c is not None)
                yield Chain(producer.name, call.name, names, producer.is_convolution)

    def _consumers(self, node: Any) -> list[_Call | None]:
        """The calls that take a node's result, None for one that is taken by something else."""
        found: list[_Call | None] = []
        for taker in sorted(self.takers[node], key=id):
            if taker in self.call_at:
                found.append(self.call_at[taker])
            elif taker.name().startswith(_VIEWS):
                found.extend(self._consumers(taker))
            else:
                found.append(None)
        return found or [None]


def _by_name(calls: Iterable[_Call]) -> dict[str, list[_Call]]:
    grouped: dict[str, list[_Call]] = {}
    for call in calls:
        grouped.setdefault(call.name, []).append(call)
    return grouped


def _ancestors(nodes: list[Any]) -> set[Any]:
    found: set[Any] = set()
    pending = [node for node in nodes if node is not None]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(_next(node))
    return found


def _next(node: Any) -> list[Any]:
    return [source for source, _ in node.next_functions if source is not None]


def _tensors(output: Any) -> Iterator[th.Tensor]:
    if isinstance(output, th.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
