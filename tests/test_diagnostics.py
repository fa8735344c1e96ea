"""Pure functions on tensors, against the reference's figures and cases worked out by hand."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_sparse.diagnostics import (
    discounted_returns,
    dormancy_scores,
    dormant_ratio,
    effective_learning_rate,
    feature_norm,
    fraction_active_units,
    gradient_covariance,
    gradient_gram,
    gradient_norm,
    parameter_norm,
    q_value_bias,
    record,
    simplicity_bias_score,
    srank,
)
from sb3_sparse.networks import DeferredNormalizer, SimBaEncoder
from sb3_sparse.sparsity import SparseLayer, prune, to_dense

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_metrics.json").read_text())
RANKS = sorted(GOLDEN["srank"])
NAN = math.nan


def golden_features(name: str) -> th.Tensor:
    features = th.tensor(GOLDEN["srank"][name]["features"])
    return features.reshape(-1, features.shape[-1])  # the reference stacks two critics and joins their batches


def golden_activations(case: str) -> dict[str, th.Tensor]:
    activations = GOLDEN["dormant"][case]["activations"]
    return {name: th.tensor(value) for name, value in activations.items() if "Dense" in name and "predictor" not in name}


@pytest.mark.parametrize("case", sorted(GOLDEN["dormant"]))
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.2])
def test_dormant_ratio_against_reference(case: str, tau: float) -> None:
    activations = golden_activations(case)
    expected = dict(GOLDEN["dormant"][case][f"tau{tau}"])
    total = next(name for name in expected if name.endswith("total"))
    assert 100 * dormant_ratio(activations, tau) == pytest.approx(expected.pop(total), rel=1e-6)
    assert len(expected) == len(activations)
    for name, percent in expected.items():
        assert 100 * dormant_ratio(activations[name.partition("_x_")[2]], tau) == pytest.approx(percent, rel=1e-6)


@pytest.mark.parametrize("name", RANKS)
def test_srank_and_feature_norm_against_reference(name: str) -> None:
    features, expected = golden_features(name), GOLDEN["srank"][name]
    for delta, rank in expected["official"].items():
        assert srank(features, float(delta)) == rank
    for threshold, rank in expected["paper_text_plain_count"].items():
        assert srank(features, threshold=float(threshold)) == rank
    assert feature_norm(features) == pytest.approx(GOLDEN["feature_norm"][name], rel=1e-6)


def test_dormancy_of_a_layer_worked_out_by_hand() -> None:
    activations = th.tensor([[1.0, -2.0, 0.0, 3.0], [-1.0, 2.0, 0.0, 3.0]])  # E|h| = 1, 2, 0, 3; mean 1.5
    assert dormancy_scores(activations).tolist() == pytest.approx([2 / 3, 4 / 3, 0.0, 2.0])
    assert [dormant_ratio(activations, tau) for tau in (0.0, 0.5, 0.7, 2.0)] == [0.25, 0.25, 0.5, 1.0]


def test_units_of_a_convolution_are_its_channels() -> None:
    activations = th.zeros(2, 3, 4, 5)
    activations[0, 1, 2, 3] = 1.0  # one position of one sample keeps a channel awake
    assert dormancy_scores(activations).tolist() == pytest.approx([0.0, 3.0, 0.0])
    assert fraction_active_units(activations) == pytest.approx(1 / 120)


def test_layers_are_pooled_by_units() -> None:
    dead, alive = th.zeros(5, 1), th.ones(5, 3)
    assert dormant_ratio([dead, alive]) == dormant_ratio({"a": dead, "b": alive}) == 0.25
    assert fraction_active_units([dead, alive]) == 0.75


def test_fraction_active_units_counts_pairs() -> None:
    assert fraction_active_units(th.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0.25


def test_measures_of_silent_and_broken_networks() -> None:
    zeros, broken = th.zeros(4, 3), th.tensor([[1.0, NAN], [1.0, 1.0]])
    assert dormant_ratio(zeros) == 1.0 and fraction_active_units(zeros) == 0.0 and srank(zeros) == 1.0
    for measure in (dormant_ratio, fraction_active_units, srank, feature_norm):
        assert math.isnan(measure(broken)), measure
    assert math.isnan(dormant_ratio([zeros, broken]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dormant_ratio(th.ones(3)), r"shape \(batch, units"),
        (lambda: dormant_ratio(th.ones(0, 3)), r"\(0, 3\)"),
        (lambda: dormant_ratio({}), "no activations"),
        (lambda: dormant_ratio(th.ones(2, 2), tau=-0.1), "tau must be at least 0"),
        (lambda: dormant_ratio(th.ones(2, 2), tau=NAN), "tau must be at least 0"),
        (lambda: srank(th.ones(2, 2, 2)), r"\(2, 2, 2\)"),
        (lambda: srank(th.ones(2, 2), delta=1.0), r"delta must lie in \(0, 1\)"),
        (lambda: gradient_covariance(), "either"),
        (lambda: gradient_covariance([]), "no gradients"),
        (lambda: q_value_bias(th.ones(2), th.ones(3)), "differ in shape"),
        (lambda: simplicity_bias_score(lambda: nn.Linear(2, 1), 0), "at least 1"),
        (lambda: simplicity_bias_score(lambda: nn.Linear(2, 2), 1), "one number per point"),
        (lambda: simplicity_bias_score(lambda: nn.Sequential(nn.Linear(2, 1), nn.Threshold(1e9, 0.0)), 1), "constant"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_srank_worked_out_by_hand() -> None:
    features = th.diag(th.tensor([6.0, 3.0, 1.0]))
    assert [srank(features, delta) for delta in (0.5, 0.35, 0.05)] == [1, 2, 3]  # sums are 0.6, 0.9 and 1 of all
    assert [srank(features, threshold=t) for t in (0.5, 1.0, 5.0, 7.0)] == [3, 2, 1, 0]


def test_norms_worked_out_by_hand() -> None:
    layer = nn.Linear(2, 1)
    assert gradient_norm(layer) == 0.0  # nothing was differentiated yet
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 1.0)
    assert parameter_norm(layer) == parameter_norm(layer.parameters()) == pytest.approx(3.0)
    assert effective_learning_rate(0.9, layer) == pytest.approx(0.1)
    assert effective_learning_rate(0.9, layer, power=1) == pytest.approx(0.3)
    assert effective_learning_rate(0.9, [th.zeros(2)]) == math.inf
    layer(th.tensor([[2.0, 2.0]])).sum().backward()
    assert gradient_norm(layer) == gradient_norm({"w": layer.weight.grad, "b": layer.bias.grad}) == pytest.approx(3.0)
    assert feature_norm(th.tensor([[3.0, 4.0], [0.0, 1.0]])) == 3.0


def test_norms_of_a_sparse_network_are_those_of_its_active_weights() -> None:
    network = prune(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1)), 0.7)
    dense = to_dense(network)
    assert parameter_norm(network) == pytest.approx(parameter_norm(dense), rel=1e-6)
    batch = th.randn(8, 20)
    for module in (network, dense):
        module(batch).square().mean().backward()
    masks = {f"{n}.weight": layer.topology.mask() for n, layer in network.named_modules() if isinstance(layer, SparseLayer)}
    masked = {name: p.grad * masks.get(name, 1.0) for name, p in dense.named_parameters()}
    assert gradient_norm(network) == pytest.approx(gradient_norm(masked), rel=1e-5)
    assert gradient_norm(dense) > 1.01 * gradient_norm(network)


def test_value_bias_worked_out_by_hand() -> None:
    returns = discounted_returns(th.tensor([1.0, 0.0, 4.0]), 0.5)
    assert returns.tolist() == [2.0, 2.0, 4.0]
    assert discounted_returns(th.tensor([1.0, 0.0]), 0.5, bootstrap=8.0).tolist() == [3.0, 4.0]
    assert q_value_bias(returns + 2, returns) == 2.0
    assert q_value_bias(returns - 2, returns, normalize=True) == pytest.approx(-0.75)


def test_gradient_covariance_worked_out_by_hand() -> None:
    gradients = th.tensor([[2.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    half = math.sqrt(0.5)
    expected = [[1, -1, 0, half, 0], [-1, 1, 0, -half, 0], [0, 0, 1, half, 0], [half, -half, half, 1, 0], [0, 0, 0, 0, 0]]
    th.testing.assert_close(gradient_covariance(gradients), th.tensor(expected, dtype=th.float64), atol=1e-7, rtol=0)
    blocks = (gradients[:, i : i + 1] for i in range(3))
    th.testing.assert_close(gradient_covariance(blocks), gradient_covariance(gradients))
    broken = gradient_covariance(th.tensor([[1.0], [math.inf]]))
    assert broken[0, 0] == 1.0 and broken[1].isnan().all()


class Residual(nn.Module):
    """Convolutions, normalisation, a residual connection, a layer that runs twice and one whose input has three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.LayerNorm(24)
        self.twice = nn.Linear(24, 24)
        self.tokens = nn.Linear(6, 5)
        self.head = nn.Linear(20, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        x = self.norm(self.conv(x).flatten(1))
        x = x + F.relu(self.twice(F.relu(self.twice(x))))
        return self.head(self.tokens(x.view(-1, 4, 6)).flatten(1))


def brute_force(module: nn.Module, batch: th.Tensor) -> th.Tensor:
    rows = []
    for sample in batch:
        gradients = th.autograd.grad(module(sample[None]).square().sum(), list(module.parameters()))
        rows.append(th.cat([gradient.flatten() for gradient in gradients]))
    return th.stack(rows)


NETWORKS = {
    "simba": (lambda: nn.Sequential(SimBaEncoder(5, 12, 2), nn.Linear(12, 1)), (5,)),
    "residual": (Residual, (2, 4, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.7])
@pytest.mark.parametrize("max_bytes", [2**28, 2_000])
def test_gram_matrix_by_layers_is_that_of_all_gradients(name: str, sparsity: float, max_bytes: int) -> None:
    make, shape = NETWORKS[name]
    th.manual_seed(0)
    network = prune(make().double(), sparsity)
    batch = th.randn(7, *shape, dtype=th.float64)
    gram = gradient_gram(network, lambda: network(batch).square().reshape(-1), max_bytes)
    rows = brute_force(network, batch)
    th.testing.assert_close(gram, rows @ rows.T)
    th.testing.assert_close(gradient_covariance(gram=gram), gradient_covariance(rows))


def test_gram_matrix_leaves_nothing_behind() -> None:
    network = nn.Linear(3, 1)
    gradient_gram(network, lambda: network(th.randn(4, 3)).reshape(-1))
    assert not network._forward_hooks and network.weight.grad is None


class Leaky(nn.Module):
    """Uses a weight without calling the layer that has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return F.linear(self.layer(x), self.layer.weight).sum(1)


def test_gram_matrix_of_what_cannot_be_seen_is_refused() -> None:
    leaky, tied = Leaky(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    batch = th.randn(4, 3)
    with pytest.raises(ValueError, match="outside its own module"):
        gradient_gram(leaky, lambda: leaky(batch))
    with pytest.raises(ValueError, match="tied"):
        gradient_gram(tied, lambda: tied(batch).sum(1))
    with pytest.raises(ValueError, match=r"one entry per sample"):
        gradient_gram(leaky, lambda: leaky(batch).mean())


class Wave(nn.Module):
    def __init__(self, frequency: int, axis: int):
        super().__init__()
        self.frequency, self.axis = frequency, axis

    def forward(self, grid: th.Tensor) -> th.Tensor:
        place = (grid[:, self.axis].double() + 100.0) / 200.0 * 299  # 0 to 299
        return 5.0 + 3.0 * th.cos(2 * math.pi * self.frequency * place.round() / 300)


@pytest.mark.parametrize("axis", [0, 1])
def test_simplicity_of_a_wave_is_its_inverse_frequency(axis: int) -> None:
    for frequency in (1, 10, 106):
        assert float(simplicity_bias_score(lambda f=frequency: Wave(f, axis), 1)) == pytest.approx(212 / frequency, rel=1e-6)


def test_simplicity_score_states_its_error_and_depends_on_the_seed_only() -> None:
    def score(seed: int) -> Any:
        th.manual_seed(seed)
        return simplicity_bias_score(lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), 3)

    first, again, other = score(0), score(0), score(1)
    assert first == again != other
    assert len(first.scores) == 3 and first.mean == pytest.approx(sum(first.scores) / 3)
    assert first.standard_error == pytest.approx(th.tensor(first.scores).std().item() / math.sqrt(3), rel=1e-5)


@pytest.mark.slow
def test_simplicity_scores_against_published_figures() -> None:
    # SimBa, figure 3: 5.8 and 6.3; the reference figures for these initialisations, of 100 networks: 5.91 and 6.20 +- 0.07.
    th.manual_seed(0)
    mlp = simplicity_bias_score(
        lambda: nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1)), 40
    )
    simba = simplicity_bias_score(lambda: nn.Sequential(SimBaEncoder(2, 128, 1), nn.Linear(128, 1)), 40, normalize=True)
    assert abs(mlp.mean - 5.91) < 4 * mlp.standard_error
    assert abs(simba.mean - 6.20) < 4 * simba.standard_error


def test_recording_a_network_with_two_heads() -> None:
    body, mean, std = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 2), nn.Linear(5, 2)
    network = nn.ModuleDict({"body": body, "mean": mean, "std": std, "squash": nn.Tanh()})
    batch = th.randn(6, 3)

    def forward() -> th.Tensor:
        features = body(batch)
        std(features)
        return network["squash"](mean(features))

    recording = record(network, forward)
    assert list(recording.pre) == ["body.0", "body.2"] and list(recording.post) == ["body.1", "body.3"]
    assert set(recording.output_layers) == {"mean", "std"} and len(recording.features) == 1
    (features,) = recording.features.values()
    th.testing.assert_close(features, body(batch).detach())
    th.testing.assert_close(recording.post["body.1"], F.relu(recording.pre["body.0"]))
    consumers = {chain.producer: set(chain.consumers) for chain in recording.chains}
    assert consumers == {"body.0": {"body.2"}, "body.2": {"mean", "std"}}
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_recording_through_flattening_and_in_place_activations() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 1))
    recording = record(network, lambda: network(th.randn(5, 1, 3, 3)))
    assert [(c.producer, c.activation, c.consumers) for c in recording.chains] == [("0", "1", ("3",))]
    assert recording.pre["0"].min() < 0 <= recording.post["1"].min()
    assert recording.post["1"].shape == (5, 3, 2, 2) and recording.features["3"].shape == (5, 12)


def test_units_that_something_else_takes_are_no_chain() -> None:
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.head = nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 1)

        def forward(self, x: th.Tensor) -> th.Tensor:
            return self.head(th.cat([self.act(self.first(x)), x[:, :1]], dim=1))

    network = Concatenated()
    recording = record(network, lambda: network(th.randn(2, 3)))
    assert list(recording.post) == ["act"] and recording.chains == ()


def test_recording_functional_activations_finds_layers_only() -> None:
    leaky = Residual()
    with pytest.warns(UserWarning, match="not recorded: what follows twice, Relu as a function"):
        recording = record(leaky, lambda: leaky(th.randn(2, 2, 4, 4)))
    assert recording.post == {} and list(recording.pre) == ["conv", "twice", "tokens"]
    assert recording.pre["twice"].shape == (4, 24)  # it ran twice
    assert recording.pre["tokens"].shape == (8, 5)  # four positions of two samples


SEQUENCES = {
    "linear": lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)),
    "layer norm": lambda: nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 2)),
    "sparse": lambda: prune(nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 2)), 0.5),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_positions_of_a_sequence_are_samples(name: str) -> None:
    network, batch = SEQUENCES[name](), th.randn(60, 8)
    with th.no_grad():
        network[0].bias[:16] = -100.0
    recordings = [record(network, lambda x=x: network(x)) for x in (batch, batch.view(6, 10, 8), batch.view(2, 3, 10, 8))]
    for other in recordings[1:]:
        for kind in ("pre", "post", "features"):
            ours, theirs = getattr(recordings[0], kind), getattr(other, kind)
            assert ours.keys() == theirs.keys()
            for layer in ours:
                th.testing.assert_close(ours[layer], theirs[layer])


def test_units_of_convolutions_are_channels_until_they_become_tokens() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU()), nn.GELU()
            self.head = nn.Linear(6, 1)

        def forward(self, x: th.Tensor) -> th.Tensor:
            return self.head(self.act(self.conv(x).flatten(2).transpose(1, 2)))

    network = Patches()
    recording = record(network, lambda: network(th.randn(5, 3, 16, 12)))
    shapes = {name: tuple(units.shape) for name, units in {**recording.pre, **recording.post}.items()}
    assert shapes == {"conv.0": (5, 6, 4, 3), "conv.2": (5, 6, 4, 3), "act": (60, 6)}


class Swish(nn.Module):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return x * th.sigmoid(x)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]):
        super().__init__()
        self.memory, self.head = kind(8, 8), nn.Linear(8, 2)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.head(self.memory(x)[0])


@pytest.mark.parametrize(
    ("make", "unseen"),
    [
        (lambda: Recurrent(nn.LSTM), ["memory (LSTM)"]),
        (lambda: Recurrent(nn.GRU), ["memory (GRU)"]),
        (lambda: nn.Sequential(nn.Linear(8, 4), Swish(), nn.Linear(4, 1)), ["1 (Swish)"]),
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.GLU(), nn.Linear(2, 1)), ["1 (GLU)"]),
        (
            lambda: nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 1)),
            ["1.self_attn (MultiheadAttention)", "what follows 1.linear1, Relu as a function"],
        ),
    ],
)
def test_what_is_not_recorded_is_named(make: Any, unseen: list[str]) -> None:
    network = make()
    with pytest.warns(UserWarning, match=re.escape(f"is not recorded: {'; '.join(unseen)}. Recorded are")):
        record(network, lambda: network(th.randn(5, 3, 8)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Softsign(), nn.Dropout(0.5), nn.Linear(4, 2), Swish()),  # a squashed output
        lambda: nn.Sequential(Swish(), SimBaEncoder(8, 4, 1), nn.LayerNorm((3, 4)), nn.Linear(4, 1)),  # of no layer
    ],
)
def test_nothing_is_named_where_all_is_recorded(make: Any, recwarn: pytest.WarningsRecorder) -> None:
    network = make()
    record(network, lambda: network(th.randn(5, 3, 8)))
    assert [str(warning.message) for warning in recwarn] == []


def test_recording_moves_no_statistics() -> None:
    normalizer = DeferredNormalizer(3)
    network = nn.Sequential(normalizer, nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    network(th.randn(4, 3))  # pooled, to be taken over when training mode ends
    before = {name: value.clone() for name, value in network.state_dict().items()}
    record(network, lambda: network(th.randn(4, 3)))
    assert all(th.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(part.training for part in network.modules())


@pytest.mark.parametrize(
    ("sparsity", "post", "lowest"), [(0.0, (0.005, 0.02), 240), (0.8, (0.0, 0.0), 235), (0.9, (0.0, 0.0), 235)]
)
def test_a_critic_at_initialisation_against_measured_figures(sparsity: float, post: tuple[float, float], lowest: int) -> None:
    # Of the reference's critic (width 512, batch 256): no unit is dormant before activation, 1.1 % are after it if dense and
    # none from S = 0.8 on; Srank is 235 to 248, its plain count saturated.
    th.manual_seed(0)
    critic = prune(nn.Sequential(SimBaEncoder(88, 512, 2), nn.Linear(512, 1)), sparsity)
    recording = record(critic, lambda: critic(th.randn(256, 88)))
    features = recording.features["1"]
    assert dormant_ratio(recording.pre, 0.2) == 0.0
    assert post[0] <= dormant_ratio(recording.post, 0.1) <= post[1]
    assert 0.49 < fraction_active_units(recording.post) < 0.51
    assert lowest <= srank(features) <= 248 and srank(features, threshold=0.01) == 256
