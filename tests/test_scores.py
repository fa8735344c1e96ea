"""Pruning by scores and masks: SNIP, GraSP, SynFlow, magnitude, what torch has pruned, N:M patterns."""

import copy

import pytest
import torch as th
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sb3_sparse.networks import NoisyLinear, SimBaEncoder
from sb3_sparse.sparsity import Pattern, checkpoint_masks, prune, scores, sparse_layers, summary, to_dense


def toy() -> nn.Sequential:
    """Two layers without biases, of the example that is worked out by hand below."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    network[0].weight.data = th.tensor([[1.0, -2.0], [0.5, 1.0]])
    network[2].weight.data = th.tensor([[2.0, -1.0]])
    return network


def toy_loss(network: nn.Module) -> th.Tensor:
    """Outputs -1.5 and 3, loss 3.125, gradients [[8, 0], [-2.5, 1.5]] and [[4, -0.25]]."""
    inputs, targets = th.tensor([[1.0, 1.0], [2.0, 0.0]]), th.tensor([[0.0], [1.0]])
    return ((network(inputs) - targets) ** 2).mean()


def mlp() -> nn.Sequential:
    th.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def kept(network: nn.Module) -> dict[str, list[int]]:
    return {name: layer.indices.tolist() for name, layer in sparse_layers(network)}


WORKED_OUT = {
    "snip": (lambda n: scores.snip(n, lambda: toy_loss(n)), [[8, 0], [1.25, 1.5]], [[8, 0.25]], {"0": [0, 3], "2": [0]}),
    "grasp": (
        lambda n: scores.grasp(n, lambda: toy_loss(n)),
        [[195, 0], [-45.375, -0.25]],
        [[243, -37.1875]],
        {"0": [0, 1], "2": [0]},
    ),
    "synflow": (
        lambda n: scores.synflow(n, th.zeros(1, 2), 0.0, rounds=1),
        [[2, 4], [0.5, 1]],
        [[6, 1.5]],
        {"0": [0, 1], "2": [0]},
    ),
    "magnitude": (scores.magnitude, [[1, 2], [0.5, 1]], [[2, 1]], {"0": [0, 1], "2": [0]}),
}


@pytest.mark.parametrize("name", WORKED_OUT)
def test_scores_are_those_worked_out_by_hand(name: str) -> None:
    score, first, second, positions = WORKED_OUT[name]
    network = toy()
    found = score(network)
    assert set(found) == {"0.weight", "2.weight"}
    th.testing.assert_close(found["0.weight"].float(), th.tensor(first, dtype=th.float32))
    th.testing.assert_close(found["2.weight"].float(), th.tensor(second, dtype=th.float32))
    assert all(parameter.grad is None for parameter in network.parameters())
    # Three of six weights: as many as uniform allocation gives, wherever the scores are highest.
    prune(network, 0.5, distribution="uniform", budget="weights", scores=found, scope="global")
    assert kept(network) == positions


def test_several_losses_add_their_gradients() -> None:
    network = toy()
    once, twice = (scores.snip(network, [lambda: toy_loss(network)] * count) for count in (1, 2))
    assert all(th.equal(twice[name], 2 * once[name]) for name in once)


def test_synaptic_flow_loses_no_layer_and_is_conserved() -> None:
    network = nn.Sequential(
        nn.Linear(20, 64, bias=False), nn.Tanh(), nn.Linear(64, 64, bias=False), nn.Linear(64, 4, bias=False)
    )
    found = scores.synflow(network, th.zeros(1, 20), 0.98)
    # What flows through every layer is the same, in the network that is left.
    first, *others = [score[score > 0].sum() for score in found.values()]
    assert all(abs(flow / first - 1) < 1e-9 for flow in others)
    prune(network, 0.98, budget="weights", scores=found, scope="global")
    assert min(layer.topology.active for _, layer in sparse_layers(network)) > 20


def test_scores_of_a_residual_network_are_differentiable_twice() -> None:
    encoder = SimBaEncoder(17, 16, 1)
    x = th.randn(32, 17)
    for score in (scores.snip, scores.grasp):
        found = score(encoder, lambda: encoder(x).square().mean())
        assert all(bool(value.abs().sum() > 0) for value in found.values())
    assert set(scores.synflow(encoder, x, 0.5, rounds=3)) == set(found)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_counts_are_exact(scope: str, sparsity: float) -> None:
    by_scores, at_random = prune(mlp(), sparsity, scores="magnitude", scope=scope), prune(mlp(), sparsity)
    assert summary(by_scores).active == summary(at_random).active
    if scope == "layer":
        assert [row.active for row in summary(by_scores).values()] == [row.active for row in summary(at_random).values()]


def test_a_layer_of_low_scores_keeps_its_floor() -> None:
    network = mlp()
    found = scores.magnitude(network)
    found["3.weight"].zero_()
    prune(network, 0.8, scores=found, scope="global")
    assert dict(sparse_layers(network))["3"].topology.active == 64
    assert kept(network)["3"] == list(range(64))  # of equal scores the first


def test_magnitude_of_a_trained_network_keeps_its_largest_weights() -> None:
    network = mlp()
    before = network[3].weight.detach().clone()
    prune(network, 0.9, scores="magnitude")
    layer = dict(sparse_layers(network))["3"]
    dropped = before.abs()[~layer.topology.mask()]
    assert layer.values.abs().min() >= dropped.max()
    assert th.equal(layer.values, before.reshape(-1)[layer.indices])


def test_what_torch_has_pruned_becomes_small() -> None:
    network, x = mlp(), th.randn(8, 20)
    for layer in (network[0], network[3]):
        torch_prune.l1_unstructured(layer, "weight", amount=0.75)
    torch_prune.random_unstructured(network[3], "bias", amount=0.5)
    expected = network(x).detach()
    prune(network, masks="nonzero")
    th.testing.assert_close(network(x), expected)
    assert summary(network)["0"].active == 320 and summary(network)["3"].active == 1024
    assert type(network[5]) is nn.Linear
    copy.deepcopy(network)  # which torch's pruning breaks


def test_zeros_of_a_dense_copy_are_taken_back() -> None:
    network = prune(mlp(), 0.8)
    again = prune(to_dense(network), masks="nonzero")
    assert kept(again) == kept(network)


@pytest.mark.parametrize("name", ["0.weight", "0"])
@pytest.mark.parametrize("convert", [th.Tensor.bool, th.Tensor.float])
def test_masks_are_taken_by_weight_or_layer(name: str, convert) -> None:
    mask = convert(th.rand(64, 20) < 0.3)
    network = prune(mlp(), masks={name: mask})
    assert th.equal(dict(sparse_layers(network))["0"].topology.mask(), mask.bool())
    assert [key for key, _ in sparse_layers(network)] == ["0"]


def test_a_checkpoint_says_how_a_module_was_pruned() -> None:
    network = prune(mlp(), 0.9, scores="magnitude", scope="global")
    state = network.state_dict()
    fresh = prune(mlp(), masks=checkpoint_masks(state))
    fresh.load_state_dict(state)
    x = th.randn(4, 20)
    assert th.equal(fresh(x), network(x))
    noisy = prune(NoisyLinear(8, 8), 0.5, budget="weights")
    assert checkpoint_masks(noisy.state_dict()).keys() == {""}
    prune(NoisyLinear(8, 8), masks=checkpoint_masks(noisy.state_dict())).load_state_dict(noisy.state_dict())


def test_patterns_keep_the_best_of_every_group() -> None:
    row = th.tensor([0.1, -0.9, 0.3, 0.2, 0.4, 0.5, -0.6, 0, 1, 2, 3, 4, -4, -3, -2, -1])
    chosen = {text: Pattern.parse(text).best(row.abs(), (2, 8)).tolist() for text in ("2:4", "1:4", "2:8")}
    assert chosen == {"2:4": [1, 2, 5, 6, 10, 11, 12, 13], "1:4": [1, 6, 11, 12], "2:8": [1, 6, 11, 12]}


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:3", "3:8"])
@pytest.mark.parametrize("budget", ["all", "weights"])
@pytest.mark.parametrize("by", [None, "magnitude"])
def test_patterned_layers_have_exactly_n_of_m(pattern: str, budget: str, by: str | None) -> None:
    n, m = map(int, pattern.split(":"))
    network = prune(
        nn.Sequential(nn.Linear(50, 24), nn.Linear(24, 2), nn.Conv2d(5, 4, 3), nn.Linear(2, 7)),
        1 - n / m,
        distribution=pattern,
        budget=budget,
        scores=by,
    )
    assert [name for name, _ in sparse_layers(network)] == ["0", "1", "2"]
    for _, layer in sparse_layers(network):
        rows = layer.topology.mask().reshape(layer.topology.shape[0], -1)
        whole = rows.shape[1] // m * m
        assert bool((rows[:, :whole].reshape(len(rows), -1, m).sum(dim=2) == n).all())
        rest = rows.shape[1] - whole
        assert bool((rows[:, whole:].sum(dim=1) == -(-n * rest // m)).all())


def test_torch_packs_what_has_the_pattern() -> None:
    layer = prune(nn.Linear(64, 32, bias=False), 0.5, distribution="2:4")
    weight = layer.weight.detach().half()
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert packed.shape == (32, 32)
    assert th.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), weight)
    random = prune(nn.Linear(64, 32, bias=False), 0.5).weight.detach().half()
    assert not th.equal(sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(random)), random)


REFUSED = {
    "neither": (dict(), "either a sparsity, or masks"),
    "both": (dict(sparsity=0.5, masks={}), "either a sparsity, or masks"),
    "unknown score": (dict(sparsity=0.5, scores="hessian"), "scores must be one of 'magnitude'"),
    "unknown masks": (dict(masks="zeros"), "masks must be one of 'nonzero'"),
    "unknown scope": (dict(sparsity=0.5, scores="magnitude", scope="all"), "scope must be one of"),
    "global at random": (dict(sparsity=0.5, scope="global"), "give scores"),
    "global pattern": (dict(sparsity=0.5, scores="magnitude", scope="global", distribution="2:4"), 'needs scope="layer"'),
    "another sparsity": (dict(sparsity=0.8, distribution="2:4"), "has the sparsity 0.5"),
    "no pattern": (dict(sparsity=0.5, distribution="4:2"), "1 <= n < m"),
    "no group": (dict(sparsity=0.5, distribution="40:80"), "fits no layer"),
    "missing scores": (dict(sparsity=0.5, scores={"0": th.ones(64, 20)}), "no scores for '3.weight'"),
    "unknown mask": (dict(masks={"7.weight": th.ones(2, 2)}), "masks for '7.weight'"),
    "shape of a mask": (dict(masks={"0": th.ones(20, 64)}), r"shape \(20, 64\), its weight has \(64, 20\)"),
    "empty mask": (dict(masks={"0": th.zeros(64, 20)}), "keeps no weight"),
    "no mask": (dict(masks={"0": th.full((64, 20), 0.3)}), "entries other than 0 and 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_changes(case: str) -> None:
    arguments, message = REFUSED[case]
    network = mlp()
    with pytest.raises(ValueError, match=message):
        prune(network, **arguments)
    assert not list(sparse_layers(network))


def test_scores_that_are_not_numbers_are_refused() -> None:
    network = mlp()
    found = scores.magnitude(network)
    found["3.weight"][0, 0] = th.nan
    with pytest.raises(ValueError, match=r"1 of the scores of '3.weight' are NaN"):
        prune(network, 0.5, scores=found)
    with pytest.raises(ValueError, match="one finite number"):
        scores.snip(network, lambda: network(th.full((2, 20), th.nan)).mean())
    with pytest.raises(ValueError, match="does not depend"):
        scores.snip(network, lambda: th.ones(()))


def test_frozen_layers_have_no_score() -> None:
    network = mlp()
    network[3].requires_grad_(False)
    loss = lambda: network(th.ones(4, 20)).square().mean()  # noqa: E731
    with pytest.raises(ValueError, match=r"'3.weight' requires no gradient"):
        scores.snip(network, loss)
    assert set(scores.snip(network, loss, skip="3")) == {"0.weight", "5.weight"}


def test_what_torch_has_pruned_stays_if_a_layer_would_be_empty() -> None:
    network = mlp()
    torch_prune.l1_unstructured(network[0], "weight", amount=0.5)
    network[3].weight.data.zero_()
    with pytest.raises(ValueError, match=r"'3.weight' has zeros only"):
        prune(network, masks="nonzero")
    assert hasattr(network[0], "weight_orig") and not list(sparse_layers(network))


def test_masks_of_weights_that_go_together_must_be_equal() -> None:
    first, second = th.zeros(8, 8), th.ones(8, 8)
    first[0] = 1
    with pytest.raises(ValueError, match="their masks must be equal"):
        prune(NoisyLinear(8, 8), masks={"weight_mu": first, "weight_sigma": second})


class Sine(nn.Module):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return -x.sin()


def test_synaptic_flow_needs_a_network_that_can_be_linearised() -> None:
    with pytest.raises(ValueError, match="not linear in positive numbers"):
        scores.synflow(nn.Sequential(nn.Linear(4, 4), Sine(), nn.Linear(4, 4)), th.ones(1, 4), 0.5)
