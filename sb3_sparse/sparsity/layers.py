"""Layers in which only the active weights are parameters."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_sparse.sparsity.products.choice import sparse_linear
from sb3_sparse.sparsity.products.dense_weights import TakesDenseWeights
from sb3_sparse.sparsity.topology import Topology

SelfSparseLayer = TypeVar("SelfSparseLayer", bound="SparseLayer")


class SparseLayer(nn.Module):
    """
    Base class: a layer that stores the values of its active weights (the parameter ``values``) and where they sit
    (``topology``). Nothing else is a parameter, so an optimizer, a target network or a checkpoint only ever meets active
    weights, and an inactive one cannot come back.

    The dense matrix is rebuilt from the values in every forward pass and never cached: SB3's ``polyak_update`` writes through
    ``.data`` and fused optimizers write in place without raising the tensor's version, so a cache would go stale unnoticed.

    Layers are made by :meth:`convert`, which turns a dense layer into a sparse one in place (it changes the object's class),
    so that hooks and every reference to the layer stay valid.

    A subclass names the layer type it replaces, ``dense_type``, and computes its forward pass from ``weight``. Where a layer
    has several weights under one mask, or one of another name, ``value_names`` says which parameter of the sparse layer holds
    the active entries of which weight; the first must be ``values``. See :meth:`scatter`.
    """

    dense_type: ClassVar[type[nn.Module]]
    # Whether the first dimension of its weight counts output units, as N:M patterns need it.
    has_rows: ClassVar[bool] = True
    value_names: ClassVar[Mapping[str, str]] = {"weight": "values"}
    values: nn.Parameter
    topology: Topology
    dense_gradient: th.Tensor | None
    _records_dense_gradient: bool

    @classmethod
    @th.no_grad()
    def convert(
        cls: type[SelfSparseLayer],
        layer: nn.Module,
        topology: Topology,
        tied: dict[nn.Parameter, nn.Parameter] | None = None,
    ) -> SelfSparseLayer:
        """
        Turn a dense layer into a sparse one in place, keeping its weights at the topology's positions.

        :param layer: Layer of exactly ``dense_type``
        :param topology: Positions of the active weights; moved to the layer's device
        :param tied: Weight -> its active values, of the layers converted so far; a weight found there stays tied, others are
            added
        :return: The same object
        """
        assert type(layer) is cls.dense_type
        tied = {} if tied is None else tied
        # All parameters are registered anew, for the order of the dense layer.
        parameters = dict(layer._parameters)
        layer._parameters.clear()
        layer.__class__ = cls
        assert isinstance(layer, cls)
        for name, parameter in parameters.items():
            if name in cls.value_names:
                assert parameter is not None and parameter.shape == topology.shape
                topology.to(parameter.device)
                if parameter not in tied:
                    tied[parameter] = nn.Parameter(topology.gather(parameter), requires_grad=parameter.requires_grad)
                layer.register_parameter(cls.value_names[name], tied[parameter])
            else:
                layer.register_parameter(name, parameter)
        layer.topology = topology
        layer.dense_gradient = None
        layer._records_dense_gradient = False
        return layer

    @th.no_grad()
    def densify(self, tied: dict[nn.Parameter, nn.Parameter] | None = None) -> nn.Module:
        """
        Turn this layer into the dense one in place, with zeros at inactive positions. Inverse of :meth:`convert`.

        :param tied: Values -> their weight, of the layers made dense so far; values found there stay tied, others are added
        :return: The same object
        """
        tied = {} if tied is None else tied
        weight_names, topology, parameters = self.weight_names(), self.topology, dict(self._parameters)
        self._parameters.clear()
        del self.topology, self.dense_gradient, self._records_dense_gradient
        self.__class__ = self.dense_type  # type: ignore[assignment]
        for name, parameter in parameters.items():
            if parameter is not None and name in weight_names:
                if parameter not in tied:
                    tied[parameter] = nn.Parameter(topology.scatter(parameter), requires_grad=parameter.requires_grad)
                self.register_parameter(weight_names[name], tied[parameter])
            else:
                self.register_parameter(name, parameter)
        return self

    @property
    def indices(self) -> th.Tensor:
        """(active,) flat row-major positions of the active weights."""
        return self.topology.verified_indices()

    @property
    def weight(self) -> th.Tensor:
        """The dense weight, built anew and differentiable; writing into it changes nothing (see :meth:`copy_weight`)."""
        return self.scatter(self.values)

    def scatter(self, values: th.Tensor) -> th.Tensor:
        """
        Build the dense weight that the forward pass multiplies with; its gradient is what ``dense_gradient`` records.

        :param values: (active,) this layer's values, or what a layer with several weights computes of them
        :return: Dense weight, exactly 0 at inactive positions
        """
        weight = self.topology.scatter(values)
        if self._records_dense_gradient and weight.requires_grad:
            weight.register_hook(self._accumulate_dense_gradient)
        return weight

    def units(self, positions: th.Tensor) -> th.Tensor:
        """
        The output unit (or channel) that weights lead to.

        :param positions: Flat positions of weights
        :return: Of the same shape
        """
        return positions // (self.topology.numel // self.topology.shape[0])

    def by_unit(self, weight: th.Tensor) -> th.Tensor:
        """
        The rows of a weight, one for each output unit.

        :param weight: Tensor of the dense weight's shape
        :return: (units, inputs)
        """
        return weight.reshape(self.topology.shape[0], -1)

    @th.no_grad()
    def set_topology(self, indices: th.Tensor, values: th.Tensor, *more_values: th.Tensor) -> None:
        """
        Move the active weights, in place; their number stays. Layers that share the topology move along, with the values they
        have: set those, too.

        :param indices: (active,) flat row-major positions, strictly increasing
        :param values: (active,) values at these positions
        :param more_values: The same of a layer's further weights, in the order of ``value_names``
        :raises ValueError: if a shape does not fit or the indices are no valid positions. Nothing has changed then.
        """
        tensors = (values, *more_values)
        expected, given = [(self.topology.active,)] * len(self.value_names), [tuple(tensor.shape) for tensor in tensors]
        if given != expected:
            raise ValueError(f"The values of this layer's active weights have shapes {expected}, got {given}.")
        self.topology.assign(indices)
        for name, tensor in zip(self.value_names.values(), tensors, strict=True):
            self._parameters[name].copy_(tensor)  # type: ignore[union-attr]

    @th.no_grad()
    def copy_weight(self, weight: th.Tensor) -> None:
        """
        Take the active entries of a dense weight; the others are dropped.

        :param weight: Tensor of the dense weight's shape
        """
        self.values.copy_(self.topology.gather(weight))

    def record_dense_gradient(self, mode: bool = True) -> None:
        """
        Keep the gradient with respect to all weights, inactive ones included, in ``dense_gradient`` (summed over backward
        passes until set to None). It makes the layer multiply with the dense matrix.

        :param mode: Whether to record; False also drops what was recorded.
        """
        self._records_dense_gradient = mode
        if not mode:
            self.dense_gradient = None

    @th.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew from the dense layer's own initialisation; the topology stays."""
        twin = object.__new__(type(self))
        # Not a deep copy: hooks may refer to anything, and the bias is to be drawn in place.
        twin.__dict__.update({key: value.copy() if isinstance(value, dict) else value for key, value in self.__dict__.items()})
        twin.densify().reset_parameters()  # type: ignore[operator]
        for weight, values in self.value_names.items():
            self._parameters[values].copy_(self.topology.gather(twin.get_parameter(weight)))  # type: ignore[union-attr]

    @property
    def records_dense_gradient(self) -> bool:
        """Whether the gradient with respect to all weights is kept."""
        return self._records_dense_gradient

    def weight_names(self) -> dict[str, str]:
        """Parameter of this layer -> the dense layer's weight of which it holds the active entries."""
        return {values: weight for weight, values in self.value_names.items()}

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script cannot compile sparse layers: script sparsity.to_dense(module), or trace the module instead "
            "(torch.jit.trace)."
        )

    def _accumulate_dense_gradient(self, gradient: th.Tensor) -> None:
        gradient = gradient.detach()
        self.dense_gradient = gradient.clone() if self.dense_gradient is None else self.dense_gradient + gradient

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs):  # type: ignore[no-untyped-def]
        for weight, values in self.value_names.items():
            if prefix + weight in state_dict and prefix + values not in state_dict:
                error_msgs.append(
                    f"layer {prefix.rstrip('.')!r} has {self.topology.active} of {self.topology.numel} weights active, "
                    f"but the checkpoint holds a dense {weight}: build the model with sparsity 0 to load it, then prune."
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs)

    def extra_repr(self) -> str:
        return f"{self.dense_type.extra_repr(self)}, sparsity={1 - self.topology.density:.4f}"


