"""Resets, ReDo and dynamic sparsity."""

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from test_plasticity_callback import MODELS, SIMBA, SMALL, make
from torch import nn

import sb3_sparse
from sb3_sparse import SparseSimBaExtractor, SparseSimBaPolicy, sparsify
from sb3_sparse.callbacks import SET, GradualPruning, ReDoCallback, ResetCallback, RigL, SparseTopologyCallback, Static
from sb3_sparse.sparsity.dense_gradients import dense_gradients
from sb3_sparse.callbacks.measured_networks import measured_networks
from sb3_sparse.algorithms.sampling import private_randomness, sample_batch
from sb3_sparse.common.sparsify import prune_by_magnitude
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.diagnostics import record
from sb3_sparse.sparsity import SparseLayer, Topology, allocate, sparse_layers, to_dense
from sb3_sparse.sparsity.moving import drop_and_grow, remap

EXTRACTOR_WITH_LAYERS = {
    "net_arch": [8],
    "features_extractor_class": SparseSimBaExtractor,
    "features_extractor_kwargs": {"sparsity": 0.5, "width_scale": 0.125},
}
SPARSE_MODELS = ["sac", "sac-compiled", "td3", "tqc", "dqn-extractor", "sac-sparsified", "dqn-sparsified"]
TRAINED_AT_ALL = 30


def build(name: str, **kwargs: Any) -> Any:
    if name.endswith("-sparsified"):
        return sparsify(make(name.replace("sparsified", "stock"), **kwargs), 0.5)
    return make(name, **kwargs)


def trained(name: str, **kwargs: Any) -> Any:
    return build(name, **kwargs).learn(TRAINED_AT_ALL)


class StopAt(BaseCallback):
    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


def ready(callback: Any, model: Any) -> Any:
    """As within training."""
    callback.init_callback(model)
    callback.num_timesteps = model.num_timesteps
    return callback


def snapshot(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def changed(before: dict[str, th.Tensor], model: Any) -> set[str]:
    return {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}


def moments(model: Any, module: th.nn.Module) -> list[th.Tensor]:
    states = [o.state[p] for o in optimizers_of(model.policy) for p in module.parameters() if p in o.state]
    return [th.as_tensor(value) for state in states for value in state.values()]


def topologies(model: Any) -> dict[str, th.Tensor]:
    return {name: layer.indices.clone() for name, layer in sparse_layers(model.policy)}


def online_and_target(model: Any) -> list[tuple[th.nn.Module, th.nn.Module]]:
    policy = model.policy
    names = [name for name in ("actor", "critic", "q_net") if f"{name}_target" in policy._modules]
    return [(policy.get_submodule(name), policy.get_submodule(f"{name}_target")) for name in names]


def assert_still_works(model: Any, tmp_path: Path) -> None:
    model.learn(5, reset_num_timesteps=False)
    for online, target in online_and_target(model):
        pairs = zip(sparse_layers(online), sparse_layers(target), strict=True)
        assert all(th.equal(layer.indices, twin.indices) for (_, layer), (_, twin) in pairs)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.env, device="cpu")
    assert changed(snapshot(model), loaded) == set()
    loaded.learn(5, reset_num_timesteps=False)


# Resets


@pytest.mark.parametrize("name", [*MODELS, "sac-sparsified"])
def test_a_reset_agent_is_a_new_one_with_the_same_masks(name: str, tmp_path: Path) -> None:
    model = trained(name)
    before, masks, size = snapshot(model), topologies(model), model.replay_buffer.size()
    ready(ResetCallback(), model).reset()
    kept = {key for key in before if key not in changed(before, model)}
    # Kept are masks, statistics of observations, and what every initialisation sets to the same constant.
    for key in kept - {key for key in before if any(s in key for s in ("topology", "normalizer", "seed_of_masks"))}:
        assert before[key].unique().numel() == 1, key
    assert all(th.equal(model.policy.get_submodule(layer).indices, indices) for layer, indices in masks.items())
    assert all(float(value.abs().sum()) == 0.0 for value in moments(model, model.policy))
    for online, target in online_and_target(model):
        state = target.state_dict()
        assert all(th.equal(value, state[key]) for key, value in online.state_dict().items())
    assert model.replay_buffer.size() == size
    assert_still_works(model, tmp_path)


