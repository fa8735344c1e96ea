import math

import flax_reference
import numpy as np
import pytest
import torch as th
from stable_baselines3.sac.policies import Actor as SACActor
from torch import nn

from sb3_sparse.common.architecture import SimBaSize, simba_sizes
from sb3_sparse.common.gaussian_actor import ExactSquashedDiagGaussian
from sb3_sparse.common.networks import SimBaCritic
from sb3_sparse.networks import RunningNormalizer, SimBaEncoder
from sb3_sparse.sac.policies import SimBaActor
from sb3_sparse.sparsity import SparseLinear, prune

CLOSE = dict(rtol=1e-5, atol=1e-5)
GOLDEN = flax_reference.read("golden_forward.json")
INPUTS = {name: th.tensor(value) for name, value in GOLDEN["inputs"].items()}


def golden(network_class: type[nn.Module], variant: str) -> tuple:
    case = GOLDEN["nets"]["sac_actor" if network_class is SimBaActor else "ddpg_critic"]
    masked = None if variant == "dense" else case["masked"][variant]
    network = flax_reference.build(network_class, 5, 3, SimBaSize(16, 2))
    flax_reference.load(network, case["params"], masked["masks"] if masked else {})
    outputs = masked["outputs"] if masked else case["outputs_dense"]
    return network, {name: th.tensor(value) for name, value in outputs.items()}


@pytest.mark.parametrize("variant", ["dense", "0.5", "0.8"])
def test_actor_against_reference(variant: str) -> None:
    actor, expected = golden(SimBaActor, variant)
    assert any(isinstance(layer, SparseLinear) for layer in actor.modules()) == (variant != "dense")
    observations, given_actions, eps = INPUTS["observations"], INPUTS["actions"], INPUTS["eps"]
    mean, log_std, _ = actor.get_action_dist_params(observations)
    gaussian = mean + log_std.exp() * eps
    distribution = actor.action_dist.proba_distribution(mean, log_std)
    latent = actor.latent_pi(observations)
    computed = {
        "encoder": latent,
        "mean": mean,
        "raw_log_std": actor.log_std(latent),
        "log_std": log_std,
        "std": distribution.distribution.stddev,
        "tanh_mean": distribution.mode(),
        "sampled_action_from_eps": th.tanh(gaussian),
        "log_prob_of_sampled": distribution.log_prob(th.tanh(gaussian), gaussian),
        "log_prob_of_given_actions": distribution.log_prob(given_actions),
        "eval_action_temperature0": actor(observations, deterministic=True),
    }
    assert computed.keys() == expected.keys()
    for name, value in computed.items():
        # atanh(tanh(x)) loses digits where the action saturates, and the square of a distance of 20 deviations doubles errors.
        close = {**CLOSE, "rtol": 2e-5} if name == "log_prob_of_given_actions" else CLOSE
        th.testing.assert_close(value.detach(), expected[name], **close, msg=lambda text, name=name: f"{name}: {text}")


def test_actions_with_log_probability_are_those_of_sb3() -> None:
    actor, _ = golden(SimBaActor, "0.5")
    results = []
    for way in (SACActor.action_log_prob, SimBaActor.action_log_prob):
        th.manual_seed(0)
        actions, log_prob = way(actor, INPUTS["observations"])
        gradients = th.autograd.grad((0.3 * log_prob - actions.sum(dim=1)).mean(), list(actor.parameters()))
        results.append([actions, log_prob, *gradients])
    for theirs, ours in zip(*results, strict=True):
        # Theirs loses digits where deviations are small beside the mean.
        th.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["dense", "0.5", "0.8"])
