"""Operations around networks as compiled kernels: they compute what torch's own operations do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch as th

from sb3_sparse.networks import RunningNormalizer, normalization
from sb3_sparse.networks.squashed_gaussian import draw, draw_by_torch

pytest.importorskip("numba")

from sb3_sparse.networks.fused.squashed_gaussian import SquashedGaussian
from sb3_sparse.networks.fused.standardizing import follow, standardize

TOLERANCES = [(th.float64, 1e-12), (th.float32, 2e-6)]


def drawn(way: Callable[..., tuple[th.Tensor, th.Tensor]], *inputs: th.Tensor) -> list[th.Tensor]:
    """Actions, log-probabilities and gradients, in double precision."""
    mean, head, noise = inputs
    mean, head = mean.clone().requires_grad_(), head.clone().requires_grad_()
    actions, log_prob = way(mean, head, noise, -10.0, 6.0)
    weights = th.arange(len(log_prob), dtype=mean.dtype)
    (actions.sin().sum() + weights @ log_prob / len(weights)).backward()
    return [tensor.detach().double() for tensor in (actions, log_prob, mean.grad, head.grad)]


@pytest.mark.parametrize("scale", [1e-4, 0.1, 1.0, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_squashed_gaussian_is_that_of_torch(dtype: th.dtype, tolerance: float, scale: float) -> None:
    generator = th.Generator().manual_seed(0)
    # A standard deviation of e^-4 at the most: beyond |x| = 10 torch's softplus is a straight line, which is less exact.
    mean, head, noise = (th.randn(3, 50, 5, generator=generator, dtype=dtype) * scale).clamp(-2.0, 2.0)
    head = head - 1.5
    exact = drawn(draw_by_torch, mean.double(), head.double(), noise.double())
    for found, right in zip(drawn(draw, mean, head, noise), exact, strict=True):
        assert (found - right).abs().max() <= tolerance * right.abs().max()


def test_saturated_actions_have_exact_log_probabilities() -> None:
    # log(1 - tanh(x)^2) = log 4 - 2 |x| for large x, with an action of density N(x; x, 1) at its mode.
    mean = th.tensor([[300.0], [-300.0]], dtype=th.float64)
    actions, log_prob = draw(mean, th.zeros(2, 1).double(), th.zeros(2, 1).double(), 0.0, 0.0)
    assert actions.tolist() == [[1.0], [-1.0]]
    assert log_prob.tolist() == pytest.approx([-0.9189385332046727 - 1.3862943611198906 + 600.0] * 2)


def test_squashed_gaussian_keeps_nan() -> None:
    mean = th.tensor([[float("nan"), 1.0]])
    actions, log_prob = draw(mean, th.ones(1, 2), th.ones(1, 2), -10.0, 6.0)
    assert actions.isnan().tolist() == [[True, False]] and log_prob.isnan().all()


def test_squashed_gaussian_can_be_differentiated_twice() -> None:
    generator = th.Generator().manual_seed(0)
    mean, head, noise = th.randn(3, 4, 2, generator=generator, dtype=th.float64)
    inputs = mean.requires_grad_(), head.requires_grad_()

    def way(mean: th.Tensor, head: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return SquashedGaussian.apply(mean, head, noise, -1.0, 0.7)

    assert th.autograd.gradcheck(way, inputs, check_batched_grad=True)
    assert th.autograd.gradgradcheck(way, inputs)
    (only_head,) = th.autograd.grad(way(mean.detach(), head)[1].sum(), head)
    assert th.equal(only_head, th.autograd.grad(way(mean, head)[1].sum(), head)[0])


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_statistics_follow_as_those_of_torch(dtype: th.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = th.Generator().manual_seed(0)
    compiled, plain = RunningNormalizer(7).to(dtype), RunningNormalizer(7).to(dtype)
    for rows in (1, 2, 5, 256, 33):
        x = 3.0 + 2.0 * th.randn(rows, 7, generator=generator, dtype=dtype)
        version = compiled.mean._version
        compiled.update(x)
        assert compiled.mean._version > version
        with monkeypatch.context() as patch:
            patch.setattr(normalization, "kernels_are_available", lambda: False)
            plain.update(x)
            expected = plain(x)
        th.testing.assert_close(compiled(x), expected, rtol=2 * tolerance, atol=2 * tolerance)
        for name in ("mean", "var", "num_batches"):
            th.testing.assert_close(getattr(compiled, name), getattr(plain, name), rtol=tolerance, atol=tolerance)


def test_kernels_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name, function in (("standardize", standardize), ("follow", follow)):

        def watched(*args: Any, name: str = name, function: Callable[..., Any] = function) -> Any:
            made.append(name)
            return function(*args)

        monkeypatch.setattr(f"sb3_sparse.networks.fused.standardizing.{name}", watched)
    normalizer, x = RunningNormalizer(3), th.randn(4, 3)
    normalizer.update(x)
    normalizer(x)
    assert made == ["follow", "standardize"]
    # Who wants a gradient of the input gets torch's operations.
    (gradient,) = th.autograd.grad(normalizer(x.requires_grad_()).sum(), x)
    th.testing.assert_close(gradient, (1 / normalizer.std).expand(4, 3))
    assert made == ["follow", "standardize"]


def test_frozen_statistics_stay() -> None:
    normalizer = RunningNormalizer(3, frozen=True)
    x = th.randn(8, 3)
    normalizer.update(x)
    assert normalizer.num_batches == 0 and normalizer.mean.eq(0).all() and normalizer.var.eq(1).all()
    assert th.allclose(normalizer(x), x)