class SparseLinear(TakesDenseWeights, SparseLayer):
    """
    Linear layer with a fixed set of active weights, made from ``torch.nn.Linear``.

    On a CPU it multiplies active weights only where that is faster than rebuilding the dense matrix (extra ``fast``, or MKL).
    """

    dense_type = nn.Linear
    bias: nn.Parameter | None

    def forward(self, input: th.Tensor) -> th.Tensor:
        """
        :param input: (..., in_features)
        :return: (..., out_features)
        """
        if not self._records_dense_gradient:
            output = sparse_linear(input, self.values, self.bias, self.topology)
            if output is not None:
                return output
            if self.dense_weights is not None:
                return self.dense_weights.linear(input, self.values, self.bias, self.topology)
        return F.linear(input, self.weight, self.bias)


_SPARSE_TYPES: dict[type[nn.Module], type[SparseLayer]] = {}


def register_sparse_layer(sparse_type: type[SparseLayer]) -> type[SparseLayer]:
    """
    Make a layer type prunable: from now on ``prune`` turns layers of exactly ``sparse_type.dense_type`` into ``sparse_type``.

    :param sparse_type: Sparse layer class
    :return: The same class, so that this can be used as a decorator.
    """
    _SPARSE_TYPES[sparse_type.dense_type] = sparse_type
    return sparse_type


