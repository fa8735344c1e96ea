"""The arithmetic of DrQ-v2 against numbers worked out by hand and an implementation in plain torch."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from dot_env import SIZE as SIDE
from dot_env import DotEnv
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_sparse import sparsity
from sb3_sparse.drqv2 import DrQv2, DrQv2Policy
from sb3_sparse.drqv2.augmentation import random_shift, shift
from sb3_sparse.drqv2.exploration import stddev_at
from sb3_sparse.drqv2.networks import noisy_actions
from sb3_sparse.experiments.benchmarks import plain_drqv2
from sb3_sparse.experiments.benchmarks.plain_drqv2 import PlainBatch, PlainDrQv2, shift_by_interpolation
from sb3_sparse.networks import PixelEncoder
from sb3_sparse.training.held_objects import all_optimizers

NETWORK: dict[str, Any] = {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}}


def images(batch: int = 64, side: int = 84, channels: int = 9, dtype: th.dtype = th.uint8) -> th.Tensor:
    return th.randint(0, 256, (batch, channels, side, side), dtype=th.uint8).to(dtype)


def model(**kwargs: Any) -> DrQv2:
    """A model without an environment's steps: its buffer stays empty."""
    policy_kwargs = {**NETWORK, **kwargs.pop("policy_kwargs", {})}
    return DrQv2("CnnPolicy", DotEnv(), buffer_size=50, policy_kwargs=policy_kwargs, seed=0, **kwargs)


def samples(batch: int = 6, n: int = 3, gamma: float = 0.99) -> ReplayBufferSamples:
    rewards, dones = th.rand(batch, 1), (th.arange(batch)[:, None] % 3 == 0).float()
    discounts = th.full((batch, 1), gamma**n)
    frames = [images(batch, SIDE) for _ in range(2)]
    actions = 2 * th.rand(batch, 2) - 1
    return ReplayBufferSamples(frames[0], actions, frames[1], dones, rewards, discounts)


# Random shifts


@pytest.mark.parametrize("pixels", [0, 1, 4])
@pytest.mark.parametrize("side", [84, 17])
def test_shifts_are_those_of_the_reference(pixels: int, side: int) -> None:
    original = images(16, side)
    th.manual_seed(0)
    ours = random_shift(original, pixels)
    th.manual_seed(0)
    theirs = shift_by_interpolation(original.double(), pixels)
    assert ours.dtype == th.uint8 and ours.shape == original.shape
    # What the encoder would otherwise do with four times as many bytes.
    assert ours.is_contiguous(memory_format=th.channels_last)
    np.testing.assert_allclose(ours.double(), theirs, atol=1e-9)
    th.manual_seed(0)  # in single precision the reference's interpolation rounds
    np.testing.assert_allclose(ours.float(), shift_by_interpolation(original.float(), pixels), atol=5e-3)


def test_a_shift_by_hand() -> None:
    image = th.arange(9).view(1, 1, 3, 3)
    right, down = th.tensor([[1]]), th.tensor([[-1]])
    assert shift(image, right, down).flatten().tolist() == [1, 2, 2, 1, 2, 2, 4, 5, 5]
    assert shift(image, 5 * right, 0 * down).flatten().tolist() == [2, 2, 2, 5, 5, 5, 8, 8, 8]


