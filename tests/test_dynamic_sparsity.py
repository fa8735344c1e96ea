"""Methods that move masks and change numbers of active weights: their laws, on modules and on models."""

import copy
import math
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC, TD3
from sb3_contrib import TQC
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from test_sparsify import check, make, predictions
from torch import nn

import sb3_sparse
from sb3_sparse import DER, DrQv2, SparseSimBaExtractor, SparseSimBaPolicy, SparseTopologyCallback, StreamAC, sparsify
from sb3_sparse.callbacks import SET, Expansion, GradualPruning, Revival, RigL
from sb3_sparse.sparsity import Topology, checkpoint_masks, prune, sparse_layers, summary
from sb3_sparse.sparsity.methods import TopologyMethod, revive
from sb3_sparse.sparsity.methods.expansion import dormant_weights
from sb3_sparse.sparsity.methods.revival import revival_numbers
from sb3_sparse.sparsity.moving import drop_and_grow, grow_at
from sb3_sparse.sparsity.shares import integer_shares

UPDATES = 200
OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p: th.optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: th.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "SGD": lambda p: th.optim.SGD(p, lr=1e-2, momentum=0.9),
}


def network(sparsity: float = 0.8, seed: int = 0, **pruning: Any) -> nn.Sequential:
    th.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    return prune(layers, sparsity, generator=th.Generator().manual_seed(seed), **pruning)


def task(module: nn.Module, seed: int) -> Any:
    """A function of the loss on a batch."""
    x = th.randn(32, 12, generator=th.Generator().manual_seed(seed))
    return lambda: (module(x) - x[:, :3].cos()).square().mean(dim=1)


class Loop:
    """A training loop of one's own, with a target network."""

    def __init__(self, method: TopologyMethod, module: nn.Module, optimizer: str = "Adam", total_updates: int = UPDATES):
        self.module, self.target = module, copy.deepcopy(module)
        self.optimizer = OPTIMIZERS[optimizer](module.parameters())
        self.regime = method.bind(module, self.optimizer, targets=[self.target], total_updates=total_updates)

    def run(self, updates: int) -> None:
        for _ in range(updates):
            loss = task(self.module, self.regime.updates)
            self.optimizer.zero_grad()
            loss().mean().backward()
            self.optimizer.step()
            self.regime.step(loss)
            with th.no_grad():
                for own, slow in zip(self.module.parameters(), self.target.parameters(), strict=True):
                    slow.lerp_(own, 0.1)


def active(module: nn.Module) -> list[int]:
    return [row.active for row in summary(module).values()]


def positions(module: nn.Module) -> dict[str, th.Tensor]:
    return {name: layer.topology.long_indices().clone() for name, layer in sparse_layers(module)}


def weights(module: nn.Module) -> dict[str, th.Tensor]:
    return {name: layer.weight.detach().flatten().clone() for name, layer in sparse_layers(module)}


def dense_state(loop: Loop) -> dict[str, list[th.Tensor]]:
    """Layer -> the optimizer's state of its values, as dense tensors."""
    found = {}
    for name, layer in sparse_layers(loop.module):
        state = loop.optimizer.state[layer.values]
        tensors = [value for value in state.values() if th.is_tensor(value) and value.shape == layer.values.shape]
        found[name] = [layer.topology.scatter(value).flatten() for value in tensors]
    return found


METHODS: dict[str, Any] = {
    "set": SET(update_freq=1),
    "rigl": RigL(update_freq=1),
    "pruning": GradualPruning(0.9, update_freq=1),
    "expansion": Expansion(0.3, update_freq=1),
    "revival": Revival(update_freq=10, reserve=0.2),
}


