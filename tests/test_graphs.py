"""Compiled updates as a GPU runs them, on a machine without one: see graph_emulator."""

import copy
import gc
import pickle
import warnings
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from graph_emulator import Graph, Waits, allow_capturable_on_cpu, emulate
from stable_baselines3.common.logger import configure
from test_compiled_updates import (
    CHANGES,
    FIXED,
    NAMES,
    VARIANTS,
    assert_same,
    build,
    learn,
    move_topology,
    parameters,
    trained,
)
from torch import nn

import sb3_sparse
from sb3_sparse import ReDoCallback
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.sparsity.products.dense_weights import DenseWeights
from sb3_sparse.training import program_cache
from sb3_sparse.training.batches import StaticSamples
from sb3_sparse.training.held_objects import all_optimizers
from sb3_sparse.training.live_optimizers import LiveOptimizers
from sb3_sparse.training.programs import WARM_UPS, GraphProgram
from sb3_sparse.training.torch_settings import without_validation

ON_DEVICE = {"replay_buffer_class": DeviceReplayBuffer}
CASES = [(name, rule) for name in NAMES for rule in ("sb3", "paper") if (name, rule) != ("TD3", "paper")]
CPU = th.device("cpu")
# DDPG's update is that of TD3 with a delay of one.
each_algorithm = pytest.mark.parametrize("name", ["SAC", "TD3", pytest.param("DDPG", marks=pytest.mark.slow)])