def test_a_reset_draws_from_the_initialisation_and_restores_the_temperature() -> None:
    model = make("sac-dense", ent_coef="auto_0.1").learn(60)
    ready(ResetCallback(), model).reset()
    block = model.critic.qf0.encoder.blocks[0]
    assert block.expand.bias.abs().sum() == 0 and (block.norm.weight == 1).all()
    assert block.expand.weight.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.1)
    projection = model.actor.latent_pi.projection.weight
    th.testing.assert_close(projection.T @ projection, th.eye(3), atol=1e-5, rtol=0)
    assert model.log_ent_coef.item() == pytest.approx(math.log(0.1))
    assert all(float(v.abs().sum()) == 0 for s in model.ent_coef_optimizer.state.values() for v in s.values())


def test_resets_come_when_due_but_not_at_the_end() -> None:
    callback = ResetCallback(20)
    model = make("sac", learning_starts=5)
    steps: list[int] = []
    reset = callback.reset
    callback.reset = lambda: (steps.append(callback.num_timesteps), reset())  # type: ignore[method-assign, assignment]
    model.learn(60, callback=callback)
    assert steps == [20, 40] and callback.resets == 2
    model.learn(50, reset_num_timesteps=False, callback=callback)
    assert steps == [20, 40, 80, 100]


def test_reset_reproduces_from_the_seed() -> None:
    first, second = (snapshot(make("sac").learn(60, callback=ResetCallback(30))) for _ in range(2))
    assert all(th.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", ["sac", "td3", "dqn-stock", "sac-stock"])
def test_only_the_critic_is_reset(name: str, tmp_path: Path) -> None:
    model = trained(name)
    before = snapshot(model)
    ready(ResetCallback(part="critic"), model).reset()
    roots = {key.split(".")[0] for key in changed(before, model)}
    assert roots == ({"q_net", "q_net_target"} if name.startswith("dqn") else {"critic", "critic_target"})
    if "actor" in model.policy._modules:
        assert any(float(value.abs().sum()) > 0 for value in moments(model, model.actor))
        assert all(float(value.abs().sum()) == 0 for value in moments(model, model.critic))
    assert_still_works(model, tmp_path)


def test_an_extractor_that_the_actor_shares_stays_when_the_critic_is_reset() -> None:
    kwargs = {**EXTRACTOR_WITH_LAYERS, "share_features_extractor": True}
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, **SMALL).learn(TRAINED_AT_ALL)
    before = snapshot(model)
    ready(ResetCallback(part="critic"), model).reset()
    assert {tuple(key.split(".")[:2]) for key in changed(before, model) if "normalizer" not in key} == {
        (root, qf) for root in ("critic", "critic_target") for qf in ("qf0", "qf1")
    }


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("sac", {"actor.mu", "actor.log_std", "critic.qf0.head", "critic_target.qf0.head"}),
        ("dqn-stock", {"q_net.q_net.4", "q_net_target.q_net.4"}),
    ],
)
def test_only_the_last_layers_are_reset(name: str, heads: set[str], tmp_path: Path) -> None:
    model = trained(name)
    before = snapshot(model)
    ready(ResetCallback(part="last_layers"), model).reset()
    assert {key.rpartition(".")[0] for key in changed(before, model)} == heads
    assert_still_works(model, tmp_path)


@pytest.mark.parametrize("name", ["sac", "td3", "dqn-extractor", "sac-sparsified"])
def test_masks_are_drawn_anew_on_request(name: str, tmp_path: Path) -> None:
    model = trained(name)
    masks = topologies(model)
    ready(ResetCallback(redraw_topology=True), model).reset()
    after = topologies(model)
    assert all(len(after[layer]) == len(indices) for layer, indices in masks.items())
    assert not any(th.equal(after[layer], indices) for layer, indices in masks.items())
    assert_still_works(model, tmp_path)


# ReDo