def test_actions_with_log_probability_against_reference(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actor, expected = golden(SimBaActor, variant)
    monkeypatch.setattr(th, "randn_like", lambda _: INPUTS["eps"])
    actions, log_prob = actor.action_log_prob(INPUTS["observations"])
    th.testing.assert_close(actions.detach(), expected["sampled_action_from_eps"], **CLOSE)
    # The reference, in single precision, is off by up to 5.5e-4 here: it computes the noise from the action.
    th.testing.assert_close(log_prob.detach(), expected["log_prob_of_sampled"], rtol=1e-4, atol=1e-5)
    mean, log_std = (part.double() for part in actor.get_action_dist_params(INPUTS["observations"])[:2])
    exact = th.distributions.Normal(mean, log_std.exp()).log_prob(gaussian := mean + INPUTS["eps"].double() * log_std.exp())
    correction = th.log1p(-th.tanh(gaussian).square())
    th.testing.assert_close(log_prob.double(), (exact - correction).sum(dim=1), **CLOSE)


@pytest.mark.parametrize("variant", ["dense", "0.5", "0.8"])
def test_critic_against_reference(variant: str) -> None:
    critic, expected = golden(SimBaCritic, variant)
    observations, actions = INPUTS["observations"], INPUTS["actions"]
    encoded = critic.qf0.encoder(th.cat([observations, actions], dim=1))
    th.testing.assert_close(encoded.detach(), expected["encoder"], **CLOSE)
    (q,) = critic(observations, actions)
    th.testing.assert_close(q.detach(), expected["q"], **CLOSE)
    th.testing.assert_close(critic.q1_forward(observations, actions).detach(), expected["q"], **CLOSE)


@pytest.mark.parametrize(
    "width, counts", [(1, (146_346, 4_248_577)), (2, (554_794, 16_885_761)), (5, (3_353_002, 105_128_961))]
)
def test_parameter_counts_for_humanoid(width: int, counts: tuple[int, int]) -> None:
    with th.device("meta"):
        networks = [
            flax_reference.build(network_class, 67, 21, size)
            for network_class, size in zip((SimBaActor, SimBaCritic), simba_sizes(width, 1), strict=True)
        ]
    assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == counts


def test_squashed_gaussian_is_exact_and_normalised() -> None:
    # The density of the squashed variable integrates to one, and stays exact where SB3's epsilon bends it.
    distribution = ExactSquashedDiagGaussian(1).proba_distribution(th.full((1, 1), 0.3), th.full((1, 1), 0.5).log())
    actions = th.linspace(-1, 1, 20_001, dtype=th.float64)[1:-1, None]
    assert th.trapezoid(distribution.log_prob(actions).exp(), actions[:, 0]).item() == pytest.approx(1.0, abs=1e-4)
    gaussian = th.tensor([[9.0]], dtype=th.float64)
    log_prob = distribution.log_prob(th.tanh(gaussian), gaussian)
    exact = -0.5 * ((9 - 0.3) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi)) - math.log(1 - math.tanh(9) ** 2)
    assert log_prob.item() == pytest.approx(exact, abs=1e-3)
    assert th.isfinite(distribution.log_prob(th.tensor([[1.0], [-1.0]]))).all()


@pytest.mark.parametrize("input_dim", [40, 96])
def test_initialisation(input_dim: int) -> None:
    th.manual_seed(0)
    encoder = SimBaEncoder(input_dim, 64, 2)
    check_orthogonal(encoder.projection.weight)
    for block in encoder.blocks:
        for layer, fan_in in ((block.expand, 64), (block.contract, 256)):
            std = math.sqrt(2 / fan_in)
            # 16384 draws: the standard error of the standard deviation is 0.5 %.
            assert layer.weight.std().item() == pytest.approx(std, rel=0.025)
            assert abs(layer.weight.mean().item()) < 4 * std / math.sqrt(layer.weight.numel())
            # Truncated at two standard deviations of the parent distribution, whose own is larger.
            bound = 2 * std / 0.8796
            assert 0.98 * bound < layer.weight.abs().max().item() <= bound * 1.0001
            assert (layer.bias == 0).all()
        assert (block.norm.weight == 1).all() and (block.norm.bias == 0).all() and block.norm.eps == 1e-6
    assert (encoder.projection.bias == 0).all() and encoder.norm.eps == 1e-6