def sparse_type_of(layer: nn.Module) -> type[SparseLayer] | None:
    """
    Find the sparse counterpart of a layer.

    :param layer: Any module
    :return: The registered sparse class, or None. Subclasses do not count, because their forward pass may read ``weight``.
    """
    return _SPARSE_TYPES.get(type(layer))


@th.no_grad()
def initialize_weight(layer: nn.Module, initializer: Callable[..., Any], **kwargs: Any) -> None:
    """
    Initialise the weight of a dense or sparse layer; a sparse one keeps the active entries of a full draw, without rescaling.

    :param layer: Layer with a ``weight``
    :param initializer: In-place initialiser such as ``torch.nn.init.orthogonal_``
    :param kwargs: Its further arguments
    """
    if isinstance(layer, SparseLayer):
        weight = layer.values.new_empty(layer.topology.shape)
        initializer(weight, **kwargs)
        layer.copy_weight(weight)
    else:
        initializer(layer.weight, **kwargs)


register_sparse_layer(SparseLinear)


def prunable_weights(layer: nn.Module) -> list[nn.Parameter | None]:
    """
    The weights of a plain layer that can be pruned.

    :param layer: Layer of a registered type
    :return: Weights, None for one that something else computes, as the old spectral norm does
    """
    sparse_type = sparse_type_of(layer)
    assert sparse_type is not None
    return [layer._parameters.get(name) for name in sparse_type.value_names]