@pytest.mark.parametrize("name", ["sac", "sac-stock", "sac-sparsified", "dqn-stock"])
def test_silent_units_are_recycled_without_changing_the_network(name: str, tmp_path: Path) -> None:
    model = trained(name)
    batch = batch_of_redo(model, 32)
    network = next(reversed(measured_networks(model).values()))
    chain = record(network.module, lambda: network.forward(batch)).chains[0]
    producer = network.module.get_submodule(chain.producer)
    with th.no_grad():
        producer.bias[:3] = -1e3  # type: ignore[index, operator]
    weight, outputs = dense_weight(producer), first_output(network, batch)
    counts = ready(ReDoCallback(tau=0.0, batch_size=32), model).recycle()
    assert sum(counts.values()) >= 3
    th.testing.assert_close(first_output(network, batch), outputs)
    assert (producer.bias[:3] > -10).all()  # type: ignore[index, operator]
    rows = (dense_weight(producer) != weight).any(dim=1)
    assert rows[:3].all() and rows.sum() == dormant_count(model, network, chain, batch, rows)
    assert th.equal(dense_weight(producer)[~rows], weight[~rows])
    for consumer in chain.consumers:
        assert dense_weight(network.module.get_submodule(consumer))[:, :3].abs().sum() == 0
    assert_still_works(model, tmp_path)


def dormant_count(model: Any, network: Any, chain: Any, batch: Any, rows: th.Tensor) -> int:
    # Everything that was drawn anew feeds nothing yet.
    (consumer,) = chain.consumers[:1]
    feeds = dense_weight(network.module.get_submodule(consumer)).abs().sum(dim=0) > 0
    return int((rows & ~feeds).sum())


def batch_of_redo(model: Any, size: int) -> Any:
    """What dormancy is measured on: a unit that is silent there may not be elsewhere."""
    with private_randomness(model, 0, model.num_timesteps):
        return sample_batch(model, size)


def dense_weight(layer: Any) -> th.Tensor:
    return layer.weight.detach().clone()


def first_output(network: Any, batch: Any) -> th.Tensor:
    with th.no_grad():
        output = network.forward(batch)
    return (output[0] if isinstance(output, tuple) else output).clone()


def test_redo_draws_from_the_layers_own_initialisation_and_forgets_moments() -> None:
    model = make("sac-dense").learn(40)
    block = model.critic.qf0.encoder.blocks[0]
    with th.no_grad():
        block.expand.bias.fill_(-1e3)
    ready(ReDoCallback(tau=0.0), model).recycle()
    assert block.expand.bias.abs().sum() == 0  # SimBa's; torch's default would not be 0
    assert block.expand.weight.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.1)
    optimizer = model.critic.optimizer
    for parameter in (block.expand.weight, block.expand.bias, block.contract.weight):
        state = optimizer.state[parameter]
        assert state["exp_avg"].abs().sum() == state["exp_avg_sq"].abs().sum() == 0 and state["step"] > 0
    assert optimizer.state[block.contract.bias]["exp_avg"].abs().sum() > 0
    block.expand.bias.data.fill_(-1e3)
    ready(ReDoCallback(tau=0.0, reset_step_count=True), model).recycle()
    assert optimizer.state[block.expand.weight]["step"] == 0


class Images(gym.Env):
    observation_space, action_space = spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.1), False, {}


def test_channels_are_recycled_with_what_they_feed_after_flattening() -> None:
    model = DQN("CnnPolicy", Images(), policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}}, **SMALL).learn(30)
    cnn, linear = model.q_net.features_extractor.cnn, model.q_net.features_extractor.linear[0]
    with th.no_grad():
        cnn[4].bias[5] = -1e6
        cnn[2].bias[7] = -1e6
    network = measured_networks(model)["q_net"]
    batch = batch_of_redo(model, 16)
    outputs = first_output(network, batch)
    ready(ReDoCallback(tau=0.0, batch_size=16), model).recycle()
    th.testing.assert_close(first_output(network, batch), outputs)
    positions = linear.in_features // 64
    by_channel = linear.weight.detach().view(-1, 64, positions)
    assert by_channel[:, 5].abs().sum() == 0 and by_channel[:, 4].abs().sum() > 0
    assert cnn[4].weight[:, 7].abs().sum() == 0 and cnn[2].bias[7].abs() < 1


