"""Compiled steps and averages do what torch's do."""

import copy
from typing import Any

import pytest
import torch as th
from test_compiled_updates import TINY, build, parameters
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import sb3_sparse
from sb3_sparse import ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.training import parameter_updates
from sb3_sparse.training.parameter_updates import ParameterUpdates, _adam_step

pytest.importorskip("numba")

# Vectors, and what is left over of them.
SHAPES = [(), (3,), (11,), (64,), (16, 9), (5, 131)]
OPTIMIZERS = [th.optim.Adam, th.optim.AdamW]


def network(dtype: th.dtype = th.float32) -> nn.ParameterList:
    generator = th.Generator().manual_seed(0)
    return nn.ParameterList(th.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES)


def grouped(kind: Any, parameters: Any, **options: Any) -> th.optim.Optimizer:
    """With a group of its own, without weight decay, for everything but matrices."""
    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    return kind([{"params": matrices}, {"params": others, "weight_decay": 0.0}], weight_decay=1e-2, **options)


def step_both(
    first: nn.Module, second: nn.Module, by_torch: th.optim.Optimizer, updates: ParameterUpdates, ours: th.optim.Optimizer
) -> None:
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        if one.requires_grad:
            one.grad = th.randn_like(one) * th.rand(()) ** 4
            other.grad = one.grad.clone()
    by_torch.step()
    updates.step(ours)


def states(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [tensor for state in optimizer.state_dict()["state"].values() for tensor in state.values()]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_torch(kind: Any, dtype: th.dtype, fused: bool) -> None:
    networks = [network(dtype), network(dtype)]
    by_torch, ours = (grouped(kind, net, lr=1e-3, fused=fused) for net in networks)
    updates = ParameterUpdates()
    for step in range(100):
        for optimizer in (by_torch, ours):
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.97**step
        networks[0][1].requires_grad_(step % 20 < 15), networks[1][1].requires_grad_(step % 20 < 15)
        if step % 20 == 15:
            networks[0][1].grad = networks[1][1].grad = None
        step_both(*networks, by_torch, updates, ours)
        if step == 50:  # a checkpoint of either is one of the other
            saved = ours.state_dict() if fused else by_torch.state_dict()
            for optimizer in (by_torch, ours):
                optimizer.load_state_dict(copy.deepcopy(saved))
            updates = ParameterUpdates()
    assert _adam_step(ours) is not None
    pairs = [*zip(*networks, strict=True), *zip(states(by_torch), states(ours), strict=True)]
    # Without the fused implementation, square roots are another library's.
    tolerance = 0.0 if fused else 1e-6 if dtype == th.float32 else 1e-15
    for expected, found in pairs:
        th.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("weight", [0.005, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_averages_are_those_of_torch(weight: float, dtype: th.dtype) -> None:
    online, target = network(dtype), network(dtype)
    for parameter in online:
        parameter.data.neg_()
    expected = [parameter.detach().clone() for parameter in target]
    updates = ParameterUpdates()
    for _ in range(3):
        version = target[1]._version
        th._foreach_lerp_(expected, [parameter.detach() for parameter in online], weight)
        updates.average(online, target, weight)
        assert all(map(th.equal, target, expected)) and target[1]._version > version
    assert next(iter(updates._averages.values()))._kernels is not None


@pytest.mark.parametrize("option", ["amsgrad", "maximize", "hook", "global hook", "mixed types", "SGD"])
def test_what_is_not_compiled_is_left_to_torch(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [network(), network()]
    for net in networks if option == "mixed types" else []:
        net.append(nn.Parameter(th.ones(2, dtype=th.float64)))
    options = {option: True} if option in ("amsgrad", "maximize") else {}
    kind = th.optim.SGD if option == "SGD" else th.optim.AdamW
    by_torch, ours = (kind(net, lr=1e-2, **options) for net in networks)
    updates, steps = ParameterUpdates(), []
    monkeypatch.setattr(kind, "step", lambda self, step=kind.step: (steps.append(self), step(self))[1])
    if option == "hook":
        ours.register_step_post_hook(lambda *_: steps.append("hook"))
    handle = None
    if option == "global hook":
        handle = register_optimizer_step_pre_hook(lambda *_: None)
    for _ in range(3):
        step_both(*networks, by_torch, updates, ours)
    if handle is not None:
        handle.remove()
    assert steps.count(ours) == 3
    assert all(map(th.equal, *networks))


def test_the_first_step_of_a_run_that_goes_on_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's would differ in the last digit, where the implementation is not the fused one."""
    net = network()
    optimizer = th.optim.Adam(net)
    step_both(net, network(), optimizer, ParameterUpdates(), th.optim.Adam(network()))  # which makes the state
    monkeypatch.setattr(th.optim.Adam, "step", lambda self: pytest.fail("a step of torch's"))
    before = net[1].detach().clone()
    ParameterUpdates().step(optimizer)
    assert not th.equal(net[1], before)


CALLBACKS = {
    "SET": lambda: SparseTopologyCallback("set", update_freq=10),
    "RigL": lambda: SparseTopologyCallback("rigl", update_freq=10, batch_size=8),
    "pruning": lambda: SparseTopologyCallback("pruning", update_freq=10, final_sparsity=0.7),
    "reset": lambda: ResetCallback(20),
    "ReDo": lambda: ReDoCallback(redo_freq=10, tau=0.1, batch_size=8),
}


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG"])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_training_is_the_same(name: str, callback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    # The optimizer of a temperature is not a fused one.
    temperature = {"ent_coef": 0.1} if name == "SAC" else {}
    for compiled in (True, False):
        monkeypatch.setattr(parameter_updates, "kernels_are_available", lambda compiled=compiled: compiled)
        options = {"policy_kwargs": {"sparsity": 0.6, **TINY}, "learning_rate": lambda left: 1e-3 * left, **temperature}
        model: Any = build(sb3_sparse, name, **options)
        model.learn(50, callback=CALLBACKS[callback]())
        assert any(model._weights._updates._steps.values()) == compiled
        found.append((parameters(model), states(model.critic.optimizer)))
    (first, moments), (second, other_moments) = found
    if "log_ent_coef" in first:  # whose optimizer is not fused: torch takes its square roots from another library
        th.testing.assert_close(first.pop("log_ent_coef"), second["log_ent_coef"], rtol=1e-6, atol=0)
    assert all(th.equal(value, second[key]) for key, value in first.items())
    assert all(map(th.equal, moments, other_moments))
