"""Steps of optimizers and averages of target networks on a CPU, each in one compiled pass over all parameters."""

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.optim import optimizer as torch_optimizer

from sb3_sparse.sparsity.products.choice import kernels_are_available

_ZEROS: dict[th.dtype, Any] = {th.float32: np.float32(0.0), th.float64: np.float64(0.0)}
# Options of which the compiled step knows no other value.
_OFF = ("amsgrad", "maximize", "capturable", "differentiable")
# What torch takes at a time, with AVX-512 at the least; it rounds the entries that are left over otherwise.
_VECTOR_BYTES = 32


class ParameterUpdates:
    """
    Steps optimizers and averages networks as torch does; where the extra ``fast`` is installed and parameters lie on a CPU,
    in one compiled call for all of them. The state of an optimizer is torch's in either case.

    The compiled step is that of Adam and AdamW: to the bit as torch's fused implementation makes it, and up to the last digit
    of the step as the others do, which take square roots from another library.

    Addresses are kept: whoever replaces a parameter or a tensor of an optimizer's state, rather than writing into it, or
    changes an option other than the learning rate must make a new object.
    """

    def __init__(self) -> None:
        self._steps: dict[th.optim.Optimizer, _AdamStep | None] = {}
        self._averages: dict[tuple[nn.Module, nn.Module], _Average] = {}

    def step(self, optimizer: th.optim.Optimizer) -> None:
        """
        Make a step with the gradients that there are.

        :param optimizer: Any optimizer
        """
        is_first = optimizer not in self._steps
        if is_first:  # a run that goes on has its state
            self._steps[optimizer] = _adam_step(optimizer)
        compiled = self._steps[optimizer]
        if compiled is not None and compiled.is_possible():
            compiled()
            return
        optimizer.step()
        # Which made the state of parameters that had none.
        if is_first or compiled is not None:
            self._steps[optimizer] = _adam_step(optimizer)

    def average(self, network: nn.Module, target: nn.Module, weight: float) -> list[th.Tensor]:
        """
        Move the parameters of a target network towards those of its online network.

        :param network: Online network
        :param target: Target network
        :param weight: Weight of the online network, in [0, 1]
        :return: The parameters that were written
        """
        pair = network, target
        if pair not in self._averages:
            self._averages[pair] = _Average(network.parameters(), target.parameters())
        return self._averages[pair](weight)


def forget_gradients(optimizer: th.optim.Optimizer) -> None:
    """
    Forget the gradients of an optimizer's parameters: the next ones are written and not added.

    :param optimizer: Any optimizer
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


class _AdamStep:
    """
    A step of Adam or AdamW.

    :param optimizer: Optimizer whose state there is
    """

    def __init__(self, optimizer: th.optim.Optimizer):
        self._kernels: Any = importlib.import_module("sb3_sparse.training.parameter_kernels")
        self._optimizer, self._groups = optimizer, optimizer.param_groups
        owned = [(parameter, i) for i, group in enumerate(self._groups) for parameter in group["params"]]
        self._parameters = [parameter for parameter, _ in owned if optimizer.state.get(parameter)]
        self._others = [parameter for parameter, _ in owned if not optimizer.state.get(parameter)]
        self._zero = _ZEROS[self._parameters[0].dtype]
        self._table = np.zeros((len(self._parameters), 7), np.int64)
        numbers = [i for parameter, i in owned if optimizer.state.get(parameter)]
        self._kept = [(parameter, *_state(optimizer, parameter)) for parameter in self._parameters]
        for line, tensors, number in zip(self._table, self._kept, numbers, strict=True):
            value, mean, square, count = (tensor.data_ptr() for tensor in tensors)
            line[:] = value, 0, mean, square, count, tensors[0].numel(), number
        self._settings = np.array([self._line(group) for group in self._groups])
        # Torch's fused step leaves no trace of its writes, the others do.
        self._traced = [parameter for parameter, i in owned if not self._groups[i]["fused"]]

    def _line(self, group: dict[str, Any]) -> list[float]:
        # Without the fused implementation there are no entries left over.
        vector = _VECTOR_BYTES // self._zero.itemsize if group["fused"] else 1
        decoupled = group.get("decoupled_weight_decay", isinstance(self._optimizer, th.optim.AdamW))
        return [group["lr"], *group["betas"], group["eps"], group["weight_decay"], decoupled, vector]

    def is_possible(self) -> bool:
        """Whether nobody listens to steps, and no parameter has its first gradient."""
        optimizer = self._optimizer
        hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        if any(hooks) or torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks:
            return False
        return all(parameter.grad is None for parameter in self._others)

    def __call__(self) -> None:
        """Make a step."""
        for line, group in zip(self._settings, self._groups, strict=True):
            line[0] = group["lr"]
        gradients = [parameter.grad for parameter in self._parameters]
        self._table[:, 1] = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
        self._kernels.step_adam(self._zero, self._table, self._settings)
        if self._traced:
            th.autograd.graph.increment_version(self._traced)


class _Average:
    """
    The average of a target network.

    :param parameters: Of the online network
    :param targets: Of the target network
    """

    def __init__(self, parameters: Iterable[th.Tensor], targets: Iterable[th.Tensor]):
        self._parameters, self._targets = list(parameters), list(targets)
        self._kernels: Any = None
        if self._targets and kernels_are_available() and _lie_alike([*self._parameters, *self._targets]):
            self._kernels = importlib.import_module("sb3_sparse.training.parameter_kernels")
            self._zero = _ZEROS[self._targets[0].dtype]
            pairs = zip(self._targets, self._parameters, strict=True)
            lines = [(target.data_ptr(), parameter.data_ptr(), target.numel()) for target, parameter in pairs]
            self._table = np.array(lines, np.int64)

    def __call__(self, weight: float) -> list[th.Tensor]:
        """
        Move the target network.

        :param weight: Weight of the online network
        :return: Its parameters
        """
        if self._kernels is None:
            with th.no_grad():
                th._foreach_lerp_(self._targets, self._parameters, weight)
        else:
            self._kernels.average(self._zero, self._table, weight)
            th.autograd.graph.increment_version(self._targets)
        return self._targets


def _adam_step(optimizer: th.optim.Optimizer) -> _AdamStep | None:
    """The compiled step of an optimizer, None if torch has to make its steps."""
    if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or not kernels_are_available():
        return None
    groups = optimizer.param_groups
    if any(group.get(option) for group in groups for option in _OFF) or "step" in vars(optimizer):
        return None
    numbers = [number for group in groups for number in (group["lr"], *group["betas"], group["eps"], group["weight_decay"])]
    parameters = [parameter for group in groups for parameter in group["params"]]
    states = [_state(optimizer, parameter) for parameter in parameters if optimizer.state.get(parameter)]
    if not states or any(isinstance(number, th.Tensor) for number in numbers):
        return None
    if not _lie_alike([*parameters, *(tensor for *moments, _ in states for tensor in moments)]):
        return None
    return _AdamStep(optimizer) if all(count.is_cpu and count.dtype == th.float32 for *_, count in states) else None


def _state(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    state = optimizer.state[parameter]
    return state["exp_avg"], state["exp_avg_sq"], state["step"]


def _lie_alike(tensors: Iterable[th.Tensor]) -> bool:
    """Whether all are one run of numbers in memory, of one type that kernels know."""
    tensors = list(tensors)
    kind = tensors[0].dtype
    return kind in _ZEROS and all(tensor.is_cpu and tensor.dtype == kind and tensor.is_contiguous() for tensor in tensors)
