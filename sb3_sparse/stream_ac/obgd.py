"""Optimizers with eligibility traces whose step cannot overshoot (Elsayed et al., 2024, "Streaming deep RL finally works")."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch as th


class ObGD(th.optim.Optimizer):
    r"""
    Overshooting-bounded gradient descent. With the gradient :math:`g` of the negated objective, in this order:

    .. math::
        e &\leftarrow \gamma \lambda e + g \\
        \eta &= \min(\alpha, 1 / (\kappa \max(|\delta|, 1) \|e\|_1)) \\
        w &\leftarrow w - \eta \delta e

    The norm runs over all parameters together, so there is one step size per optimizer. Of a sparse layer only the active
    weights are parameters: the others neither move nor shorten the step.

    :param params: Parameters of one network, in one group
    :param lr: Largest step size :math:`\alpha`
    :param gamma: Discount factor
    :param trace_lambda: Decay of the traces beyond the discount
    :param kappa: Bound of the step; larger is more careful
    """

    # Tensors kept for each parameter.
    state_names: tuple[str, ...] = ("trace",)

    def __init__(
        self,
        params: Iterable[th.nn.Parameter],
        lr: float = 1.0,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        kappa: float = 2.0,
    ):
        super().__init__(params, {"lr": lr, "gamma": gamma, "trace_lambda": trace_lambda, "kappa": kappa, "steps": 0})
        # What the last step was like, for the logger.
        self.step_size, self.trace_norm = math.nan, math.nan

    @property
    def group(self) -> dict[str, Any]:
        """The only parameter group: options and the number of steps."""
        (group,) = self.param_groups
        return group

    def initialize_state(self) -> None:
        """Give every parameter its trace, zero, if it has none."""
        for parameter in self.group["params"]:
            if parameter not in self.state:
                self.state[parameter] = {name: th.zeros_like(parameter) for name in self.state_names}

    @th.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, delta: float, reset: bool = False) -> None:  # type: ignore[override]
        """
        Descend along the traces.

        :param closure: Not used; here for torch
        :param delta: TD error
        :param reset: Whether to zero the traces afterwards, at the end of an episode
        :raises FloatingPointError: if the TD error or a trace is not finite. No parameter has changed then.
        """
        self.accumulate(delta)
        self.descend(delta)
        if reset:
            self.reset()

    @th.no_grad()
    def accumulate(self, delta: float) -> None:
        """
        Let the traces decay and add the gradients.

        :param delta: TD error
        :raises FloatingPointError: if the TD error or a trace is not finite.
        """
        self.initialize_state()
        group = self.group
        group["steps"] += 1
        for parameter in group["params"]:
            self.state[parameter]["trace"].mul_(group["gamma"] * group["trace_lambda"]).add_(parameter.grad)
            self._note_square(parameter, delta)
        self.trace_norm = sum(self._direction(parameter).abs().sum().item() for parameter in group["params"])
        check_finite(delta, self.trace_norm)

    @th.no_grad()
    def descend(self, delta: float) -> None:
        """
        Move the parameters along the traces, after :meth:`accumulate`.

        :param delta: TD error
        """
        self.step_size = bounded_step_size(self.group["lr"], self.group["kappa"], delta, self.trace_norm)
        for parameter in self.group["params"]:
            parameter.add_(self._direction(parameter), alpha=-self.step_size * delta)

    def reset(self) -> None:
        """Zero the traces."""
        for parameter in self.group["params"]:
            if parameter in self.state:
                self.state[parameter]["trace"].zero_()

    def forget(self) -> None:
        """Zero everything that is kept for the parameters."""
        for parameter in self.group["params"]:
            for tensor in self.state.get(parameter, {}).values():
                tensor.zero_()
        self.group["steps"] = 0

    def _note_square(self, parameter: th.Tensor, delta: float) -> None:
        pass

    def _direction(self, parameter: th.Tensor) -> th.Tensor:
        return self.state[parameter]["trace"]


class AdaptiveObGD(ObGD):
    r"""
    ObGD along traces that are divided by the root of a running mean of :math:`(\delta e)^2` (bias-corrected, epsilon inside
    the root), also in the norm.

    :param params: Parameters of one network, in one group
    :param lr: Largest step size
    :param gamma: Discount factor
    :param trace_lambda: Decay of the traces beyond the discount
    :param kappa: Bound of the step; larger is more careful
    """

    beta2 = 0.999
    eps = 1e-8
    state_names = ("trace", "square")

    @property
    def correction(self) -> float:
        """What the running mean is divided by, for it starts at zero."""
        return 1.0 - self.beta2 ** self.group["steps"]

    def _note_square(self, parameter: th.Tensor, delta: float) -> None:
        scaled = delta * self.state[parameter]["trace"]
        self.state[parameter]["square"].mul_(self.beta2).addcmul_(scaled, scaled, value=1.0 - self.beta2)

    def _direction(self, parameter: th.Tensor) -> th.Tensor:
        state = self.state[parameter]
        return state["trace"] / (state["square"] / self.correction + self.eps).sqrt()


OPTIMIZERS: dict[str, type[ObGD]] = {"obgd": ObGD, "adaptive_obgd": AdaptiveObGD}


def bounded_step_size(lr: float, kappa: float, delta: float, trace_norm: float) -> float:
    """
    Step size of ObGD.

    :param lr: Largest step size
    :param kappa: Bound of the step
    :param delta: TD error
    :param trace_norm: L1 norm of the traces of all parameters
    :return: ``min(lr, 1 / (kappa max(|delta|, 1) trace_norm))``
    """
    bound = lr * kappa * max(abs(delta), 1.0) * trace_norm
    return lr / bound if bound > 1.0 else lr


def check_finite(delta: float, trace_norm: float) -> None:
    """
    Stop before something that is no number reaches the parameters.

    :param delta: TD error
    :param trace_norm: L1 norm of the traces
    :raises FloatingPointError: if one of them is not finite.
    """
    if not (math.isfinite(delta) and math.isfinite(trace_norm)):
        raise FloatingPointError(
            f"The update is not finite (TD error {delta}, norm of the traces {trace_norm}); the networks were left as they "
            "were. Raise kappa_actor and kappa_critic, or look for rewards that grow without bound."
        )
