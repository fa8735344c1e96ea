"""Optimizers whose steps can be captured in a CUDA graph and still follow a learning rate that changes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

_FUSED = (th.optim.Adam, th.optim.AdamW)


class LiveOptimizers:
    """
    Lets a CUDA graph read learning rates from tensors. Only while it is captured do the optimizers differ from what SB3 made
    of them: afterwards their learning rates are floats again and nothing says ``capturable``, so a checkpoint is SB3's.

    :param optimizers: Optimizers whose steps are captured
    :param device: Their parameters' device
    """

    def __init__(self, optimizers: Iterable[th.optim.Optimizer], device: th.device):
        self._groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        self._rates = [th.tensor(float(group["lr"]), device=device) for _, group in self._groups]
        self._known = [float(group["lr"]) for _, group in self._groups]

    def refresh(self) -> None:
        """Hand over the present learning rates. SB3 sets them at every ``train()``; nothing is copied while they stay."""
        for i, (_, group) in enumerate(self._groups):
            rate = float(group["lr"])
            if rate != self._known[i]:
                self._known[i] = rate
                self._rates[i].fill_(rate)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Make the optimizers fit for a capture, and for the steps before it that create their state, while this is open."""
        changed = [
            _capturable(optimizer, group, rate) for (optimizer, group), rate in zip(self._groups, self._rates, strict=True)
        ]
        before = [{name: group[name] for name in new} for (_, group), new in zip(self._groups, changed, strict=True)]
        try:
            for (optimizer, group), new in zip(self._groups, changed, strict=True):
                group.update(new)
                _move_step_counts(optimizer, group)
            yield
        finally:
            for (_, group), old in zip(self._groups, before, strict=True):
                group.update(old)


def obstacle_to_capture(optimizer: th.optim.Optimizer) -> str | None:
    """
    :param optimizer: Optimizer of a network
    :return: Why its steps cannot be captured, None if they can
    """
    if all("capturable" in group for group in optimizer.param_groups):
        return None
    return f"the optimizer {type(optimizer).__name__} has no option `capturable`"


def _capturable(optimizer: th.optim.Optimizer, group: dict[str, Any], rate: th.Tensor) -> dict[str, Any]:
    new: dict[str, Any] = {"lr": rate, "capturable": True}
    if group.get("differentiable") or group.get("fused"):
        return new
    if type(optimizer) in _FUSED and group.get("foreach") is None:
        new["fused"] = True
    elif "foreach" in group:
        new["foreach"] = True  # parameter by parameter, some optimizers fetch the learning rate from the GPU
    return new


def _move_step_counts(optimizer: th.optim.Optimizer, group: dict[str, Any]) -> None:
    # Optimizers that were made, or loaded, without `capturable` count their steps on the CPU.
    for parameter in group["params"]:
        state = optimizer.state.get(parameter, {})
        if isinstance(state.get("step"), th.Tensor):
            state["step"] = state["step"].to(parameter.device)