def test_shifts_are_uniform_and_each_image_has_its_own() -> None:
    th.manual_seed(0)
    corner = th.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE).expand(8_100, 2, SIDE, SIDE)
    middle = random_shift(corner, 4)[:, :, SIDE // 2, SIDE // 2]
    assert th.equal(middle[:, 0], middle[:, 1])  # all channels of an image move alike
    moved = middle[:, 0] - (SIDE // 2) * (SIDE + 1)
    right = (moved + 4) % SIDE - 4
    counts = th.stack([right, (moved - right) // SIDE]).add(4)
    joint = th.bincount(counts[0] * 9 + counts[1], minlength=81)
    assert len(joint) == 81
    # 81 cells of 100: chi-squared has mean 80 and standard deviation 12.6, so this fails once in 10^5 seeds.
    assert float(((joint - 100) ** 2 / 100).sum()) < 140


def test_observations_and_next_observations_shift_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = model(), []
    extract = agent.policy.extract_features
    monkeypatch.setattr(agent.policy, "extract_features", lambda images, by: seen.append(images) or extract(images, by))
    batch = samples(64)
    same = ReplayBufferSamples(*batch[:2], batch.observations, *batch[3:])
    th.manual_seed(0)
    agent.gradient_step(same, True)
    assert len(seen) == 2
    # One pair in 81 has the same shift by chance.
    assert 58 < (seen[0] != seen[1]).flatten(1).any(1).sum() <= 64


# Exploration noise


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ("linear(1.0, 0.1, 500000)", 0, 1.0),
        ("linear(1.0, 0.1, 500000)", 250_000, 0.55),
        ("linear(1.0, 0.1, 500000)", 500_000, 0.1),
        ("linear(1.0,0.1,500000)", 2_000_000, 0.1),
        ("linear(1.0,0.1,100000)", 10_000, 0.91),
        ("linear(0.2, 0.8, 10)", 5, 0.5),
        ("0.3", 7, 0.3),
        (0.3, 7, 0.3),
        (lambda steps: 1 / (1 + steps), 3, 0.25),
    ],
)
def test_schedule(schedule: Any, steps: int, expected: float) -> None:
    assert stddev_at(schedule, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "schedule",
    ["linear(1, 0.1)", "cosine(1, 0, 5)", "linear(a, b, c)", "linear(1, 0.1, 0)", "linear(1, -0.1, 9)", -1.0, math.nan, True],
)
def test_a_schedule_that_is_none(schedule: Any) -> None:
    with pytest.raises(ValueError, match="stddev_schedule"):
        model(stddev_schedule=schedule)


def test_noise_is_clipped_in_updates_and_not_when_acting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "randn_like", lambda mean: th.tensor([[0.1, -2.0, 2.0, 0.0]]).to(mean))
    mean = th.tensor([[0.5, 0.5, 0.9, -1.0]], requires_grad=True)
    stddev = th.tensor(0.5)
    edge = 1 - 1e-6
    np.testing.assert_allclose(noisy_actions(mean, stddev).detach(), [[0.55, -0.5, edge, -edge]], rtol=1e-6)
    clipped = noisy_actions(mean, stddev, clip=0.3)
    np.testing.assert_allclose(clipped.detach(), [[0.55, 0.2, edge, -edge]], rtol=1e-6)
    # Gradients pass as if nothing had been clamped.
    (gradient,) = th.autograd.grad(clipped.sum(), mean)
    assert gradient.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_statistics_of_the_noise() -> None:
    th.manual_seed(0)
    mean = th.full((400_000, 1), 0.2)
    actions = noisy_actions(mean, th.tensor(0.25), clip=0.3)
    # E[noise^2] of a normal with sigma 0.25 clipped at +-0.3 (z = 1.2): sigma^2 (P - 2 z phi(z)) + 0.09 (1 - P).
    z = 1.2
    density, inside = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), math.erf(z / math.sqrt(2))
    variance = 0.25**2 * (inside - 2 * z * density) + 0.09 * (1 - inside)
    assert float(actions.mean()) == pytest.approx(0.2, abs=2e-3)  # five standard errors
    assert float(actions.var()) == pytest.approx(variance, rel=1e-2)
    edges = [float(((actions - 0.2).abs() > 0.3 - 1e-6).float().mean()), 1 - inside]
    assert edges[0] == pytest.approx(edges[1], abs=4e-3)


def test_acting_adds_the_noise_of_the_step() -> None:
    agent = model(stddev_schedule="linear(0.4, 0.0, 100)", learning_starts=0)
    agent.num_timesteps, agent._last_obs = 50, np.zeros((1, 9, SIDE, SIDE), np.uint8)
    th.manual_seed(0)
    noise = th.randn(1, 2).numpy() * 0.2
    th.manual_seed(0)
    _, action = agent._sample_action(0)
    mean, _ = agent.predict(agent._last_obs, deterministic=True)
    np.testing.assert_allclose(action, np.clip(mean + noise, -1, 1), atol=1e-6)
    np.testing.assert_array_equal(mean, agent.predict(agent._last_obs, deterministic=True)[0])


# Networks


def test_sizes_and_initialisation_are_the_reference_s() -> None:
    spaces_ = spaces.Box(0, 255, (9, 84, 84), np.uint8), spaces.Box(-1, 1, (12,), np.float32)
    policy = DrQv2Policy(*spaces_, lambda _: 1e-4)
    count = {name: sum(p.numel() for p in getattr(policy, name).parameters()) for name in ("encoder", "actor", "critic")}
    plain = PlainDrQv2()
    assert policy.encoder.features_dim == 39_200
    for name, network in {"encoder": plain.encoder, "actor": plain.actor, "critic": plain.critic}.items():
        assert count[name] == sum(p.numel() for p in network.parameters())
    # spec: 4.19M weights of the critic, 2.23M of them in the Q-functions.
    weights = [p.numel() for p in policy.critic.parameters() if p.ndim == 2]
    assert (sum(weights), sum(weights) - 39_200 * 50) == (4_186_176, 2_226_176)
    trunk = policy.critic.trunk.projection.weight
    np.testing.assert_allclose((trunk @ trunk.T).detach(), np.eye(50), atol=1e-4)
    convolution = policy.encoder.encoder.layers[2].weight.flatten(1)
    np.testing.assert_allclose((convolution @ convolution.T).detach(), 2 * np.eye(32), atol=1e-4)
    assert all(not p.any() for name, p in policy.named_parameters() if name.endswith("bias"))
    assert [o.defaults["lr"] for o in (policy.encoder.optimizer, policy.actor.optimizer, policy.critic.optimizer)] == [
        1e-4
    ] * 3


