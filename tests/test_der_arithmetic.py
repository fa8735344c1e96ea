"""The arithmetic of DER against numbers worked out by hand and against a plain implementation."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from torch import nn
from torch.testing import assert_close

from sb3_sparse import sparsity
from sb3_sparse.der import DER, CnnPolicy, PrioritizedFrameReplayBuffer
from sb3_sparse.der.categorical import clipped_mass, cross_entropy, project
from sb3_sparse.der.networks import RainbowHead
from sb3_sparse.der.sum_tree import FAN_OUT, SumTree
from sb3_sparse.experiments.benchmarks.der_cost import RandomFrames
from sb3_sparse.experiments.benchmarks.plain_rainbow import PlainBatch, PlainRainbow

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
SUPPORT = th.linspace(-2.0, 2.0, 5)


def rate(_: float) -> float:
    return 1e-4


def column(*numbers: float) -> th.Tensor:
    return th.tensor(numbers)[:, None]


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.0, 1.0, [0.1, 0.2, 0.4, 0.2, 0.1]),
        (1.0, 1.0, [0.0, 0.1, 0.2, 0.4, 0.3]),  # what was at 1 and 2 ends at 2
        (-5.0, 1.0, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (0.5, 1.0, [0.05, 0.15, 0.3, 0.3, 0.2]),  # each in equal parts to its neighbours; 2.5 is 2
        (0.25, 0.0, [0.0, 0.0, 0.75, 0.25, 0.0]),  # a terminal state: the reward alone
        (0.0, 0.5, [0.0, 0.2, 0.6, 0.2, 0.0]),  # -2 and 2 come to -1 and 1, -1 and 1 half-way between
    ],
)
def test_projection_by_hand(reward: float, discount: float, expected: list[float]) -> None:
    probabilities = th.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    assert_close(project(probabilities, column(reward), column(discount), SUPPORT), th.tensor([expected]))


def test_projection_keeps_mass_and_mean() -> None:
    th.manual_seed(0)
    support = th.linspace(-10, 10, 51)
    probabilities, rewards, discounts = th.rand(64, 51).softmax(1), th.randn(64, 1), th.rand(64, 1) * 0.8
    projected = project(probabilities, rewards, discounts, support)
    assert_close(projected.sum(1), th.ones(64))
    # Nothing is clipped here, so the mean is that of the shifted distribution.
    assert float(clipped_mass(probabilities, rewards, discounts, support)) < 1e-3
    assert_close(projected @ support, rewards.squeeze(1) + discounts.squeeze(1) * (probabilities @ support), atol=1e-2, rtol=0)


def test_clipped_mass_by_hand() -> None:
    probabilities = th.tensor([[0.1, 0.2, 0.4, 0.2, 0.1], [0.2] * 5])
    # 1.5: atoms at 1 and 2 leave the support (0.3); -9: all do.
    assert float(clipped_mass(probabilities, column(1.5, -9.0), column(1.0, 1.0), SUPPORT)) == pytest.approx(0.65)
    assert float(clipped_mass(probabilities, column(0.0, 0.0), column(1.0, 1.0), SUPPORT)) == 0.0


def test_cross_entropy_by_hand() -> None:
    logits = th.tensor([[0.0, math.log(3.0)]])
    assert_close(cross_entropy(logits, th.tensor([[0.5, 0.5]])), th.tensor([-0.5 * math.log(0.25) - 0.5 * math.log(0.75)]))


def test_dueling_by_hand() -> None:
    """One hidden unit that is 1, two actions, two atoms: V + A - mean of A over actions (Wang et al., 2016, equation 9)."""
    head = RainbowHead(1, 2, 2, [1], nn.ReLU, dueling=True, linear=nn.Linear)
    with th.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.hidden[0].bias.fill_(1.0)
        head.advantage.weight.copy_(th.tensor([[1.0], [2.0], [3.0], [8.0]]))
        head.value.weight.copy_(th.tensor([[10.0], [20.0]]))
    assert_close(head(th.zeros(1, 1)), th.tensor([[[9.0, 17.0], [11.0, 23.0]]]))


@pytest.mark.parametrize(("width", "actions", "parameters"), [(1, 18, 5_057_890), (3, 18, 13_763_842)])
def test_sizes(width: float, actions: int, parameters: int) -> None:
    policy = CnnPolicy(IMAGES, spaces.Discrete(actions), rate, width_scale=width)
    assert sum(parameter.numel() for parameter in policy.q_net.parameters()) == parameters
    assert sum(p.numel() for p in policy.q_net.features_extractor.parameters()) == pytest.approx(
        [97e3, 0.87e6][width > 1], rel=0.01
    )


# Densities at 6 actions where the means' weights alone are counted; layers not named are dense.
DENSITIES = {
    (1, 0.4): {"hidden": 0.54},
    (1, 0.8): {"hidden": 0.157, "stacks.1.conv": 0.83, "stacks.1.blocks": 0.54, "stacks.2": 0.54, "advantage": 0.37},
    (3, 0.4): {"hidden": 0.57, "stacks.1.blocks": 0.67, "stacks.2": 0.67},
    (3, 0.8): {
        "hidden": 0.183,
        "stacks.0.blocks": 0.44,
        "stacks.1.conv": 0.325,
        "stacks.1.blocks": 0.21,
        "stacks.2": 0.21,
        "advantage": 0.47,
    },
}


@pytest.mark.parametrize(("size", "expected"), DENSITIES.items())
def test_densities_of_the_paper_s_networks(size: tuple[float, float], expected: dict[str, float]) -> None:
    width, overall = size
    network = CnnPolicy(IMAGES, spaces.Discrete(6), rate, width_scale=width).q_net
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if p.ndim > 1 and "sigma" not in name}
    for name, layer_sparsity in sparsity.erdos_renyi(shapes, overall).items():
        (density,) = [number for part, number in expected.items() if part in name] or [1.0]
        assert 1 - layer_sparsity == pytest.approx(density, abs=0.006), name


def test_a_mask_counts_for_both_of_its_weights() -> None:
    policy = CnnPolicy(IMAGES, spaces.Discrete(6), rate, sparsity=0.8)
    figures = sparsity.summary(policy.q_net)
    assert figures.sparsity == pytest.approx(0.8, abs=1e-4)
    hidden = figures["head.hidden.0.weight_mu"]
    assert hidden == figures["head.hidden.0.weight_sigma"]
    assert 1 - hidden.sparsity == pytest.approx(0.164, abs=1e-3)


def test_update_is_that_of_a_plain_implementation() -> None:
    """Three updates without noise: losses, priorities, weights of all layers."""
    kwargs = {"width_scale": 0.125, "optimizer_kwargs": {"eps": 1.5e-4}}
    model = DER("CnnPolicy", RandomFrames(), buffer_size=50, learning_starts=50, policy_kwargs=kwargs, seed=0, device="cpu")
    model.set_logger(configure(None, []))
    model.learn(50)
    model.q_net.noisy = False
    plain = PlainRainbow(6, 0.125, noisy=False)
    for ours, theirs in ((model.q_net, plain.online), (model.q_net_target, plain.target)):
        copy_to_plain(ours, theirs)
    buffer = model.replay_buffer
    assert isinstance(buffer, PrioritizedFrameReplayBuffer)
    for _ in range(3):
        state = np.random.get_state()
        batch = buffer.sample(8)
        np.random.set_state(state)
        losses = plain.update(
            PlainBatch(
                batch.observations,
                batch.actions.squeeze(1),
                batch.next_observations,
                batch.rewards.squeeze(1),
                (batch.discounts * (1 - batch.dones)).squeeze(1),
                batch.weights.squeeze(1),
            )
        )
        model.train(1, 8)
        assert model.logger.name_to_value["train/loss"] == pytest.approx(
            float((batch.weights.squeeze(1) * losses).mean()), rel=1e-5
        )
        assert_close(buffer.priorities(batch.positions).float(), losses.sqrt(), rtol=1e-4, atol=1e-5)
    check = PlainRainbow(6, 0.125)
    copy_to_plain(model.q_net, check.online)
    for ours, theirs in zip(check.online.parameters(), plain.online.parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def copy_to_plain(network: Any, plain: nn.Module) -> None:
    stacks = network.features_extractor.encoder.stacks
    for i in range(3):
        plain.entries[i].load_state_dict(stacks[i].conv.state_dict())
        inner = [layer for block in stacks[i].blocks for layer in (block.first, block.second)]
        for layer, twin in zip(inner, plain.blocks[i], strict=True):
            twin.load_state_dict(layer.state_dict())
    pairs = [
        (network.head.hidden[0], plain.hidden),
        (network.head.advantage, plain.advantage),
        (network.head.value, plain.value),
    ]
    with th.no_grad():
        for layer, twin in pairs:
            twin.mean.weight.copy_(layer.weight_mu)
            twin.mean.bias.copy_(layer.bias_mu)
            twin.deviation.weight.copy_(layer.weight_sigma)
            twin.deviation.bias.copy_(layer.bias_sigma)


@pytest.mark.parametrize("capacity", [1, 7, FAN_OUT, FAN_OUT + 1, 5_000])
def test_sum_tree_is_a_cumulative_sum(capacity: int) -> None:
    """Random changes, and random places in the sum, against numpy."""
    rng, tree, numbers = np.random.default_rng(capacity), SumTree(capacity), np.zeros(capacity)
    for _ in range(30):
        count = int(rng.integers(1, min(capacity, 40) + 1))
        positions = rng.choice(capacity, count, replace=False)
        numbers[positions] = rng.choice([0.0, 1e-6, 1.0, 1e3], count) * rng.random(count)
        tree.set(th.from_numpy(positions), th.from_numpy(numbers[positions]))
        assert_close(tree.get(th.arange(capacity)).numpy(), numbers, rtol=0, atol=0)
        assert float(tree.total()) == pytest.approx(numbers.sum(), rel=1e-12)
        if numbers.sum() == 0:
            continue
        fractions = np.concatenate([rng.random(100), [0.0, np.nextafter(1.0, 0.0)]])
        found = tree.find(th.from_numpy(fractions)).numpy()
        assert (numbers[found] > 0).all()
        ends = numbers.cumsum()
        sought = fractions * ends[-1]
        slack = 1e-9 * ends[-1]
        assert (ends[found] >= sought - slack).all() and (ends[found] - numbers[found] <= sought + slack).all()


def test_draws_are_proportional_to_priorities() -> None:
    tree = SumTree(3_000)
    positions, numbers = th.tensor([0, 5, 1_500, 2_999]), th.tensor([1.0, 2.0, 3.0, 4.0])
    tree.set(positions, numbers)
    found = tree.find(th.rand(100_000, dtype=th.float64, generator=th.Generator().manual_seed(0)))
    counts = th.stack([(found == position).sum() for position in positions])
    assert int(counts.sum()) == 100_000
    # Five standard errors of a binomial count are below 0.8 % of the draws.
    assert_close(counts / 100_000, numbers / 10, atol=0.008, rtol=0)


def test_a_sum_tree_needs_leaves() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SumTree(0)
