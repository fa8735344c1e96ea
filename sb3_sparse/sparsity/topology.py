"""Topology: where the active weights of one layer sit."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch as th
from torch import nn

from sb3_sparse.sparsity.patterns import Pattern

DerivedT = TypeVar("DerivedT")

_INT32_MAX = 2**31 - 1
_REPLACED = (
    "The buffers of another network were copied over those of a sparse layer, so its active weights moved. If values were not "
    "copied but averaged with those of other positions, the network is wrong: average networks of one topology only."
)
_COMPUTED_WITH = (
    "Somebody computed with the indices of {}, as an average of two networks' buffers does, and these had different masks or "
    "were not averaged together. Average networks of one topology only (or their dense copies, sparsity.to_dense), and move "
    "active weights by set_topology or load_state_dict."
)
_REMEDY = "Build the model with the sparsity, distribution, budget and network size that the checkpoint was made with."


class Topology(nn.Module):
    """
    The positions of a layer's active weights: one boolean mask, stored as sorted flat indices.

    It is a module, so that several layers (an online and its target network, two weights under one mask) can share one and
    still share it after ``.to(device)``, ``copy.deepcopy`` of the whole and loading. Indices are only ever written in place.

    Indices are a buffer, so whatever averages the buffers of two networks computes with them, too, and rounds. What counts are
    therefore positions that nobody sees. The buffer ``signature`` says which positions the buffers mean and survives rounding:
    after an average of equal topologies the indices are put right, after one of different topologies an error is raised.

    :param indices: (active,) flat row-major positions in the weight, strictly increasing
    :param shape: Shape of the dense weight
    :param pattern: N:M pattern that the positions keep to, also when they move
    :raises ValueError: if the indices are not strictly increasing positions within the shape, or if there are none.
    """

    indices: th.Tensor
    weight_shape: th.Tensor
    signature: th.Tensor

    def __init__(self, indices: th.Tensor, shape: Sequence[int], pattern: Pattern | None = None):
        super().__init__()
        self.shape = th.Size(shape)
        self.pattern = pattern
        # Plain attributes, as they are asked for in every forward pass: numbers of weights of the dense layer, and active.
        self.numel, self.active = self.shape.numel(), indices.numel()
        dtype = th.int32 if self.numel <= _INT32_MAX else th.int64
        _check_indices(indices, self.numel)
        # A copy: indices are written in place, and the caller's tensor may be those of another topology.
        self.register_buffer("indices", indices.to(dtype, copy=True))
        # Saved, so that a checkpoint of another shape with as many active weights does not pass for a fitting one.
        self.register_buffer("weight_shape", th.tensor(self.shape, device=indices.device))
        self.register_buffer("signature", _sign(indices).to(indices.device))
        self._positions = self.indices.to("cpu", copy=True)
        # The indices that were last found to be the positions, and their version; -1 if that has to be found out.
        self._verified = (self.indices, -1)
        self._derived: dict[Callable[[Topology], Any], Any] = {}

    @classmethod
    def random(cls, shape: Sequence[int], active: int, generator: th.Generator | None = None) -> "Topology":
        """
        Draw ``active`` positions uniformly without replacement, on the CPU whatever device the layer lives on.

        :param shape: Shape of the dense weight
        :param active: Exact number of active weights, at least 1
        :param generator: CPU generator; the default one if None
        :raises ValueError: if the shape has fewer positions, or ``active`` is less than 1.
        """
        if not 1 <= active <= math.prod(shape):
            raise ValueError(f"Of shape {tuple(shape)}, between 1 and {math.prod(shape)} weights can be active; got {active}.")
        order = th.randperm(math.prod(shape), generator=generator, device="cpu")
        return cls(order[:active].sort().values, shape)

    @property
    def density(self) -> float:
        """Fraction of weights that are active, in (0, 1]."""
        return self.active / self.numel

    def scatter(self, values: th.Tensor) -> th.Tensor:
        """
        Build the dense weight; differentiable with respect to the values.

        :param values: (active,) values of the active weights
        :return: Dense weight, exactly 0 at inactive positions
        """
        # Which take no autograd function, the former without rules of its own.
        if th._C._are_functorch_transforms_active() or th.jit.is_tracing():
            return values.new_zeros(self.numel).index_put((self.long_indices(),), values).view(self.shape)
        flat: th.Tensor = _Scatter.apply(values, self.long_indices(), self.numel)  # type: ignore[no-untyped-call]
        return flat.view(self.shape)

    def gather(self, weight: th.Tensor) -> th.Tensor:
        """
        Read the active entries of a dense weight.

        :param weight: Dense weight of this topology's shape
        :return: (active,) values
        """
        return weight.reshape(-1).index_select(0, self.verified_indices())

    def mask(self) -> th.Tensor:
        """Boolean mask of the weight's shape: True where a weight is active."""
        mask = th.zeros(self.numel, dtype=th.bool, device=self.indices.device)
        mask[self.long_indices()] = True
        return mask.view(self.shape)

    def long_indices(self) -> th.Tensor:
        """The indices as int64, which torch's index operations need."""
        return self.derive(_long_indices)

    def coordinates(self) -> tuple[th.Tensor, th.Tensor]:
        """(active,) rows and (active,) columns of a two-dimensional weight, int64."""
        return self.derive(_coordinates)

    @th.no_grad()
    def assign(self, indices: th.Tensor) -> None:
        """
        Move the active weights, in place and for every layer that shares this topology; their number must stay.

        :param indices: (active,) flat row-major positions, strictly increasing
        :raises ValueError: if their number differs or they are no valid positions.
        """
        if indices.numel() != self.active:
            raise ValueError(f"This topology has {self.active} active weights, got indices of {indices.numel()}.")
        _check_indices(indices, self.numel)
        self._positions, self._derived = indices.to("cpu", self.indices.dtype, copy=True), {}
        self.indices.copy_(self._positions)
        self.signature.copy_(_sign(self._positions))

    def verified_indices(self) -> th.Tensor:
        """
        The indices, after making sure that nobody computed with them since they were last asked for.

        :raises RuntimeError: if somebody did, and they cannot be put right.
        """
        if not (_are_followed(self.indices) or self._are_verified(self.indices)):
            self._verify()
        return self.indices

    def derive(self, build: Callable[["Topology"], DerivedT]) -> DerivedT:
        """
        What follows from the positions, computed anew only after these moved, were replaced (``.to``) or written in place.

        :param build: Computes it from ``indices`` and ``shape``; the result is kept under this function, so one that lasts
        :return: What it returned, not to be written
        :raises RuntimeError: if somebody computed with the indices.
        """
        if th.compiler.is_dynamo_compiling():
            self._verify_while_compiling()
        if th.compiler.is_compiling() or th.jit.is_tracing():  # where what is kept would be a constant
            return build(self)
        indices = self._buffers["indices"]  # without the detour of torch's __getattr__, as products with one sample ask for it
        assert indices is not None
        if build in self._derived and self._are_verified(indices):
            return self._derived[build]  # type: ignore[no-any-return]
        if _are_followed(indices):  # by somebody whose tensors nobody else must find
            return build(self)
        self.verified_indices()
        with th.inference_mode(False):  # what is kept must serve the next backward pass, too
            if build not in self._derived:
                self._derived[build] = build(self)
        return self._derived[build]  # type: ignore[no-any-return]

    def _verify_while_compiling(self) -> None:
        """Which runs once, on the tensors themselves."""
        self._verify()

    # As by th.compiler.assume_constant_result, which imports torch._dynamo first: seconds, for all who import this module.
    _verify_while_compiling._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _are_verified(self, indices: th.Tensor) -> bool:
        if indices.is_inference():  # made under th.inference_mode(), and without a version
            return False
        return self._verified[0] is indices and self._verified[1] == indices._version

    @th.no_grad()
    def _verify(self) -> None:
        """Compare the buffers with the positions, and let right win."""
        indices, last = self.indices, self._verified[0]
        written, signature = indices.to("cpu", self._positions.dtype), self.signature.cpu()
        if not _is_signed(self._positions, signature) and _is_signed(written, signature):
            if indices is last:  # not for a while only, as by functional_call
                warnings.warn(_REPLACED, UserWarning, stacklevel=2)
            self._positions, self._derived = written.clone(), {}
        elif not (_is_signed(self._positions, signature) and _is_rounded(written, self._positions)):
            raise RuntimeError(_COMPUTED_WITH.format(self))
        # Not the signature: what it has lost tells an average of different topologies after a while.
        for buffer, right in ((indices, self._positions), (self.weight_shape, th.tensor(self.shape, device="cpu"))):
            if not th.equal(buffer.to("cpu", right.dtype), right):
                buffer.copy_(right)
        if indices.device != last.device:
            self._derived = {}
        self._verified = indices, -1 if indices.is_inference() else indices._version

    def __getstate__(self) -> dict[str, Any]:
        # What is derived neither belongs into a pickle nor into a copy.
        return {**self.__dict__, "_derived": {}, "_verified": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._verified = (self.indices, -1)

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        if not _are_followed(self.indices):
            self._verify()  # whatever their version: old code writes through ``.data``, which does not raise it
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs):  # type: ignore[no-untyped-def]
        names = ("indices", "weight_shape", "signature")
        indices, shape, signature = (state_dict.get(prefix + name) for name in names)
        problem = self._misfit(indices, shape, signature)
        if problem is not None:
            error_msgs.append(f"topology {prefix.rstrip('.')!r} {problem}")
            return
        if indices is not None:  # checkpoints did not always have one, and rounding starts anew
            state_dict[prefix + "signature"] = _sign(indices)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs)
        if indices is not None and not indices.is_meta:
            self._positions = indices.to("cpu", self.indices.dtype, copy=True)
        self._derived, self._verified = {}, (self.indices, -1)

    def _misfit(self, indices: th.Tensor | None, shape: th.Tensor | None, signature: th.Tensor | None) -> str | None:
        """Say what is wrong with a checkpoint's topology, if anything is."""
        if shape is not None and tuple(shape.tolist()) != tuple(self.shape):
            return f"does not fit: it has shape {tuple(shape.tolist())} in the checkpoint, {tuple(self.shape)} here. {_REMEDY}"
        if indices is not None and indices.numel() != self.active:
            counts = f"{indices.numel()} active weights in the checkpoint, {self.active} of {self.numel} here"
            return f"does not fit: {counts}. {_REMEDY}"
        found = self._positions if indices is None else indices
        try:
            _check_indices(found, self.numel)
        except ValueError as error:
            return f"is damaged in the checkpoint: {error}"
        if signature is not None and not _is_signed(found.cpu(), signature.cpu()):
            return "is damaged in the checkpoint: its indices are not those that were saved."
        return None

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, active={self.active}, sparsity={1 - self.density:.4f}"