def test_heads_are_orthogonal() -> None:
    th.manual_seed(0)
    sizes = simba_sizes(0.25, 1)
    actor = flax_reference.build(SimBaActor, 7, 3, sizes[0])
    critic = flax_reference.build(SimBaCritic, 7, 3, sizes[1])
    for head in (actor.mu, actor.log_std, critic.qf0.head):
        check_orthogonal(head.weight)
        assert (head.bias == 0).all()


def check_orthogonal(weight: th.Tensor) -> None:
    smaller = weight if weight.shape[0] < weight.shape[1] else weight.t()
    th.testing.assert_close(smaller @ smaller.t(), th.eye(len(smaller)), rtol=0, atol=1e-5)


def test_reset_parameters_keeps_topology() -> None:
    th.manual_seed(0)
    encoder = prune(SimBaEncoder(12, 32, 1), 0.7)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.reset_parameters()
    after = encoder.state_dict()
    assert all(th.equal(before[name], after[name]) for name in before if "topology" in name)
    values = encoder.blocks[0].expand.values
    assert not th.equal(before["blocks.0.expand.values"], values)
    # Kept weights are neither rescaled nor drawn for the smaller fan-in.
    assert values.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.1)


def test_encoder_has_no_activation_after_projection() -> None:
    encoder = SimBaEncoder(3, 8, 1)
    with th.no_grad():
        encoder.blocks[0].contract.weight.zero_()
    x = th.randn(5, 3)
    th.testing.assert_close(encoder(x), nn.functional.layer_norm(encoder.projection(x), (8,), eps=1e-6))


@pytest.mark.parametrize("sizes", [(0, 8, 1), (3, -8, 1), (3, 8, 0), (3, 8.5, 1), (3, 8.0, 1), (3, "8", 1), (None, 8, 1)])
def test_encoder_refuses_bad_sizes(sizes: tuple) -> None:
    with pytest.raises(ValueError, match=r"(input_dim|hidden_dim|num_blocks) must be an integer of at least 1, got "):
        SimBaEncoder(*sizes)


@pytest.mark.parametrize(
    "width, depth, expected",
    [
        (1, 1, ((128, 1), (512, 2))),
        (0.25, 0.25, ((32, 1), (128, 1))),
        (1.5, 1.5, ((192, 2), (768, 3))),
        (np.float32(5), 3, ((640, 3), (2560, 6))),
        (1 / 128, 1, ((1, 1), (4, 2))),
    ],
)
def test_scales(width: float, depth: float, expected: tuple) -> None:
    actor, critic = simba_sizes(width, depth)
    assert ((actor.hidden_dim, actor.num_blocks), (critic.hidden_dim, critic.num_blocks)) == expected


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), "2", None, True])
def test_bad_scales(scale: object) -> None:
    with pytest.raises(ValueError, match="width_scale must be a positive number"):
        simba_sizes(scale, 1)
    with pytest.raises(ValueError, match="depth_scale must be a positive number"):
        simba_sizes(1, scale)


def test_width_without_units() -> None:
    with pytest.raises(ValueError, match=r"width_scale=0\.003 leaves the actor without units: give at least 0\.0078125"):
        simba_sizes(0.003, 1)


def test_normalizer_by_hand() -> None:
    normalizer = RunningNormalizer(1)
    assert normalizer(th.tensor([[3.0]])).item() == pytest.approx(3.0)
    normalizer.update(th.tensor([[0.0], [2.0]]))
    assert (normalizer.mean.item(), normalizer.var.item()) == (1.0, 1.0)
    normalizer.update(th.tensor([[4.0], [8.0]]))
    # Mean and population variance of 0, 2, 4, 8.
    assert (normalizer.mean.item(), normalizer.var.item()) == (3.5, 8.75)
    assert normalizer(th.tensor([[3.5], [3.5 + math.sqrt(8.75)]])).flatten().tolist() == pytest.approx([0.0, 1.0])


