"""Noisy layers, dense and sparse."""

import copy
import io
import math

import pytest
import torch as th
from torch import nn
from torch.testing import assert_close

from sb3_sparse.networks import NoisyLinear, SparseNoisyLinear
from sb3_sparse.networks.noisy_linear import set_noise
from sb3_sparse.sparsity import prune, share_topology, summary, to_dense

# E[f(e)^2] of f(e) = sign(e) sqrt(|e|) is E|e| of a standard normal e.
SECOND_MOMENT = math.sqrt(2 / math.pi)


def test_initialisation() -> None:
    layer = NoisyLinear(400, 300, sigma_0=0.1)
    for mean in (layer.weight_mu, layer.bias_mu):
        assert mean.abs().max() <= 1 / 20
    # The standard deviation of U(-a, a) is a / sqrt(3); of 120,000 draws it is known to 1 %.
    assert float(layer.weight_mu.detach().std()) == pytest.approx(1 / 20 / math.sqrt(3), rel=0.01)
    for deviation in (layer.weight_sigma, layer.bias_sigma):
        assert_close(deviation, th.full_like(deviation, 0.1 / 20))


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_noise_has_the_moments_of_the_paper(sparsity: float) -> None:
    """Mean and variance of an output over 10,000 draws, by hand; tolerances are four standard errors."""
    th.manual_seed(0)
    layer = prune(NoisyLinear(6, 3), sparsity, budget="weights")
    x = th.randn(6)
    with th.no_grad():
        outputs = th.stack([layer(x) for _ in range(10_000)])  # (draws, 3)
    dense = to_dense(layer).requires_grad_(False)
    mean = dense.weight_mu @ x + dense.bias_mu
    # y - mean = f_out (sum_i sigma_i x_i f_i + sigma_bias)
    inner = SECOND_MOMENT * (dense.weight_sigma * x).square().sum(1) + dense.bias_sigma.square()
    variance = SECOND_MOMENT * inner
    errors = (outputs.mean(0) - mean).abs() / (variance / len(outputs)).sqrt()
    assert float(errors.max()) < 4
    centred = (outputs - mean).square()
    spread = centred.std(0) / math.sqrt(len(outputs))
    assert float(((centred.mean(0) - variance).abs() / spread).max()) < 4


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_one_draw_serves_the_whole_batch_and_every_pass_draws_anew(sparsity: float) -> None:
    layer = prune(NoisyLinear(20, 10), sparsity)
    x = th.randn(20)
    first = layer(th.stack([x, x]))
    assert_close(first[0], first[1])
    assert not th.allclose(first[0], layer(x))
    set_noise(nn.Sequential(layer), False)
    assert th.equal(layer(x), layer(x))
    twin = to_dense(layer)
    assert_close(layer(x), twin.weight_mu @ x + twin.bias_mu)


def test_a_sparse_layer_is_its_dense_twin_under_the_mask() -> None:
    th.manual_seed(0)
    layer = prune(NoisyLinear(30, 20), 0.8)
    assert type(layer) is SparseNoisyLinear
    assert [name for name, _ in layer.named_parameters()] == ["values", "sigma_values", "bias_mu", "bias_sigma"]
    dense, x = to_dense(layer), th.randn(40, 30)
    assert type(dense) is NoisyLinear
    results = []
    for module in (layer, dense):
        th.manual_seed(1)
        output = module(x)
        output.square().sum().backward()
        results.append(output)
    assert_close(*results)
    mask = layer.topology.mask()
    for name, values in layer.value_names.items():
        gradient = dense.get_parameter(name).grad
        assert_close(layer.get_parameter(values).grad, gradient[mask])
        assert not dense.get_parameter(name).detach()[~mask].any()
    for name in ("bias_mu", "bias_sigma"):
        assert_close(layer.get_parameter(name).grad, dense.get_parameter(name).grad)
    th.manual_seed(1)
    layer.record_dense_gradient()
    layer(x).square().sum().backward()
    assert_close(layer.dense_gradient, dense.weight_mu.grad)


def test_both_weights_are_under_one_mask_that_targets_share() -> None:
    network, target = (nn.Sequential(NoisyLinear(30, 20), nn.ReLU(), NoisyLinear(20, 5)) for _ in range(2))
    prune(network, 0.5)
    figures = summary(network)
    assert figures["0.weight_mu"] == figures["0.weight_sigma"]
    # All 1,450 weights and biases, 50 of which are biases, lose half.
    assert figures.active == pytest.approx(figures.total / 2, abs=3)
    share_topology(network, target)
    assert target[0].topology is network[0].topology
    target.load_state_dict(network.state_dict())
    set_noise(network, False)
    set_noise(target, False)
    x = th.randn(3, 30)
    assert_close(target(x), network(x))


def test_copies_and_files() -> None:
    layer = prune(NoisyLinear(30, 20), 0.8)
    stream = io.BytesIO()
    th.save(layer, stream)
    stream.seek(0)
    set_noise(layer, False)
    for twin in (copy.deepcopy(layer), th.load(stream, weights_only=False)):
        set_noise(twin, False)
        assert_close(twin(th.ones(30)), layer(th.ones(30)))
    before = layer.topology.indices.clone()
    layer.reset_parameters()
    assert th.equal(layer.indices, before)
    assert_close(layer.sigma_values, th.full_like(layer.sigma_values, 0.5 / math.sqrt(30)))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 3), "in_features"), ((3, 0), "out_features"), ((3, 3, 0.0), "sigma_0"), ((3, 3, math.nan), "sigma_0")],
)
def test_bad_sizes(arguments: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        NoisyLinear(*arguments)