@pytest.mark.parametrize(
    ("name", "rule"),
    [case if case[0] != "DDPG" or case[1] == "paper" else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_nothing_waits_for_the_device(name: str, rule: str, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    allow_capturable_on_cpu(monkeypatch)
    kwargs = {**variant, "update_rule": rule, **ON_DEVICE}
    if n_steps := variant.get("n_steps"):
        kwargs["replay_buffer_kwargs"] = {"n_steps": n_steps, "gamma": 0.99}
        kwargs.pop("n_steps")
    model: Any = build(sb3_sparse, name, **kwargs).learn(20)
    model.policy.set_training_mode(True)
    optimizers = LiveOptimizers(all_optimizers(model), CPU)
    for full in (True, False, True, False):  # states of optimizers are made in the first ones
        with (
            optimizers.capturing(),
            without_validation(),
            Waits() as waits,
            model._weights.dense.serving(model.policy),
        ):
            model.gradient_step(model.replay_buffer.sample(8), full)
    assert not waits.found and len(waits.operations) > 50


@each_algorithm
@pytest.mark.parametrize(
    ("variant", "buffer"),
    [*((variant, {}) for variant in VARIANTS.values()), (VARIANTS["sparse"], ON_DEVICE), (VARIANTS["n steps"], ON_DEVICE)],
    ids=[*VARIANTS, "device", "n steps, device"],
)
def test_replays_update_as_sb3_does(
    name: str, variant: dict[str, Any], buffer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if buffer and "n_steps" in variant:
        variant = {"replay_buffer_kwargs": {"n_steps": variant["n_steps"], "gamma": 0.99}}
    log = emulate(monkeypatch)
    ours: Any = build(sb3_sparse, name, **variant, **buffer).learn(44)
    programs = list(ours._programs.programs.values())
    assert len(programs) == (2 if name == "TD3" else 1)
    for program in programs:
        assert program.graph.replays == program.runs - WARM_UPS > 4
        assert program.graph.generators == ([ours.replay_buffer.generator] if buffer else [])
    assert set(log.devices) == {ours.device} and not log.streams
    stock = learn(build(stable_baselines3, name, **variant, **buffer), 44)
    assert_same(parameters(stock), parameters(ours), tolerance=1e-4)


@each_algorithm
@pytest.mark.parametrize("change", CHANGES)
def test_replays_do_not_go_stale(name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    models = [learn(build(library, name, policy_kwargs=FIXED), 40) for library in (sb3_sparse, stable_baselines3)]
    for model in models:
        change(model) if change.__name__ != "load_parameters" else _load(model)
        np.random.seed(0)
        th.manual_seed(0)
        model.train(12, 8)
    assert_same(*map(parameters, models), tolerance=1e-4)


def _load(model: Any) -> None:
    model.set_parameters(
        build(stable_baselines3, type(model).__name__, seed=7, policy_kwargs=FIXED).learn(20).get_parameters()
    )


@each_algorithm
def test_replays_see_recycled_units(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in place, so that the graph need not be captured anew, which would cost more than the units are worth."""
    emulate(monkeypatch)
    models: list[Any] = [learn(build(library, name, policy_kwargs=FIXED), 40) for library in (sb3_sparse, stable_baselines3)]
    programs = dict(models[0]._programs.programs)
    for model in models:
        callback = ReDoCallback(redo_freq=10, tau=0.9, batch_size=8)
        callback.init_callback(model)
        th.manual_seed(0)
        assert sum(callback.recycle().values()) > 0
        np.random.seed(0)
        model.train(12, 8)
    assert_same(*map(parameters, models), tolerance=1e-4)
    assert models[0]._programs.programs == programs


def change_weight_decay(model: Any) -> None:
    for group in model.critic.optimizer.param_groups:
        group["weight_decay"] = 0.9


def replace_moments(model: Any) -> None:
    for state in model.critic.optimizer.state.values():
        state["exp_avg"] = th.zeros_like(state["exp_avg"])


def freeze_actor(model: Any) -> None:
    model.actor.requires_grad_(False)


def change_rate(model: Any) -> None:
    model.lr_schedule = lambda _: 1e-2


@each_algorithm
@pytest.mark.parametrize("change", [change_weight_decay, replace_moments, change_rate, freeze_actor])
def test_replays_follow_optimizers(name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    test_replays_do_not_go_stale(name, change, monkeypatch)


@each_algorithm
def test_gradients_of_replays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    ours: Any = build(sb3_sparse, name).learn(40)
    stock = learn(build(stable_baselines3, name), 40)
    noted: dict[str, th.Tensor] = {}
    for network in ("actor", "critic"):
        module = getattr(stock, network)
        module.optimizer.register_step_pre_hook(
            lambda *_, module=module: noted.update({id(p): p.grad.clone() for p in module.parameters() if p.grad is not None})
        )
    for k in range(4):
        states = np.random.get_state(), th.get_rng_state()
        for model in (ours, stock):
            np.random.set_state(states[0])
            th.set_rng_state(states[1])
            model.train(1, 8)
        for network in ("actor", "critic"):
            gradients = ours.gradients(network)
            named = dict(getattr(stock, network).named_parameters())
            if k == 0 and network == "actor" and name == "TD3":  # which is updated at every other step
                continue
            assert gradients.keys() == named.keys()
            assert_same({key: noted[id(p)] for key, p in named.items()}, gradients, tolerance=1e-3)


OPTIMIZERS = [
    (th.optim.Adam, {}),
    (th.optim.Adam, {"foreach": False, "amsgrad": True}),
    (th.optim.AdamW, {"fused": True}),
    (th.optim.RMSprop, {"momentum": 0.5}),
    (th.optim.RMSprop, {"foreach": False, "centered": True}),
    (th.optim.NAdam, {}),
    (th.optim.RAdam, {}),
    (th.optim.Adamax, {"weight_decay": 0.1}),
    (th.optim.Adadelta, {}),
    (th.optim.ASGD, {}),
    (th.optim.Rprop, {}),
]


@pytest.mark.parametrize(("kind", "kwargs"), OPTIMIZERS)
def test_optimizers_step_the_same_while_captured(kind: Any, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    allow_capturable_on_cpu(monkeypatch)
    results = []
    for captured in (False, True):
        weights = [nn.Parameter(th.arange(1.0, 4.0)), nn.Parameter(th.ones(2, 2))]
        optimizer = kind(weights, lr=0.01, **kwargs)
        live = LiveOptimizers([optimizer], CPU)
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 + step)
            live.refresh()
            for k, weight in enumerate(weights):
                weight.grad = weight.detach() * (step - k - 2.5)
            with Waits() as waits:
                if captured:
                    with live.capturing():
                        optimizer.step()
                else:
                    optimizer.step()
            assert not captured or not waits.found or step == 0
        results.append({str(k): weight.detach() for k, weight in enumerate(weights)})
    assert_same(*results)


def program_of(step: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[GraphProgram, nn.Parameter, Any]:
    log = emulate(monkeypatch)
    weight = nn.Parameter(th.ones(3))
    optimizer = th.optim.AdamW([weight], lr=0.1)

    def whole() -> dict[str, th.Tensor]:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        step()
        return {"loss": loss}

    return GraphProgram(whole, [weight], LiveOptimizers([optimizer], CPU), CPU), weight, log


def test_a_step_that_waits_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        for _ in range(2 * log.mode):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)")
        if log.mode:
            warnings.warn("another one", FutureWarning)

    program, weight, log = program_of(wait, monkeypatch)
    for _ in range(WARM_UPS - 1):
        program()
    with pytest.warns(UserWarning, match=r"kernel by kernel.*waits for the GPU in [^,]*test_graphs\.py:\d+\.$"):
        with pytest.warns(FutureWarning, match="another one"):
            program()
    before = weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program()
    assert program.graph is None and not th.equal(before, weight) and log.mode == 0


@pytest.mark.parametrize("error", [RuntimeError("bad operation"), th.OutOfMemoryError("CUDA out of memory.")])
@pytest.mark.parametrize("end_fails", [False, True])
def test_failure_of_a_capture(error: RuntimeError, end_fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        if program.runs == WARM_UPS and capturing:
            raise error

    capturing: list[Graph] = []
    program, weight, log = program_of(fail, monkeypatch)
    capture = th.cuda.graph

    class Capture:  # leaves its stream only if it ends well, as torch's does
        def __init__(self, graph: Graph, stream: Any):
            self.inner = capture(graph, stream)  # type: ignore[arg-type]

        def __enter__(self) -> None:
            capturing.append(self)  # type: ignore[arg-type]
            self.inner.__enter__()

        def __exit__(self, *args: Any) -> None:
            self.inner.__exit__(*args)
            if end_fails:
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(th.cuda, "graph", Capture)
    for _ in range(WARM_UPS):
        program()
    before = weight.detach().clone()
    is_memory = isinstance(error, th.OutOfMemoryError)
    with pytest.raises(type(error), match="out of memory" if is_memory else r"cannot be captured.*: bad operation\n.*save"):
        program()
    assert th.equal(before, weight) and log.streams == [log.main]
    assert not any(group["capturable"] for _, group in program.optimizers._groups)


def test_sb3_updates_what_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    kwargs = {"policy_kwargs": {**FIXED, "optimizer_class": th.optim.SGD}}
    with pytest.warns(UserWarning, match="updates as Stable-Baselines3 does.*SGD has no option `capturable`") as caught:
        model: Any = build(sb3_sparse, "SAC", **kwargs).learn(30)
    assert len(caught) == 1 and not model._programs.programs
    assert_same(parameters(model), parameters(learn(build(stable_baselines3, "SAC", **kwargs), 30)), tolerance=0.0)
    with pytest.raises(ValueError, match="update_rule='paper' needs the compiled update, but the optimizer SGD"):
        build(sb3_sparse, "SAC", update_rule="paper", **kwargs).learn(30)


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_collected_before_a_capture_and_not_within(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of a model that is gone must not be freed while another one is captured."""

    class Model:
        def __init__(self) -> None:
            self.program = self  # as a model's programs refer to the model

    def step() -> None:
        if gone:
            seen.append((gone[0](), gc.isenabled()))
            if fails:
                raise RuntimeError("bad operation")

    program, _, _ = program_of(step, monkeypatch)
    gone: list[Any] = []
    seen: list[tuple[Any, bool]] = []
    for _ in range(WARM_UPS):
        program()
    gone.append(weakref.ref(Model()))
    with pytest.raises(RuntimeError, match="bad operation") if fails else nullcontext():
        program()
    assert seen == [(None, False)] and gc.isenabled()


def test_programs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "_MOST_PROGRAMS", 3)
    model: Any = trained("SAC")
    for gamma in (0.1, 0.2, 0.3, 0.4):
        model.gamma = gamma
        model.train(1, 8)
    assert [settings[1] for *_, settings in model._programs.programs] == [0.2, 0.3, 0.4]


@each_algorithm
def test_copies_are_independent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    model: Any = build(sb3_sparse, name, **ON_DEVICE).learn(40)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = parameters(model)
        assert_same(before, parameters(twin), tolerance=0)
        twin.train(6, 8)
        assert_same(before, parameters(model), tolerance=0)
        assert not th.equal(parameters(twin)["critic.qf0.head.bias"], before["critic.qf0.head.bias"])


def test_batches_on_the_device_follow_the_model_s_seed() -> None:
    def drawn(model: Any) -> th.Tensor:
        return model.replay_buffer.sample(20).rewards

    first, again, other = (build(sb3_sparse, "SAC", seed=seed, **ON_DEVICE).learn(5) for seed in (1, 1, 2))
    seeds = [model.replay_buffer.generator.initial_seed() for model in (first, again, other)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert th.equal(drawn(first), drawn(again))
    for model in (first, again):
        model.set_random_seed(3)
    assert th.equal(drawn(first), drawn(again))


def test_no_updates_at_all() -> None:
    model = trained("SAC")
    before = parameters(model)
    model.train(0, 8)
    assert_same(before, parameters(model), tolerance=0)


def test_batches_do_not_alias_the_buffer() -> None:
    storage = th.arange(6.0).reshape(2, 3)
    static = StaticSamples()
    batch = stable_baselines3.common.type_aliases.DictReplayBufferSamples({"a": storage[:1]}, *[storage[:1]] * 4)
    for row in (0, 1):
        static.load(batch._replace(observations={"a": storage[row : row + 1]}))
    assert static.samples.observations["a"].tolist() == [[3.0, 4.0, 5.0]] and static.samples.discounts is None
    assert storage.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_precision_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch refuses to tell it after its other interface was used."""
    model = trained("SAC")
    monkeypatch.setattr(th, "get_float32_matmul_precision", lambda: pytest.fail("asked"))
    monkeypatch.setattr(th, "set_float32_matmul_precision", lambda _: pytest.fail("set"))
    model.train(1, 8)


def test_values_written_before_the_backward_pass() -> None:
    model: Any = trained("SAC")
    (_, layer) = next(sb3_sparse.sparsity.sparse_layers(model.critic))
    inputs = th.ones(2, layer.topology.shape[1])
    dense = model._weights.dense
    with dense.serving(model.policy):
        loss = dense.linear(inputs, layer.values, layer.bias, layer.topology).sum()
        dense.expire([layer.values])
        with pytest.raises(RuntimeError, match="written between the forward and the backward pass"):
            loss.backward()


def test_backward_pass_after_another_layer_used_the_matrix() -> None:
    target = nn.Sequential(nn.Linear(6, 5))
    online = sb3_sparse.sparsity.prune(copy.deepcopy(target), 0.5)
    sb3_sparse.sparsity.share_topology(online, target)
    target[0].values.data.mul_(-3.0)  # type: ignore[operator, union-attr]
    inputs = th.randn(4, 6, requires_grad=True)
    expected = th.autograd.grad(nn.functional.linear(inputs, online[0].weight).square().sum(), [inputs, online[0].values])
    dense = DenseWeights()
    with dense.serving(nn.ModuleList([online, target])):
        losses = [dense.linear(inputs, layer.values, None, layer.topology).square().sum() for layer in (online[0], target[0])]
        found = th.autograd.grad(losses[0], [inputs, online[0].values])
    for right, gradient in zip(expected, found, strict=True):
        assert th.allclose(right, gradient, atol=1e-6)


def test_topologies_move_between_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    model: Any = build(sb3_sparse, "SAC", policy_kwargs=FIXED).learn(40)
    kept = next(iter(model._programs.programs.values()))
    model.set_logger(configure(None, []))
    move_topology(model)
    model.train(WARM_UPS + 2, 8)
    (program,) = model._programs.programs.values()
    assert program is not kept and program.graph.replays == 2