def test_normalizer_weight_stays_above_its_minimum() -> None:
    normalizer = RunningNormalizer(1, min_weight=0.25)
    for _ in range(10):
        normalizer.update(th.tensor([[0.0], [0.0]]))
    normalizer.update(th.tensor([[7.0], [9.0]]))
    # A quarter of the new batch: mean 0.25 * 8, variance 0.25 * 1 + 0.25 * 0.75 * 8^2.
    assert (normalizer.mean.item(), normalizer.var.item()) == (2.0, 12.25)
    for bad in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match=f"min_weight must lie in .*got {bad}"):
            RunningNormalizer(1, min_weight=bad)


def test_normalizer_follows_drifting_data() -> None:
    rng = np.random.default_rng(0)
    steps = 10_000
    data = rng.normal(np.linspace([0.0, 10.0], [5.0, 0.0], steps), [1.0, 2.0]).astype(np.float32)
    normalizer, buffer = RunningNormalizer(2), th.tensor(data)
    for filled in range(100, steps):
        normalizer.update(buffer[rng.integers(0, filled, 64)])
    std = buffer.std(dim=0, correction=0)
    assert ((normalizer.mean - buffer.mean(dim=0)).abs() / std).max() < 0.05
    assert (normalizer.std / std - 1).abs().max() < 0.05


def test_frozen_normalizer() -> None:
    normalizer = RunningNormalizer(2, frozen=True)
    normalizer.update(th.randn(16, 2) + 5)
    x = th.randn(3, 2)
    assert th.equal(normalizer(x), x)
    assert normalizer.num_batches == 0


def test_normalizer_is_saved_and_only_update_moves_it() -> None:
    normalizer = RunningNormalizer(2)
    normalizer.update(th.randn(16, 2) * 3 + 5)
    state = {name: tensor.clone() for name, tensor in normalizer.state_dict().items()}
    normalizer.train()(th.randn(100, 2))
    assert all(th.equal(state[name], tensor) for name, tensor in normalizer.state_dict().items())
    fresh, x = RunningNormalizer(2, frozen=True), th.randn(4, 2)
    fresh.load_state_dict(state)
    assert th.equal(fresh(x), normalizer(x))
    batch = th.randn(16, 2)
    fresh.update(batch)
    normalizer.update(batch)
    assert th.equal(fresh.mean, normalizer.mean) and fresh.num_batches == 2


def test_normalizer_buffers_are_updated_in_place() -> None:
    # SB3 keeps references to buffers called running_... and overwrites them in target networks.
    normalizer = RunningNormalizer(2)
    buffers = dict(normalizer.named_buffers())
    normalizer.update(th.randn(16, 2))
    assert all(tensor is buffers[name] for name, tensor in normalizer.named_buffers())
    assert not any("running_" in name for name in buffers)


def test_normalizer_in_double_precision() -> None:
    normalizer = RunningNormalizer(1).double()
    x = 1e6 + th.rand(256, 1, dtype=th.float64)
    for part in x.split(64):
        normalizer.update(part)
    assert normalizer.mean.dtype == normalizer(x).dtype == th.float64
    assert normalizer.mean.item() == pytest.approx(x.mean().item(), rel=1e-9)
    assert normalizer.var.item() == pytest.approx(x.var(correction=0).item(), rel=1e-3)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1234.567])
def test_constant_dimension(constant: float) -> None:
    normalizer = RunningNormalizer(1)
    for _ in range(1000):
        normalizer.update(th.full((256, 1), constant))
    # The variance is 0, so that rounding would be blown up by 1e4.
    assert normalizer(th.full((8, 1), constant)).abs().max() < 0.01