# Sparsity of [trunk, first, second, last layer of each Q-function] and millions of active weights, for budget "weights".
DENSITIES = [
    ("critic", 1, [0.367, 0.314, 0.036, 1.0], 0.84, 4.19),
    ("critic", 2, [0.821, 0.681, 0.040, 1.0], 2.1, 10.6),
    ("critic", 4, [1.0, 1.0, 0.141, 1.0], 7.2, 36.0),
    ("q_heads", 1, [1.0, 1.0, 0.151, 1.0], 0.45, 2.23),
    ("q_heads", 2, [1.0, 1.0, 0.175, 1.0], 1.7, 8.7),
    ("q_heads", 4, [1.0, 1.0, 0.188, 1.0], 6.8, 34.1),
]


@pytest.mark.parametrize(("modules", "width", "densities", "active", "total"), DENSITIES)
def test_density_tables(modules: str, width: int, densities: list[float], active: float, total: float) -> None:
    hidden, inputs = 1024 * width, 50 + 12
    shapes = {f"q{i}.{name}": shape for i in (0, 1) for name, shape in _q_shapes(inputs, hidden).items()}
    if modules == "critic":
        shapes["trunk"] = (50, 39_200)
    found = {name: 1 - value for name, value in sparsity.erdos_renyi(shapes, 0.8).items()}
    for i in (0, 1):
        np.testing.assert_allclose([found[f"q{i}.{name}"] for name in "abc"], densities[1:], atol=6e-4)
    assert found.get("trunk", 1.0) == pytest.approx(densities[0], abs=6e-4)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    # The table is rounded to two digits.
    assert sum(found[name] * sizes[name] for name in shapes) / 1e6 == pytest.approx(active, rel=0.03)
    assert sum(sizes.values()) / 1e6 == pytest.approx(total, rel=0.01)


def _q_shapes(inputs: int, hidden: int) -> dict[str, tuple[int, int]]:
    return {"a": (hidden, inputs), "b": (hidden, hidden), "c": (1, hidden)}


@pytest.mark.parametrize("modules", ["critic", "q_heads"])
def test_the_policy_prunes_what_the_tables_are_of(modules: str) -> None:
    spaces_ = spaces.Box(0, 255, (9, 84, 84), np.uint8), spaces.Box(-1, 1, (12,), np.float32)
    policy = DrQv2Policy(*spaces_, lambda _: 1e-4, sparsity=0.8, budget="weights", prune_modules=modules, mask_seed=0)
    row = next(row for row in DENSITIES if row[:2] == (modules, 1))
    layers = {name: layer for name, layer in sparsity.sparse_layers(policy.critic)}
    names = {"trunk.projection": 0, "qf0.0": 1, "qf1.0": 1, "qf0.2": 2, "qf1.2": 2}
    dense = [name for name, place in names.items() if row[2][place] == 1.0]
    assert set(layers) == set(names) - set(dense)
    for name, layer in layers.items():
        assert layer.topology.density == pytest.approx(row[2][names[name]], abs=6e-4)
    assert not list(sparsity.sparse_layers(policy.actor)) and not list(sparsity.sparse_layers(policy.encoder))
    for name, layer in sparsity.sparse_layers(policy.critic_target):
        assert layer.topology is layers[name].topology and layer.values is not layers[name].values


def test_small_images_are_refused_and_the_smallest_works() -> None:
    assert PixelEncoder(3, 15, 15, 4)(th.zeros(2, 3, 15, 15)).shape == (2, 4)
    with pytest.raises(ValueError, match="need 15 pixels"):
        PixelEncoder(3, 14, 40, 4)


# Targets and updates