# The laws


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "Adam") for name in METHODS), ("expansion", "AdamW"), ("rigl", "SGD"), ("pruning", "SGD")]
)
def test_values_moments_and_targets_move_along(name: str, optimizer: str) -> None:
    loop = Loop(METHODS[name], network(), optimizer)
    step = loop.regime._change
    seen = []

    def watched(progress: float) -> bool:
        before = positions(loop.module), weights(loop.module), weights(loop.target), dense_state(loop)
        changed = step(progress)
        for key, now in positions(loop.module).items():
            kept, grown = now[th.isin(now, before[0][key])], now[~th.isin(now, before[0][key])]
            for weight, old in ((weights(loop.module), before[1]), (weights(loop.target), before[2])):
                assert th.equal(weight[key][kept], old[key][kept]) and not weight[key][grown].any()
            for state, old in zip(dense_state(loop)[key], before[3][key], strict=True):
                assert th.equal(state[kept], old[kept]) and not state[grown].any()
            twin = loop.target.get_submodule(key)
            assert th.equal(twin.topology.long_indices(), now)
        held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in loop.module.parameters()}
        seen.append(changed)
        return changed

    loop.regime._change = watched  # type: ignore[method-assign]
    loop.run(UPDATES)
    assert sum(seen) == (1 if name == "revival" else 160)
    assert bool(loop.module(th.ones(1, 12)).isfinite().all())


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("pattern", [None, "2:4", "1:3"])
def test_numbers_of_weights_are_conserved(name: str, pattern: str | None) -> None:
    n, m = map(int, pattern.split(":")) if pattern else (0, 1)
    module = network(1 - n / m, distribution=pattern) if pattern else network()
    loop = Loop(METHODS[name], module)
    before, counts = positions(module), active(module)
    loop.run(UPDATES)
    assert active(module) == counts
    assert any(not th.equal(now, before[key]) for key, now in positions(module).items())
    for _, layer in sparse_layers(module):
        if pattern:
            rows = layer.topology.mask()
            whole = rows.shape[1] // m * m
            assert bool((rows[:, :whole].reshape(len(rows), -1, m).sum(dim=2) == n).all())


def test_expansion_follows_its_course_to_the_end() -> None:
    module = network(0.8)
    sizes, first = [layer.topology.numel for _, layer in sparse_layers(module)], active(module)
    loop = Loop(Expansion(0.3, update_freq=10, omega=0.0), module)
    totals = [sum(first)]
    for _ in range(16):
        loop.run(10)
        totals.append(sum(active(module)))
    end = round(0.7 * sum(sizes))
    assert totals[-1] == end and totals == sorted(totals)
    course = [p / 16 + math.sin(math.pi * p / 16) / math.pi for p in range(17)]
    assert all(abs(n - totals[0] - (end - totals[0]) * c) <= 2 for n, c in zip(totals, course, strict=True))
    densities = [n / size for n, size in zip(active(module), sizes, strict=True)]
    assert max(densities) - min(densities) < 0.02
    loop.run(40)
    assert sum(active(module)) == end


def test_expansion_grows_what_the_gradient_asks_for() -> None:
    module = network(0.8)
    loop = Loop(Expansion(0.3, update_freq=UPDATES, end=1.0, omega=0.0), module)
    loop.run(UPDATES - 1)
    before, (layer, *_) = positions(module), [layer for _, layer in sparse_layers(module)]
    layer.record_dense_gradient()
    task(module, UPDATES - 1)().mean().backward()
    gradient, reference = layer.dense_gradient.abs().flatten(), copy.deepcopy(loop.optimizer.state_dict())
    layer.record_dense_gradient(False)
    loop.regime.step(task(module, UPDATES - 1))
    (name, now), *_ = positions(module).items()
    grown = now[~th.isin(now, before[name])]
    inactive = th.ones_like(gradient, dtype=th.bool)
    inactive[before[name]] = False
    assert gradient[grown].min() >= gradient[inactive].sort(descending=True).values[len(grown) - 1]
    assert reference["state"].keys() == loop.optimizer.state_dict()["state"].keys()