class _Scatter(th.autograd.Function):
    """``zeros.scatter(0, indices, values)`` with ``index_select`` as its gradient, three times as fast as ``gather``."""

    @staticmethod
    def forward(ctx, values, indices, numel):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(indices)
        return values.new_zeros(numel).scatter_(0, indices, values)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (indices,) = ctx.saved_tensors
        return grad.index_select(0, indices), None, None


def _check_indices(indices: th.Tensor, numel: int) -> None:
    if indices.ndim != 1 or indices.numel() == 0:
        raise ValueError(f"A topology needs at least one active weight, in a flat tensor; got shape {tuple(indices.shape)}.")
    if indices.dtype not in (th.int32, th.int64):
        raise ValueError(f"Indices must be int32 or int64, got {indices.dtype}.")
    if indices[0] < 0 or indices[-1] >= numel or not bool((indices[1:] > indices[:-1]).all()):
        raise ValueError(f"Indices must increase strictly within [0, {numel}).")


def _long_indices(topology: Topology) -> th.Tensor:
    return topology.indices.long()


def _coordinates(topology: Topology) -> tuple[th.Tensor, th.Tensor]:
    indices, columns = topology.indices.long(), topology.shape[1]
    return indices // columns, indices % columns


# Whatever averages integers as real numbers cuts off what follows the point. Marks of equal topologies lose one or two by
# that, those of different ones at least one with every update.
_MARK, _TOLERANCE = 256, 8


def _sign(indices: th.Tensor) -> th.Tensor:
    """(32,) int16 numbers, each 0 or ``_MARK``, that tell these positions from others."""
    mixed = (indices.to("cpu", th.int64) + 1) * 0x9E3779B97F4A7C1
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B
    bits = (mixed.sum() >> th.arange(16, 48, device="cpu")) & 1
    return (bits * _MARK).to(th.int16)


def _is_signed(indices: th.Tensor, signature: th.Tensor) -> bool:
    return bool((signature - _sign(indices)).abs().max() <= _TOLERANCE)


def _is_rounded(written: th.Tensor, positions: th.Tensor) -> bool:
    """Whether these can be the positions after averages of equal ones in single precision, which has 24 bits."""
    return bool(((written.long() - positions.long()).abs() <= 2 + positions.long() // 64).all())


def _are_followed(indices: th.Tensor) -> bool:
    """Whether torch follows what is computed: values cannot be looked at then, and results are of no use to anybody else."""
    return (
        th.compiler.is_compiling()
        or indices.is_meta
        or th.jit.is_tracing()
        or th._C._are_functorch_transforms_active()
        or th._C._len_torch_dispatch_stack() > 0
    )