class Tokens(gym.ObservationWrapper):
    """Three tokens instead of a vector: their order must not be mistaken for that of units."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.observation_space = spaces.Box(-np.inf, np.inf, (3, 4), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.stack([observation, observation**2, -observation])


class PerToken(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, 15)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def test_units_on_sequences_are_recycled_with_what_they_feed_after_flattening() -> None:
    kwargs = {"features_extractor_class": PerToken, "net_arch": [8]}
    model = DQN("MlpPolicy", Tokens(), policy_kwargs=kwargs, **SMALL).learn(30)
    layer, following = model.q_net.features_extractor.layers[0], model.q_net.q_net[0]
    with th.no_grad():
        layer.bias[3] = -1e6
        layer.bias[[0, 1, 2, 4]] = 1e3
    network = measured_networks(model)["q_net"]
    batch = batch_of_redo(model, 16)
    outputs = first_output(network, batch)
    ready(ReDoCallback(tau=0.0, batch_size=16), model).recycle()
    th.testing.assert_close(first_output(network, batch), outputs)
    by_token = following.weight.detach().view(8, 3, 5)
    fed = by_token.abs().sum(dim=(0, 1)) > 0
    assert fed.tolist() == [True, True, True, False, True] and layer.bias[3].abs() < 1


# Dynamic sparsity


def test_dropping_and_growing_worked_out_by_hand() -> None:
    topology = Topology(th.tensor([0, 2, 3, 7]), (2, 5))
    magnitudes = th.tensor([3.0, 0.1, 2.0, 0.2])  # the weakest sit at 2 and 7
    scores = th.tensor([9.0, 1.0, 5.0, 9.0, 0.0, 7.0, 0.0, 0.0, 0.0, 2.0])
    indices, sources = drop_and_grow(topology, magnitudes, scores, 2)
    assert indices.tolist() == [0, 2, 3, 5]  # 5 grows, and 2 again; 0 and 3 are kept whatever their score
    assert sources.tolist() == [0, 1, 2, -1]
    assert remap(th.tensor([1.0, 2.0, 3.0, 4.0]), sources).tolist() == [1.0, 2.0, 3.0, 0.0]
    unmoved, _ = drop_and_grow(topology, magnitudes, scores, 0)
    assert unmoved.tolist() == topology.indices.tolist()
    with pytest.raises(ValueError, match="Between 0 and 4"):
        drop_and_grow(topology, magnitudes, scores, 5)


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("name", SPARSE_MODELS)
def test_weights_move_and_take_their_values_along(name: str, method: str, tmp_path: Path) -> None:
    model = trained(name)
    masks, layers = topologies(model), dict(sparse_layers(model.policy))
    weights = {layer_name: dense_weight(layer) for layer_name, layer in layers.items()}
    states = {key: dense_moments(model, layer) for key, layer in layers.items()}
    callback = ready(SparseTopologyCallback(SET() if method == "set" else RigL(batch_size=16)), model)
    move(callback, 0.4)
    moved = 0
    for key, layer in layers.items():
        assert len(layer.indices) == len(masks[key])
        stayed = th.isin(layer.indices, masks[key])
        moved += int((~stayed).sum())
        now, indices = dense_weight(layer).flatten(), layer.topology.long_indices()
        assert th.equal(now[indices[stayed]], weights[key].flatten()[indices[stayed]])
        assert now[indices[~stayed]].abs().sum() == 0
        for old, new in zip(states[key], dense_moments(model, layer), strict=True):
            assert th.equal(new[indices[stayed]], old[indices[stayed]]) and new[indices[~stayed]].abs().sum() == 0
    assert moved > 0.1 * sum(map(len, masks.values()))
    assert_still_works(model, tmp_path)


def move(callback: SparseTopologyCallback, fraction: float) -> None:
    method = callback.methods[""]
    assert isinstance(method, SET | RigL)
    method.move(callback._part(""), fraction)


def dense_moments(model: Any, layer: SparseLayer) -> list[th.Tensor]:
    states = [o.state[layer.values] for o in optimizers_of(model.policy) if layer.values in o.state]
    return [layer.topology.scatter(v).flatten() for s in states for v in s.values() if v.shape == layer.values.shape]


def test_rigl_grows_where_the_gradient_is_largest() -> None:
    model = trained("sac")
    callback = ready(SparseTopologyCallback("rigl", batch_size=16, seed=3), model)
    layer = model.critic.qf0.encoder.blocks[0].expand
    rigl = callback.methods[""]
    assert isinstance(rigl, RigL)
    gradient = callback._part("").gradients(rigl.batch_size)[layer.topology]
    twin = to_dense(model.policy)
    assert gradient.shape == twin.critic.qf0.encoder.blocks[0].expand.weight.shape
    inactive = ~layer.topology.mask()
    before = layer.topology.mask()
    move(callback, 0.2)
    grown = layer.topology.mask() & ~before
    assert grown.any()
    candidates = gradient.abs()[inactive]
    assert gradient.abs()[grown].min() >= candidates.sort(descending=True).values[grown.sum() - 1]
    assert layer.dense_gradient is None


def test_dense_gradients_are_those_of_a_dense_twin() -> None:
    from sb3_sparse.algorithms.own_algorithm import sample_losses

    model = trained("sac-sparsified")
    batch = sample_batch(model, 16)
    with th.random.fork_rng():
        losses = sample_losses(model)["critic"](model, batch)
    gradients = dense_gradients(model.critic, losses)
    twin = to_dense(model.critic)
    with th.random.fork_rng():
        model.critic, online = twin, model.critic
        twin_losses = sample_losses(model)["critic"](model, batch)
        twin_losses().mean().backward()
        model.critic = online
    for name, layer in sparse_layers(online):
        th.testing.assert_close(gradients[layer.topology], twin.get_submodule(name).weight.grad, rtol=1e-4, atol=1e-6)


def test_what_checkpoints_of_former_versions_hold_is_taken_over() -> None:
    callback = SparseTopologyCallback("pruning", final_sparsity=0.8)
    vars(callback).update(last_step=40, initial_sparsity=0.2)  # as resuming does
    callback.restore_checkpoint_state(None)
    assert callback.last_steps == {"": 40} and callback.initial == {"": {"actor": 0.2, "critic": 0.2}}


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_dynamic_training_conserves_the_number_of_weights(method: str) -> None:
    callback = SparseTopologyCallback(SET(update_freq=10) if method == "set" else RigL(update_freq=10, batch_size=16))
    model = make("sac")
    counts = {name: layer.topology.active for name, layer in sparse_layers(model.policy)}
    masks = topologies(model)
    model.learn(100, callback=callback)
    assert callback.changes == 6  # at 30, ..., 80: after the first update, until 80 % of training
    assert {name: layer.topology.active for name, layer in sparse_layers(model.policy)} == counts
    assert not any(
        th.equal(masks[name], layer.indices) for name, layer in sparse_layers(model.policy) if layer.topology.density < 0.9
    )


def test_networks_have_methods_of_their_own() -> None:
    model = make("sac")
    masks, counts = topologies(model), {name: layer.topology.active for name, layer in sparse_layers(model.policy)}
    methods = {"critic": RigL(update_freq=10, batch_size=16), "actor": Static()}
    model.learn(60, callback=SparseTopologyCallback(methods))
    moved = {name.partition(".")[0] for name, layer in sparse_layers(model.policy) if not th.equal(masks[name], layer.indices)}
    assert moved >= {"critic"} and "actor" not in moved
    callback = SparseTopologyCallback({"actor": GradualPruning(0.7, update_freq=10), "critic": SET(update_freq=20)})
    model.learn(100, callback=callback)
    now = {name: layer.topology.active for name, layer in sparse_layers(model.policy)}
    assert {n: c for n, c in now.items() if "critic" in n} == {n: c for n, c in counts.items() if "critic" in n}
    assert model.policy.sparsity["actor"] == 0.7 and sum(map(now.get, now)) < sum(counts.values())


@pytest.mark.parametrize("name", ["sac-dense", "sac-compiled", "td3", "sac-stock", "dqn-stock"])
def test_pruning_follows_its_schedule_and_leaves_a_model_that_loads(name: str, tmp_path: Path) -> None:
    model = make(name)
    callback = SparseTopologyCallback("pruning", update_freq=5, end=0.75, final_sparsity=0.8)
    active: list[int] = []
    change = callback._change

    def note(network: str, progress: float) -> None:
        change(network, progress)
        active.append(callback._active_parameters())

    callback._change = note  # type: ignore[method-assign]
    model.learn(40, callback=callback)
    assert active == sorted(active, reverse=True) and len(active) == 2 and active[-1] < active[0]
    assert model.policy.sparsity == 0.8 and model.policy_kwargs["sparsity"] == 0.8
    fresh = type(model)(model.policy_class, model.env, policy_kwargs=dict(model.policy_kwargs), **SMALL)
    expected = {layer: sparse.topology.active for layer, sparse in sparse_layers(fresh.policy)}
    assert {layer: sparse.topology.active for layer, sparse in sparse_layers(model.policy)} == expected
    assert_still_works(model, tmp_path)


@pytest.mark.parametrize("name", ["sac-dense", "sac"])
def test_pruning_keeps_the_largest_weights_with_their_moments_and_targets(name: str) -> None:
    model = trained(name)
    layer, target = (net.qf0.encoder.blocks[1].contract for net in (model.critic, model.critic_target))
    old, old_target = dense_weight(layer), dense_weight(target)
    values = layer.values if isinstance(layer, SparseLayer) else layer.weight
    old_moment = model.critic.optimizer.state[values]["exp_avg"]
    old_moment = layer.topology.scatter(old_moment) if isinstance(layer, SparseLayer) else old_moment
    total = prune_by_magnitude(model, 0.7)
    assert isinstance(layer, SparseLayer) and layer.topology is target.topology
    mask = layer.topology.mask()
    assert old[mask].abs().min() >= old[~mask].abs().max()
    assert th.equal(dense_weight(layer)[mask], old[mask]) and th.equal(dense_weight(target)[mask], old_target[mask])
    state = model.critic.optimizer.state[layer.values]
    assert th.equal(state["exp_avg"], layer.topology.gather(old_moment)) and state["step"] > 0
    held = [p for group in model.critic.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.critic.parameters()}
    dense = SAC(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={"width_scale": 0.0625}, **SMALL)
    trees = (dense.actor, dense.critic.qf0)
    counts = [sum(allocate(tree, 0.7).values()) for tree in trees]
    assert total == sum(counts)


def test_pruning_that_ends_with_training_reaches_its_end() -> None:
    model = make("sac-dense")
    model.learn(
        55, callback=SparseTopologyCallback("pruning", update_freq=20, end=1.0, final_sparsity={"actor": 0.0, "critic": 0.6})
    )
    assert model.policy.sparsity == {"actor": 0.0, "critic": 0.6}
    assert not list(sparse_layers(model.actor)) and list(sparse_layers(model.critic))


def test_a_resumed_pruning_goes_on_with_its_schedule() -> None:
    def callback() -> SparseTopologyCallback:
        return SparseTopologyCallback("pruning", update_freq=10, end=1.0, final_sparsity=0.8)

    whole = make("sac-dense")
    seen: dict[int, float] = {}
    watched = callback()
    change = watched._change
    watched._change = lambda n, p: (change(n, p), seen.update({watched.num_timesteps: whole.policy.sparsity}))[0]  # type: ignore[method-assign, func-returns-value]
    whole.learn(100, callback=watched)
    half = make("sac-dense")
    half.learn(100, callback=[callback(), StopAt(60)])
    assert half.policy.sparsity == pytest.approx(seen[60])
    half.learn(40, reset_num_timesteps=False, callback=[callback(), StopAt(80)])
    assert half.policy.sparsity == pytest.approx(seen[80])


def test_compiled_models_are_told() -> None:
    class Compiled(sb3_sparse.SAC):
        captured = 0

        def recapture(self) -> None:
            super().recapture()
            self.captured += 1

    for callback, minimum in [
        (ResetCallback(30), 1),
        (SparseTopologyCallback("set", 20), 1),
        (SparseTopologyCallback("pruning", 20, final_sparsity=0.8), 1),
    ]:
        model = Compiled(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs=dict(SIMBA), **SMALL)
        model.captured = 0
        model.learn(50, callback=callback)
        assert model.captured >= minimum


# Bad input


@pytest.mark.parametrize(
    ("make_callback", "message"),
    [
        (lambda: ResetCallback(0), "reset_freq"),
        (lambda: ResetCallback(part="actor"), "'agent', 'critic', 'last_layers'"),
        (lambda: ReDoCallback(redo_freq=0), "redo_freq"),
        (lambda: ReDoCallback(tau=-1), "tau"),
        (lambda: ReDoCallback(batch_size=0), "batch_size"),
        (lambda: SparseTopologyCallback("random"), "'set', 'rigl', 'pruning'"),
        (lambda: SparseTopologyCallback(update_freq=0), "update_freq"),
        (lambda: SparseTopologyCallback(drop_fraction=1.0), "drop_fraction"),
        (lambda: SparseTopologyCallback(schedule="linear"), "'cosine', 'constant'"),
        (lambda: SparseTopologyCallback(start=0.5, end=0.5), "start and end"),
        (lambda: SparseTopologyCallback("pruning"), "needs final_sparsity"),
        (lambda: SparseTopologyCallback("pruning", final_sparsity=1.0), r"sparsity must lie in \[0, 1\)"),
        (lambda: SparseTopologyCallback("set", final_sparsity=0.5), "'set' does not take final_sparsity"),
        (lambda: SparseTopologyCallback("set", batch_size=8), "'set' does not take batch_size"),
        (lambda: SparseTopologyCallback(SET(), update_freq=10), "update_freq: give these to the method itself"),
        (lambda: SparseTopologyCallback({"critic": 3}), "got 3"),
        (lambda: SparseTopologyCallback({"critic": {"method": "rigl", "tau": 3}}), "'rigl' does not take tau"),
        (lambda: RigL(drop_fraction=2.0), "drop_fraction"),
    ],
)
def test_bad_arguments_are_refused(make_callback: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_callback()


def test_what_does_not_fit_the_model_is_refused() -> None:
    on_policy = PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8)
    for callback in (ResetCallback(), ReDoCallback()):
        with pytest.raises(ValueError, match="PPO does not have"):
            on_policy.learn(8, callback=callback)
    with pytest.raises(ValueError, match="no layer of this model is sparse"):
        make("sac-dense").learn(5, callback=SparseTopologyCallback("set"))
    qrdqn = sparsify(make("qrdqn-stock"), 0.5)
    with pytest.raises(ValueError, match=r'quantile_net is not known: use method="set"'):
        qrdqn.learn(5, callback=SparseTopologyCallback("rigl"))
    with pytest.raises(ValueError, match=r"has no network 'critics': name one of .*'actor', 'critic'"):
        make("sac").learn(5, callback=SparseTopologyCallback({"critics": SET()}))
    with pytest.raises(ValueError, match="no layer of the actor"):
        sparse_critic = SAC(
            SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={**SIMBA, "sparsity": {"actor": 0.0, "critic": 0.5}}
        )
        sparse_critic.learn(5, callback=SparseTopologyCallback({"actor": SET()}))
    with pytest.raises(ValueError, match=r"sparsify\(model, 0.0\) first"):
        prune_by_magnitude(make("sac-stock"), 0.5)


def test_intervals_longer_than_the_run_are_said() -> None:
    for callback, message in [
        (ResetCallback(1_000), "no reset happens before 10 agent steps"),
        (SparseTopologyCallback("set", 1_000), "update_freq=1000 is longer"),
    ]:
        with pytest.warns(UserWarning, match=message):
            make("sac").learn(10, callback=callback)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("sac").learn(25, callback=ResetCallback(10))


def test_recycling_knows_every_head_of_an_actor() -> None:
    model = trained("sac-stock")
    network = measured_networks(model)["actor"]
    batch = sample_batch(model, 8)
    chains = record(network.module, lambda: network.forward(batch)).chains
    consumers = {chain.producer: set(chain.consumers) for chain in chains}
    assert consumers == {"latent_pi.0": {"latent_pi.2"}, "latent_pi.2": {"mu", "log_std"}}


def test_rigl_leaves_frozen_networks_alone() -> None:
    model = SAC(
        SparseSimBaPolicy,
        "Pendulum-v1",
        policy_kwargs={"sparsity": 0.5, "width_scale": 0.0625},
        learning_starts=20,
        batch_size=8,
    )
    model.actor.requires_grad_(False)
    before = {name: layer.indices.clone() for name, layer in sparse_layers(model.policy)}
    model.learn(45, callback=SparseTopologyCallback("rigl", update_freq=20, batch_size=8, schedule="constant"))
    moved = {name.split(".")[0] for name, layer in sparse_layers(model.policy) if not th.equal(before[name], layer.indices)}
    assert moved == {"critic", "critic_target"}