def test_targets_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = model()
    batch = ReplayBufferSamples(
        *[th.zeros(3, 9, SIDE, SIDE, dtype=th.uint8)] * 1,
        th.zeros(3, 2),
        th.zeros(3, 9, SIDE, SIDE, dtype=th.uint8),
        th.tensor([[0.0], [1.0], [0.0]]),
        th.tensor([[1.0], [2.0], [3.0]]),
        discounts=th.tensor([[0.97], [0.97], [0.5]]),
    )
    values = th.tensor([[10.0], [10.0], [10.0]]), th.tensor([[8.0], [12.0], [11.0]])
    monkeypatch.setattr(type(agent.critic_target), "forward", lambda *_: values)
    target = agent._target(batch, th.zeros(3, agent.encoder.features_dim))
    np.testing.assert_allclose(target, [[1 + 0.97 * 8], [2.0], [3 + 0.5 * 10]], rtol=1e-6)


def test_n_step_returns_of_an_episode_by_hand() -> None:
    """Rewards 1, 2, 3, 4 of an episode cut off by time: starts 0 and 1 only, as the last n - 1 starts are left out."""
    agent = model(gamma=0.9)
    frames = [np.full((1, 3, SIDE, SIDE), i, np.uint8) for i in range(5)]
    stacks = [np.concatenate([frames[max(0, i - k)] for k in (2, 1, 0)], axis=1) for i in range(5)]
    for i in range(4):
        info = {"TimeLimit.truncated": i == 3}
        action = np.full((1, 2), i / 10, np.float32)
        agent.replay_buffer.add(stacks[i], stacks[i + 1], action, np.array([i + 1.0]), np.array([i == 3]), [info])
    batch = agent.replay_buffer.sample(200)
    starts = (10 * batch.actions[:, 0]).round().long()
    assert set(starts.tolist()) == {0, 1}
    returns = th.tensor([1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3 + 0.81 * 4])
    np.testing.assert_allclose(batch.rewards[:, 0], returns[starts], rtol=1e-6)
    np.testing.assert_allclose(batch.discounts, 0.9**3, rtol=1e-6)
    assert not batch.dones.any()
    np.testing.assert_array_equal(batch.next_observations[:, -1, 0, 0], starts + 3)
    np.testing.assert_array_equal(batch.observations[:, 0, 0, 0], (starts - 2).clamp(min=0))


def plain_twin(agent: DrQv2) -> PlainDrQv2:
    """The plain implementation with the same weights; inactive ones are zeros that get no gradient."""
    policy = agent.policy
    plain = PlainDrQv2(9, SIDE, 2, round(policy.width_scale * 16), 16, 8, 4, tau=agent.tau)
    with th.no_grad():
        _copy(policy.encoder, plain.encoder)
        _copy(policy.actor, plain.actor)
        _copy(sparsity.to_dense(policy.critic), plain.critic)
        _copy(sparsity.to_dense(policy.critic_target), plain.target)
    layers = dict(sparsity.sparse_layers(policy.critic))
    names = {
        "trunk.projection": plain.trunk[0],
        **{f"qf{i}.{j}": (plain.q1, plain.q2)[i][j] for i in (0, 1) for j in (0, 2, 4)},
    }
    for name, layer in layers.items():
        mask = layer.topology.mask()
        names[name].weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return plain


def _copy(source: nn.Module, target: nn.Module) -> None:
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        b.copy_(a)


@pytest.mark.parametrize(
    "network", [{}, {"width_scale": 2.0}, {"sparsity": 0.6}, {"sparsity": 0.6, "prune_modules": "q_heads"}]
)
def test_updates_are_those_of_plain_torch(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the rounding of interpolation in single precision, which Adam's first steps blow up.
    exactly = lambda images, pixels: shift_by_interpolation(images.double(), pixels).round().float()  # noqa: E731
    monkeypatch.setattr(plain_drqv2, "shift_by_interpolation", exactly)
    agent = model(policy_kwargs=network, learning_rate=1e-3)
    plain = plain_twin(agent)
    for optimizer in plain.optimizers:
        optimizer.param_groups[0]["lr"] = 1e-3
    for optimizer in all_optimizers(agent):
        optimizer.param_groups[0]["lr"] = 1e-3
    agent.actor.stddev.fill_(0.4)
    for k in range(4):
        batch = samples()
        th.manual_seed(k)
        losses = agent.gradient_step(batch, True)
        th.manual_seed(k)
        discounts = batch.discounts * (1 - batch.dones)
        expected = plain.update(
            PlainBatch(batch.observations, batch.actions, batch.rewards, discounts, batch.next_observations), 0.4
        )
        np.testing.assert_allclose([float(losses["critic_loss"]), float(losses["actor_loss"])], expected, rtol=1e-5, atol=1e-6)
    pairs = [
        (agent.encoder, plain.encoder),
        (agent.actor, plain.actor),
        (sparsity.to_dense(agent.critic), plain.critic),
        (sparsity.to_dense(agent.critic_target), plain.target),
    ]
    for ours, theirs in pairs:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(a.detach(), b.detach(), atol=2e-5)