def test_dormant_units_lose_as_many_weights_as_may_be_replaced() -> None:
    # Units 0 and 2 of three are dormant and have six active weights; of ten grown weights, 0.4 may replace them.
    mask = th.tensor([[1, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    layer: Any = prune(nn.Linear(4, 3), masks={"": mask})
    gradient = th.tensor([[0.0], [0.4], [0.0]]).expand(3, 4)
    chosen = dormant_weights(layer, gradient, 4, th.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == 4 and set(chosen.tolist()) <= {0, 1, 3, 8, 9, 10}
    assert dormant_weights(layer, gradient, 6, th.Generator()).tolist() == [0, 1, 3, 8, 9, 10]
    assert dormant_weights(layer, th.ones(3, 4), 6, th.Generator()).tolist() == []


def test_expansion_prunes_units_that_are_off() -> None:
    module = network(0.75)
    with th.no_grad():
        module[0].bias[:16] = -1e3  # off for every input
    loop = Loop(Expansion(0.6, update_freq=20, omega=0.4), module)
    before = dict(sparse_layers(module))["0"].topology.mask()[:16].sum()
    loop.run(100)
    assert dict(sparse_layers(module))["0"].topology.mask()[:16].sum() < 0.5 * before


def test_revived_weights_go_where_connections_are_missing() -> None:
    shapes, having = [(8, 4), (8, 8), (1, 8)], [10, 12, 3]
    assert revival_numbers(shapes, having, 8) == [2, 4, 2]  # gaps 5, 11, 5
    assert sum(revival_numbers(shapes, having, 30)) == 30  # more than all gaps
    assert revival_numbers([(256, 256), (256, 256)], [6_554, 6_554], 100) == [50, 50]  # no gaps
    thresholds = {8: 8.318, 256: 709.8, 1024: 3548.9}
    assert all(abs(n * math.log(n) / 2 - value) < 0.05 for n, value in thresholds.items())


def test_revival_happens_once_and_reaches_its_sparsity() -> None:
    final, reserve = 0.8, 0.05
    module = network(1 - (1 - final) / (1 + reserve), budget="weights")
    loop = Loop(Revival(update_freq=10, reserve=reserve), module)
    before = positions(module)
    loop.run(UPDATES)
    assert loop.regime.changes == 1
    assert abs(summary(module).active - summary(network(final, budget="weights")).active) <= 3  # rounded layer by layer
    assert all(th.isin(old, positions(module)[name]).all() for name, old in before.items())
    twin = revive(network(0.8), 0.1, generator=th.Generator().manual_seed(1))
    assert sum(active(twin)) == sum(active(network(0.8))) + round(0.1 * sum(active(network(0.8))))


def test_a_number_is_divided_in_whole_shares() -> None:
    assert integer_shares(8, [5, 11, 5], [5, 11, 5]) == [2, 4, 2]
    assert integer_shares(10, [1, 1, 1], [2, 100, 100]) == [2, 4, 4]
    assert integer_shares(3, [0, 0, 1], [1, 1, 1]) == [1, 1, 1]
    assert integer_shares(0, [1, 2], [1, 2]) == [0, 0]


def test_published_example_of_dropping_and_growing() -> None:
    topology = Topology(th.tensor([0, 1, 3, 4, 6]), (2, 4))
    values, gradients = th.tensor([0.5, -0.1, 0.3, -0.05, 0.9]), th.tensor([9, 9, 0.2, 9, 0.4, 0.7, 9, 0.1])
    indices, sources = drop_and_grow(topology, values.abs(), gradients, 2)
    assert indices.tolist() == [0, 1, 3, 5, 6] and sources.tolist() == [0, 1, 2, -1, 4]


def test_growing_leaves_what_was_dropped_alone() -> None:
    topology = Topology(th.tensor([0, 2, 3]), (2, 4))
    scores = th.tensor([9.0, 1.0, 9.0, 9.0, 2.0, 3.0, 0.0, 0.0])
    assert grow_at(topology, th.tensor([2]), scores, 2).tolist() == [0, 3, 4, 5]


# In one's own loop


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    whole = Loop(METHODS[name], network(), total_updates=60)
    whole.run(60)
    half = Loop(METHODS[name], network(), total_updates=60)
    half.run(25)
    states = [copy.deepcopy(part.state_dict()) for part in (half.module, half.target, half.optimizer, half.regime)]
    th.manual_seed(5)
    fresh = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    again = Loop(METHODS[name], prune(fresh, masks=checkpoint_masks(states[0])), total_updates=60)
    for part, state in zip((again.module, again.target, again.optimizer, again.regime), states, strict=True):
        part.load_state_dict(state)
    again.run(35)
    for module, expected in ((again.module, whole.module), (again.target, whole.target)):
        for own, other in zip(module.state_dict().items(), expected.state_dict().items(), strict=True):
            assert own[0] == other[0] and th.equal(own[1], other[1])


def test_gradual_pruning_of_a_dense_module() -> None:
    module = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
    loop = Loop(GradualPruning(0.8, update_freq=50, start=0.2), module)
    loop.run(30)
    assert not list(sparse_layers(module))
    loop.run(UPDATES - 30)
    assert summary(module).active == summary(prune(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3)), 0.8)).active


def test_the_schedule_of_gradual_pruning_is_the_published_one() -> None:
    method = GradualPruning(0.95, start=0.2, end=0.8)
    sparsities = [0.95 * (1 - (1 - method.progress(share)) ** 3) for share in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)]
    assert sparsities == pytest.approx([0.0, 0.54921875, 0.83125, 0.93515625, 0.95, 0.95])


def test_what_cannot_be_bound_is_refused() -> None:
    module, other = network(), network(seed=1)
    optimizer = OPTIMIZERS["Adam"](module.parameters())
    with pytest.raises(ValueError, match=r"copy\.deepcopy"):
        SET().bind(module, optimizer, targets=[other], total_updates=10)
    with pytest.raises(ValueError, match="no layer of this Linear is sparse"):
        SET().bind(nn.Linear(3, 3), optimizer, total_updates=10)
    with pytest.raises(ValueError, match="call step"):
        RigL().bind(module, optimizer, total_updates=10).step()
    with pytest.raises(ValueError, match="total_updates"):
        SET().bind(module, optimizer, total_updates=0)
    with pytest.raises(ValueError, match="is more than the sparse layers"):
        Expansion(0.9).bind(module, optimizer, total_updates=10)
    patterned = network(0.5, distribution="2:4")
    for method in (Expansion(0.2), Revival(), GradualPruning(0.8)):
        with pytest.raises(ValueError, match='"2:4" fixes how many'):
            method.bind(patterned, optimizer, total_updates=10)
    for make_method, message in [
        (lambda: Expansion(0.0), "more than 0"),
        (lambda: Expansion(0.5, omega=1.0), "omega"),
        (lambda: Revival(reserve=0.0), "reserve"),
        (lambda: revive(nn.Linear(3, 3)), "no sparse layer"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_method()


# On models

MODELS: dict[str, Any] = {
    "sac": lambda: make(SAC, policy=SparseSimBaPolicy, policy_kwargs=dict(width_scale=0.0625, sparsity=0.7)),
    "sac-compiled": lambda: make(
        sb3_sparse.SAC, policy=SparseSimBaPolicy, policy_kwargs=dict(width_scale=0.0625, sparsity=0.7)
    ),
    "sac-stock": lambda: sparsify(make(SAC), 0.7),
    "td3-stock": lambda: sparsify(make(TD3), 0.7),
    "tqc-stock": lambda: sparsify(make(TQC), 0.7),
    "dqn-stock": lambda: sparsify(make(DQN), 0.7),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", [Expansion(0.3, update_freq=4, batch_size=8), Revival(update_freq=8, reserve=0.2)])
def test_models_of_changing_numbers_train_and_load(model: str, method: TopologyMethod, tmp_path) -> None:
    model = MODELS[model]()
    before = summary(model.policy).active
    callback = SparseTopologyCallback(method)
    model.learn(60, callback=callback)
    assert callback.changes > 0 and summary(model.policy).active > 1.05 * before
    check(model)
    expected = predictions(model)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.env)
    assert (predictions(loaded) == expected).all()
    assert loaded.policy.sparsity == model.policy.sparsity
    loaded.learn(24, callback=SparseTopologyCallback(SET(update_freq=8)))
    check(loaded)


def drqv2() -> DrQv2:
    env = FakeImageEnv(screen_height=84, screen_width=84, n_channels=9, channel_first=True, discrete=False)
    sizes = dict(hidden_dim=32, feature_dim=8, sparsity=0.6)
    return DrQv2("CnnPolicy", env, learning_starts=8, batch_size=4, buffer_size=64, policy_kwargs=sizes)


def der() -> DER:
    return DER("MlpPolicy", "CartPole-v1", learning_starts=8, batch_size=4, buffer_size=64, policy_kwargs=dict(sparsity=0.6))


OWN: dict[str, Any] = {
    "DrQv2": (drqv2, {"critic": Revival(update_freq=4), "critic.trunk": SET(update_freq=4)}),
    "DER revived": (der, {"q_net": Revival(update_freq=4)}),
    "DER pruned": (der, {"q_net": GradualPruning(0.8, update_freq=4)}),
    "StreamAC": (
        lambda: StreamAC("MlpPolicy", "CartPole-v1", policy_kwargs=dict(sparsity=0.6)),
        {"actor": Revival(update_freq=4), "critic": SET(update_freq=4)},
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_algorithms_of_this_package_save_what_changed(name: str, tmp_path) -> None:
    build, methods = OWN[name]
    model = build()
    before = positions(model.policy)
    model.learn(24, callback=SparseTopologyCallback(methods))
    assert any(not th.equal(now, before[layer]) for layer, now in positions(model.policy).items())
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip")
    assert {n: p.tolist() for n, p in positions(loaded.policy).items()} == {
        n: p.tolist() for n, p in positions(model.policy).items()
    }
    assert loaded.policy.sparsity == model.policy.sparsity


@pytest.mark.parametrize("method", ["set", "revival"])
def test_methods_without_gradients_work_on_any_model(method: str, tmp_path) -> None:
    model = sparsify(make(PPO), 0.7)
    assert not isinstance(model, OffPolicyAlgorithm)
    callback = SparseTopologyCallback(method, update_freq=16)
    model.learn(64, callback=callback)
    assert callback.changes > 0
    model.save(tmp_path / "model.zip")
    assert (predictions(PPO.load(tmp_path / "model.zip")) == predictions(model)).all()


def test_patterns_of_models_stay_while_masks_move() -> None:
    kwargs = dict(width_scale=0.0625, sparsity=0.5, distribution="2:4")
    model = make(SAC, policy=SparseSimBaPolicy, policy_kwargs=kwargs)
    before = positions(model.policy)
    model.learn(60, callback=SparseTopologyCallback(RigL(update_freq=8, batch_size=8)))
    assert any(not th.equal(now, before[name]) for name, now in positions(model.policy).items())
    for _, layer in sparse_layers(model.policy):
        rows = layer.topology.mask()
        whole = rows.shape[1] // 4 * 4
        assert bool((rows[:, :whole].reshape(len(rows), -1, 4).sum(dim=2) == 2).all())


def test_parts_of_a_network_have_methods_of_their_own() -> None:
    model = MODELS["sac"]()
    before = positions(model.policy)
    # The last two as a hyperparameter file has them.
    methods: Any = {"critic": SET(update_freq=8), "critic.qf0.encoder.blocks.0": "static"}
    methods["actor.latent_pi"] = {"method": "set", "update_freq": 8}
    model.learn(60, callback=SparseTopologyCallback(methods))
    moved = {name for name, now in positions(model.policy).items() if not th.equal(now, before[name])}
    assert not {name for name in moved if "critic.qf0.encoder.blocks.0" in name or name == "actor.mu"}
    assert any("critic.qf0.encoder.blocks.1" in name for name in moved)
    assert any("actor.latent_pi" in name for name in moved)


def test_what_a_model_cannot_take_is_refused_before_training() -> None:
    extractor = dict(features_extractor_class=SparseSimBaExtractor, net_arch=[])
    extractor["features_extractor_kwargs"] = dict(sparsity=0.5, width_scale=0.125)
    with pytest.raises(ValueError, match="cannot save how many"):
        make(PPO, policy_kwargs=extractor).learn(16, callback=SparseTopologyCallback("revival"))
    with pytest.raises(ValueError, match="PPO does not have"):
        sparsify(make(PPO), 0.5).learn(16, callback=SparseTopologyCallback("rigl"))
    patterned = sparsify(make(SAC), 0.5, distribution="2:4")
    with pytest.raises(ValueError, match="fixes how many"):
        patterned.learn(16, callback=SparseTopologyCallback("pruning", final_sparsity=0.8))
    with pytest.raises(ValueError, match="needs final_sparsity"):
        SparseTopologyCallback("expansion")
    with pytest.raises(ValueError, match=r"no network 'critic.trunk'"):
        MODELS["sac"]().learn(5, callback=SparseTopologyCallback({"critic.trunk": SET()}))
