import copy
import dataclasses
import importlib.util
import io
import itertools
import math
import os
import pickle
from collections.abc import Callable

import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_sparse.sparsity import (
    SparseLayer,
    SparseLinear,
    Topology,
    initialize_weight,
    prune,
    register_sparse_layer,
    share_topology,
    sparse_layers,
    summary,
    to_dense,
)
from sb3_sparse.sparsity import layers as layers_module
from sb3_sparse.sparsity.products import choice as products_module
from sb3_sparse.sparsity.products.choice import KERNEL_CROSSOVER, MKL_CROSSOVER, Crossover, Products

# Kind -> (dense layer, input of a batch).
LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "linear": (lambda **kw: nn.Linear(40, 30, **kw), (40,)),
    "conv": (lambda **kw: nn.Conv2d(4, 6, 3, padding=1, **kw), (4, 7, 6)),
    "strided circular conv": (
        lambda **kw: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), groups=2, padding=1, padding_mode="circular", **kw),
        (4, 7, 6),
    ),
    "same reflect conv": (lambda **kw: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect", **kw), (4, 7, 6)),
    "conv 1d": (lambda **kw: nn.Conv1d(4, 6, 3, stride=2, groups=2, **kw), (4, 9)),
    "conv 3d": (lambda **kw: nn.Conv3d(4, 6, 2, **kw), (4, 3, 4, 3)),
    "transposed conv 1d": (lambda **kw: nn.ConvTranspose1d(4, 6, 3, stride=2, **kw), (4, 5)),
    "transposed conv": (lambda **kw: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1, **kw), (4, 5, 4)),
    "transposed conv 3d": (lambda **kw: nn.ConvTranspose3d(4, 6, 2, dilation=2, **kw), (4, 3, 2, 3)),
}
TOLERANCE = {th.float64: 1e-12, th.float32: 1e-6}
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="the kernels need numba")
needs_mkl = pytest.mark.skipif(not th.backends.mkl.is_available(), reason="compressed rows need MKL")


@pytest.fixture(params=["linear", "conv"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


ALWAYS = Crossover(1.0, 1.0, 1.0, small_batch=10**9)
BACK_ENDS = [pytest.param("mkl", marks=needs_mkl), pytest.param("kernels", marks=needs_numba)]


def use(back_end: str, monkeypatch: pytest.MonkeyPatch, crossover: Crossover = ALWAYS) -> None:
    """Let linear layers multiply in one way, "dense" or that of a back end."""
    found = {"mkl": products_module._mkl, "kernels": products_module._kernels, "dense": lambda: None}[back_end]()
    assert back_end == "dense" or found.name == back_end
    chosen = found and dataclasses.replace(found, crossover=crossover)
    monkeypatch.setattr(products_module, "back_end_for", lambda topology: chosen)


@pytest.fixture(params=["dense", *BACK_ENDS])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the ways a linear layer multiplies in."""
    use(request.param, monkeypatch)
    return request.param


def make(
    kind: str, sparsity: float = 0.7, dtype: th.dtype = th.float32, seed: int = 0, **kwargs
) -> tuple[SparseLayer, nn.Module]:
    """A sparse layer, and the dense one with a mask applied that it was made from."""
    th.manual_seed(seed)
    dense = LAYERS[kind][0](dtype=dtype, **kwargs)
    sparse = prune(copy.deepcopy(dense), sparsity, budget="weights")
    assert isinstance(sparse, SparseLayer)
    with th.no_grad():
        dense.weight.mul_(sparse.topology.mask())
    return sparse, dense


def inactive(layer: SparseLayer) -> th.Tensor:
    """What the layer multiplies with at inactive positions, by its weight and by its dense copy."""
    off = ~layer.topology.mask()
    assert off.any()
    return th.stack([layer.weight[off], to_dense(layer).weight[off]])


def assert_close(actual: th.Tensor, expected: th.Tensor, slack: float = 1.0) -> None:
    """Equal up to rounding, relative to the largest entry; long sums need some slack."""
    assert actual.shape == expected.shape
    scale = max(expected.abs().max().item(), 1e-30) if expected.numel() else 1.0
    assert (actual - expected).abs().max().item() <= slack * TOLERANCE[expected.dtype] * scale if expected.numel() else True


def compare_with_dense(sparse: SparseLayer, dense: nn.Module, x: th.Tensor, slack: float = 1.0) -> None:
    """Outputs and all gradients of the masked dense layer."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for _ in range(2)]
    outputs = [layer(input) for layer, input in zip((sparse, dense), inputs, strict=True)]
    assert_close(outputs[0], outputs[1], slack)
    grad = th.randn_like(outputs[1])
    for output in outputs:
        output.backward(grad)
    assert_close(inputs[0].grad, inputs[1].grad, slack)
    assert_close(sparse.values.grad, sparse.topology.gather(dense.weight.grad), slack)
    if dense.bias is not None:
        assert_close(sparse.bias.grad, dense.bias.grad, slack)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [0, 1, 16, 256])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_outputs_and_gradients_are_those_of_the_masked_layer(layer: str, batch: int, bias: bool, dtype: th.dtype) -> None:
    sparse, dense = make(layer, dtype=dtype, bias=bias)
    compare_with_dense(sparse, dense, th.randn(batch, *LAYERS[layer][1], dtype=dtype))


@pytest.mark.parametrize("layer", list(LAYERS))
def test_units_of_a_layer_are_its_outputs(layer: str) -> None:
    sparse, _ = make(layer, dtype=th.float64, sparsity=0.95)
    outputs = sparse(th.randn(16, *LAYERS[layer][1], dtype=th.float64))
    axis = -1 if layer == "linear" else 1
    varies = (outputs - sparse(th.zeros(1, *LAYERS[layer][1], dtype=th.float64))).abs().movedim(axis, 0).flatten(1).amax(dim=1)
    assert summary(sparse)[""].units_without_input == int((varies == 0).sum())
    masked = sparse.by_unit(sparse.weight.detach()).abs().amax(dim=1) > 0
    assert th.equal(masked, varies > 0)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (16, 40), (256, 40), (3, 5, 40), (2, 1, 4, 40)])
def test_both_products_agree_with_the_masked_layer(product: str, shape: tuple[int, ...], bias: bool, dtype: th.dtype) -> None:
    sparse, dense = make("linear", dtype=dtype, bias=bias)
    compare_with_dense(sparse, dense, th.randn(shape, dtype=dtype))


@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: x[::2],
        lambda x: x.repeat(1, 2)[:, 40:],
        lambda x: x[:1].expand(9, 40),
        lambda x: x.reshape(3, 4, 40).transpose(0, 1),
    ],
    ids=["transposed", "steps", "columns", "expanded", "swapped"],
)
def test_products_take_any_memory_layout(product: str, strided) -> None:
    sparse, dense = make("linear")
    x = strided(th.randn(12, 40))
    assert_close(sparse(x), dense(x))
    for layer in (sparse, dense):
        layer(x).sum().backward()  # whose gradient is an expanded scalar
    assert_close(sparse.values.grad, sparse.topology.gather(dense.weight.grad))


def test_products_return_what_can_be_viewed(product: str) -> None:
    sparse, dense = make("linear")
    x = th.randn(3, 4, 40)
    assert_close(sparse(x).view(-1), dense(x).view(-1))
    assert_close(sparse(x[0]).view(60, 2), dense(x[0]).view(60, 2))


@pytest.mark.parametrize("frozen", ["input", "values", "bias"])
def test_frozen_tensors_get_no_gradient(product: str, frozen: str) -> None:
    sparse, _ = make("linear")
    x = th.randn(5, 40, requires_grad=True)
    tensors = {"input": x, "values": sparse.values, "bias": sparse.bias}
    tensors[frozen].requires_grad_(False)
    sparse(x).sum().backward()
    assert {name: tensor.grad is None for name, tensor in tensors.items()} == {name: name == frozen for name in tensors}


def test_gradients_accumulate(product: str) -> None:
    sparse, dense = make("linear")
    x = th.randn(5, 40)
    for layer in (sparse, dense):
        output = layer(x).square().sum()
        output.backward(retain_graph=True)
        output.backward()
    assert_close(sparse.values.grad, sparse.topology.gather(dense.weight.grad))


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_can_be_differentiated(product: str, bias: bool) -> None:
    # A gradient penalty: the norm of a gradient, trained. That of the weight is masked in the dense layer.
    sparse, dense = make("linear", dtype=th.float64, bias=bias)
    x = th.randn(5, 40, dtype=th.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for layer, input in zip((sparse, dense), inputs, strict=True):
        gradients = th.autograd.grad(layer(input).tanh().sum(), [input, *layer.parameters()], create_graph=True)
        if layer is dense:
            gradients = [gradients[0], gradients[1] * sparse.topology.mask(), *gradients[2:]]
        sum(gradient.square().sum() for gradient in gradients).backward()
    assert_close(inputs[0].grad, inputs[1].grad)
    assert_close(sparse.values.grad, sparse.topology.gather(dense.weight.grad))
    if bias:
        assert_close(sparse.bias.grad, dense.bias.grad)


def test_moving_between_forward_and_backward_keeps_the_gradient_of_the_forward(product: str) -> None:
    sparse, dense = make("linear")
    x, positions = th.randn(5, 40, requires_grad=True), sparse.indices.long()
    output = sparse(x)
    sparse.topology.assign(th.arange(sparse.topology.active))
    output.sum().backward()
    dense(x.detach()).sum().backward()
    assert_close(x.grad, dense.weight.sum(0).expand(5, 40))
    assert_close(sparse.values.grad, dense.weight.grad.flatten()[positions])


def test_per_sample_gradients(kind: str) -> None:
    sparse, dense = make(kind)
    x = th.randn(6, *LAYERS[kind][1])

    def gradients(layer: nn.Module, parameter: str) -> th.Tensor:
        def loss(value: th.Tensor, sample: th.Tensor) -> th.Tensor:
            return th.func.functional_call(layer, {parameter: value}, (sample.unsqueeze(0),)).square().sum()

        return th.func.vmap(th.func.grad(loss), (None, 0))(layer.get_parameter(parameter).detach(), x)

    expected = gradients(dense, "weight")
    assert_close(gradients(sparse, "values"), th.stack([sparse.topology.gather(sample) for sample in expected]))


@pytest.mark.parametrize(
    "transform",
    [
        th.func.jacrev,
        th.func.hessian,
        lambda function: th.func.vmap(th.func.grad(function)),
        lambda function: th.func.grad(lambda x: th.func.grad(function)(x).square().sum()),
    ],
    ids=["jacrev", "hessian", "vmap", "nested"],
)
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_transforms_leave_nothing_behind(kind: str, transform, used_before: bool) -> None:
    sparse, dense = make(kind, dtype=th.float64)
    x = th.randn(3, *LAYERS[kind][1], dtype=th.float64)
    if used_before:
        sparse(x)
    functions = [lambda x, layer=layer: layer(x).sin().sum() for layer in (sparse, dense)]
    first, second = (transform(functions[0])(x) for _ in range(2))
    assert th.equal(first, second)
    assert_close(first, transform(functions[1])(x), slack=10)
    compare_with_dense(sparse, dense, x)


def test_autocast(kind: str) -> None:
    sparse, dense = make(kind, sparsity=0.9)
    x = th.randn(64, *LAYERS[kind][1])
    with th.autocast("cpu", dtype=th.bfloat16):
        outputs = sparse(x), dense(x)
    assert outputs[0].dtype == th.bfloat16
    assert th.equal(*outputs)
    for output in outputs:
        output.float().square().mean().backward()
    assert sparse.values.grad.dtype == th.float32
    expected = sparse.topology.gather(dense.weight.grad)
    assert th.allclose(sparse.values.grad, expected, rtol=2e-2, atol=1e-2 * expected.abs().max().item())


@pytest.mark.parametrize("mode", [th.no_grad, th.inference_mode])
def test_training_goes_on_after_acting_without_gradients(kind: str, mode) -> None:
    sparse, dense = make(kind)
    x = th.randn(3, *LAYERS[kind][1])
    with mode():
        output = sparse(x)
        assert not output.requires_grad
        assert_close(output, dense(x))
        sparse.set_topology(sparse.indices.clone(), sparse.values * 2)
        assert_close(sparse(x), 2 * dense(x) - dense(th.zeros_like(x)))
        sparse.set_topology(sparse.indices.clone(), sparse.values / 2)
    compare_with_dense(sparse, dense, x)


def test_layer_pruned_in_inference_mode_can_be_used() -> None:
    with th.inference_mode():
        layer = prune(nn.Linear(40, 30), 0.9)
        x = th.randn(2, 40)
        assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def optimizers() -> dict[str, Callable]:
    return {
        "AdamW": lambda p: th.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        "AdamW foreach": lambda p: th.optim.AdamW(p, lr=0.1, weight_decay=0.1, foreach=True),
        "AdamW fused": lambda p: th.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
        "SGD": lambda p: th.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    }


@pytest.mark.parametrize("optimizer", list(optimizers()))
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_training_is_that_of_the_masked_layer(layer: str, optimizer: str) -> None:
    # The dense twin is masked after every step, as the paper's code does it; optimizers are elementwise, so both agree.
    # Clipping is by the gradient of the active weights, for which the twin's is masked, too.
    sparse, dense = make(layer, dtype=th.float64)
    mask = sparse.topology.mask()
    steps = [optimizers()[optimizer](list(module.parameters())) for module in (sparse, dense)]
    for _ in range(5):
        x = th.randn(8, *LAYERS[layer][1], dtype=th.float64)
        for module, step in zip((sparse, dense), steps, strict=True):
            step.zero_grad()
            (module(x) - 1).square().mean().backward()
            if module is dense:
                dense.weight.grad.mul_(mask)
            nn.utils.clip_grad_norm_(module.parameters(), 0.05)
            step.step()
        with th.no_grad():
            dense.weight.mul_(mask)
    assert (inactive(sparse) == 0).all()
    assert_close(sparse.weight, dense.weight)
    assert_close(sparse.bias, dense.bias)
    assert steps[0].state[sparse.values], "the optimizer holds the active weights"
    assert all(v.numel() in (1, sparse.topology.active) for v in steps[0].state[sparse.values].values())


def saved_and_loaded(layer: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    th.save(layer, buffer)
    buffer.seek(0)
    return th.load(buffer, weights_only=False)


def loaded_into_another(layer: nn.Module) -> nn.Module:
    (kind,) = {kind for kind in ("linear", "conv") if type(layer).__name__.lower().startswith(f"sparse{kind}")}
    other, _ = make(kind, seed=1, dtype=layer.values.dtype)
    assert not th.equal(other.indices, layer.indices)
    other(th.randn(2, *LAYERS[kind][1]))  # what is derived from its indices exists by now
    other.load_state_dict(layer.state_dict())
    return other


TRANSFERS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "save": saved_and_loaded,
    "state_dict": loaded_into_another,
    "double": lambda layer: copy.deepcopy(layer).double().float(),
}


@pytest.mark.parametrize("transfer", list(TRANSFERS))
def test_copies_are_the_same_layer(kind: str, transfer: str, product: str) -> None:
    sparse, _ = make(kind)
    x = th.randn(4, *LAYERS[kind][1])
    expected = sparse(x)
    twin = TRANSFERS[transfer](sparse)
    assert type(twin) is type(sparse)
    assert th.equal(twin.weight, sparse.weight)
    assert th.equal(twin.topology.mask(), sparse.topology.mask())
    assert th.equal(twin(x), expected)
    # And it lives on its own.
    twin.set_topology(th.arange(twin.topology.active), th.zeros(twin.topology.active))
    assert th.equal(sparse(x), expected)


@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16, th.float64])
def test_layers_change_their_type(kind: str, dtype: th.dtype) -> None:
    sparse, dense = make(kind)
    sparse, dense = sparse.to(dtype), dense.to(dtype)
    x = th.randn(2, *LAYERS[kind][1], dtype=dtype)
    assert th.equal(sparse.weight, dense.weight)
    assert sparse(x).dtype == dtype
    assert th.allclose(sparse(x), dense(x), rtol=1e-2, atol=1e-2)
    assert sparse.indices.dtype == th.int32


def test_target_follows_by_polyak_update(kind: str, product: str) -> None:
    online, _ = make(kind)
    target = copy.deepcopy(to_dense(online))
    share_topology(online, target)
    with th.no_grad():
        target.values.normal_()
    x = th.randn(4, *LAYERS[kind][1])
    start, end = target(x), online(x)
    polyak_update(online.parameters(), target.parameters(), 0.25)
    assert_close(target(x), 0.75 * start + 0.25 * end)
    assert (inactive(target) == 0).all()
    polyak_update(online.parameters(), target.parameters(), 1.0)
    assert th.equal(target(x), end)


def test_set_topology_moves_the_weights(kind: str, product: str) -> None:
    sparse, dense = make(kind)
    x = th.randn(3, *LAYERS[kind][1])
    sparse(x)
    parameter, moved = sparse.values, Topology.random(sparse.topology.shape, sparse.topology.active)
    values = th.randn(moved.active)
    sparse.set_topology(moved.indices, values)
    assert sparse.values is parameter
    assert th.equal(sparse.weight, moved.scatter(values))
    with th.no_grad():
        dense.weight.copy_(moved.scatter(values))
    compare_with_dense(sparse, dense, x)


@pytest.mark.parametrize("values", [(), (5,), (1, 9), "two"])
def test_set_topology_refuses_values_that_do_not_fit(values) -> None:
    layer = prune(nn.Linear(10, 3), 0.7, budget="weights")
    before = copy.deepcopy(layer.state_dict())
    tensors = [th.zeros(9), th.zeros(9)] if values == "two" else [th.zeros(values)]
    with pytest.raises(ValueError, match=r"shapes \[\(9,\)\]"):
        layer.set_topology(th.arange(9), *tensors)
    assert all(map(th.equal, layer.state_dict().values(), before.values()))
    with pytest.raises(ValueError, match="increase strictly"):
        layer.set_topology(th.arange(9).flip(0), th.zeros(9))
    assert all(map(th.equal, layer.state_dict().values(), before.values()))


@pytest.mark.parametrize("bias", [True, False])
def test_reset_draws_what_the_dense_layer_would(kind: str, bias: bool) -> None:
    sparse, dense = make(kind, bias=bias)
    values, positions = sparse.values, sparse.indices.clone()
    sparse.register_forward_hook(lambda *_: None)
    for layer in (sparse, dense):
        th.manual_seed(5)
        layer.reset_parameters()
    assert sparse.values is values
    assert values.requires_grad
    assert th.equal(sparse.indices, positions)
    assert th.equal(sparse.weight, dense.weight * sparse.topology.mask())
    assert not bias or th.equal(sparse.bias, dense.bias)
    assert (inactive(sparse) == 0).all()


def test_reset_has_the_statistics_of_the_dense_layer() -> None:
    # Uniform within 1 / sqrt(fan in), not within what the active weights would suggest. The standard error of the standard
    # deviation of 20 000 uniform draws is 0.3 %, tolerated are 2 %.
    layer = prune(nn.Linear(1000, 200), 0.9, budget="weights")
    layer.reset_parameters()
    bound = 1 / math.sqrt(1000)
    assert layer.values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert 0.98 * bound < layer.values.abs().max().item() <= bound


def test_initializers_see_the_dense_shape(kind: str) -> None:
    sparse, dense = make(kind)
    for layer in (sparse, dense):
        th.manual_seed(3)
        initialize_weight(layer, nn.init.orthogonal_, gain=2.0)
    assert th.equal(sparse.weight, dense.weight * sparse.topology.mask())
    assert dense.weight.std() > 0
    assert sparse.values.requires_grad


def test_weight_cannot_be_replaced_unnoticed(kind: str) -> None:
    sparse, _ = make(kind)
    with pytest.raises((AttributeError, KeyError)):
        sparse.weight = nn.Parameter(th.zeros(sparse.topology.shape))
    with pytest.raises(AttributeError):
        sparse.weight = th.zeros(sparse.topology.shape)


def test_dense_gradient_is_that_of_all_positions(kind: str) -> None:
    sparse, dense = make(kind, sparsity=0.9)
    sparse.record_dense_gradient()
    for scale in (1.0, 2.0):  # summed over backward passes
        x = scale * th.randn(2, *LAYERS[kind][1])
        for layer in (sparse, dense):
            layer(x).square().sum().backward()
    assert_close(sparse.dense_gradient, dense.weight.grad)
    assert sparse.dense_gradient[~sparse.topology.mask()].abs().min() > 0
    assert_close(sparse.values.grad, sparse.topology.gather(dense.weight.grad))
    sparse.record_dense_gradient(False)
    sparse(x).sum().backward()
    assert sparse.dense_gradient is None


def test_memory_scales_with_the_active_weights() -> None:
    dense = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Conv2d(300, 40, 3))
    sizes = {}
    for sparsity in (0.0, 0.5, 0.9):
        module = prune(copy.deepcopy(dense), sparsity, distribution="uniform")
        optimizer = th.optim.AdamW(module.parameters())
        for parameter in module.parameters():
            parameter.grad = th.zeros_like(parameter)
        optimizer.step()
        buffer, moments = io.BytesIO(), [v.numel() for state in optimizer.state.values() for v in state.values() if v.ndim]
        th.save(module.state_dict(), buffer)
        sizes[sparsity] = sum(p.numel() for p in module.parameters()), sum(moments), len(buffer.getvalue()) / 4
        assert sizes[sparsity][0] == summary(module).active
    total = sizes[0.0][0]
    for sparsity, (parameters, moments, saved) in sizes.items():
        assert parameters == pytest.approx((1 - sparsity) * total, rel=0.02)
        assert moments == 2 * parameters
        # A value and its index, 4 bytes each.
        assert saved == pytest.approx((2 if sparsity else 1) * parameters, rel=0.1)


@pytest.mark.parametrize("strict", [True, False])
def test_dense_checkpoint_is_refused_with_the_remedy(kind: str, strict: bool) -> None:
    sparse, dense = make(kind)
    with pytest.raises(RuntimeError, match=r"the checkpoint holds a dense weight: build the model with sparsity 0"):
        nn.ModuleDict({"layer": sparse}).load_state_dict(nn.ModuleDict({"layer": dense}).state_dict(), strict=strict)


def test_checkpoint_of_another_sparsity_is_refused(kind: str) -> None:
    sparse, other = make(kind)[0], make(kind, sparsity=0.5)[0]
    with pytest.raises(RuntimeError, match="Build the model with the sparsity"):
        sparse.load_state_dict(other.state_dict())


def test_checkpoint_of_another_shape_is_refused() -> None:
    one, other = (prune(nn.Linear(*shape, bias=False), 0.5) for shape in ((8, 6), (6, 8)))
    assert one.topology.active == other.topology.active
    with pytest.raises(RuntimeError, match="does not fit"):
        one.load_state_dict(other.state_dict())


def test_layer_describes_itself(kind: str) -> None:
    sparse, dense = make(kind)
    sparsity = 1 - sparse.topology.active / dense.weight.numel()
    assert dense.extra_repr() in repr(sparse)
    assert f"sparsity={sparsity:.4f}" in repr(sparse)


class Noisy(nn.Module):
    """A linear layer with two weights, a mean and a scale, which one mask is to cover."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_mu = nn.Parameter(th.empty(out_features, in_features))
        self.weight_sigma = nn.Parameter(th.empty(out_features, in_features))
        self.bias_mu = nn.Parameter(th.empty(out_features))
        self.register_buffer("noise", th.randn(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.weight_mu.data.uniform_(-1, 1)
        self.weight_sigma.data.fill_(0.5)
        self.bias_mu.data.uniform_(-1, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return F.linear(x, self.weight_mu + self.weight_sigma * self.noise, self.bias_mu)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class SparseNoisy(SparseLayer):
    dense_type = Noisy
    value_names = {"weight_mu": "values", "weight_sigma": "sigma_values"}  # noqa: RUF012

    def forward(self, x: th.Tensor) -> th.Tensor:
        values = self.values + self.sigma_values * self.topology.gather(self.noise)
        return F.linear(x, self.scatter(values), self.bias_mu)


@pytest.fixture
def noisy() -> nn.Sequential:
    return nn.Sequential(Noisy(20, 30), nn.ReLU(), nn.Linear(30, 20))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "_SPARSE_TYPES", dict(layers_module._SPARSE_TYPES))
    assert register_sparse_layer(SparseNoisy) is SparseNoisy


@pytest.mark.parametrize("budget", ["all", "weights"])
def test_registered_layer_has_all_its_weights_under_one_mask(noisy: nn.Sequential, budget: str) -> None:
    dense, sparse = copy.deepcopy(noisy), prune(noisy, 0.8, budget=budget)
    layer, twin = sparse[0], dense[0]
    mask = layer.topology.mask()
    assert list(dict(layer.named_parameters())) == ["values", "sigma_values", "bias_mu"]
    figures = summary(sparse)
    assert figures["0.weight_mu"] == figures["0.weight_sigma"]
    counted = figures if budget == "all" else [figures[name] for name in ("0.weight_mu", "0.weight_sigma", "2")]
    total = figures.total if budget == "all" else sum(layer.total for layer in counted)
    active = figures.active if budget == "all" else sum(layer.active for layer in counted)
    assert active == pytest.approx(0.2 * total, abs=3)
    with th.no_grad():
        twin.weight_mu.mul_(mask)
        twin.weight_sigma.mul_(mask)
    layer.record_dense_gradient()
    x = th.randn(4, 20)
    for module in (layer, twin):
        module(x).square().sum().backward()
    assert_close(layer(x), twin(x))
    for name, values in SparseNoisy.value_names.items():
        assert_close(layer.get_parameter(values).grad, layer.topology.gather(twin.get_parameter(name).grad))
    assert_close(layer.dense_gradient, twin.weight_mu.grad)


def test_registered_layer_can_do_what_layers_can(noisy: nn.Sequential) -> None:
    keys = list(noisy.state_dict())
    sparse = prune(noisy, 0.8)
    layer, x = sparse[0], th.randn(4, 20)
    dense = to_dense(sparse)
    assert type(dense[0]) is Noisy
    assert list(dense.state_dict()) == keys
    assert_close(dense(x), sparse(x))
    th.manual_seed(2)
    layer.reset_parameters()
    th.manual_seed(2)
    dense[0].reset_parameters()
    assert_close(layer(x), to_dense(sparse)[0](x))
    assert th.equal(layer.values, layer.topology.gather(dense[0].weight_mu))
    assert th.equal(layer.bias_mu, dense[0].bias_mu)
    count = layer.topology.active
    with pytest.raises(ValueError, match="shapes"):
        layer.set_topology(th.arange(count), th.ones(count))
    layer.set_topology(th.arange(count), th.ones(count), th.full((count,), 2.0))
    assert to_dense(sparse)[0].weight_sigma.flatten().tolist() == [2.0] * count + [0.0] * (600 - count)
    with pytest.raises(RuntimeError, match="holds a dense weight_mu"):
        sparse.load_state_dict(dense.state_dict())
    twin = copy.deepcopy(sparse)
    twin.load_state_dict(saved_and_loaded(sparse).state_dict())
    assert th.equal(twin(x), sparse(x))
    assert [name for name, _ in sparse_layers(sparse)] == ["0", "2"]


CHOICES = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "".join("dc"[part] for part in choice))
def test_every_product_can_be_made_by_itself(monkeypatch, back_end: str, choice: tuple[bool, bool, bool]) -> None:
    # Densities up to 1 or none at all.
    use(back_end, monkeypatch, Crossover(*map(float, choice), small_batch=0))
    sparse, dense = make("linear", dtype=th.float64)
    compare_with_dense(sparse, dense, th.randn(9, 40, dtype=th.float64))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("choice", CHOICES[1:], ids=lambda choice: "".join("dc"[part] for part in choice))
def test_gradients_are_finite_differences(monkeypatch, back_end: str, choice: tuple[bool, bool, bool]) -> None:
    use(back_end, monkeypatch, Crossover(*map(float, choice), small_batch=0))
    layer = prune(nn.Linear(11, 7, dtype=th.float64), 0.6)
    x = th.randn(4, 11, dtype=th.float64, requires_grad=True)

    def outputs(x: th.Tensor, values: th.Tensor, bias: th.Tensor) -> th.Tensor:
        result = products_module.sparse_linear(x, values, bias, layer.topology)
        assert result is not None
        return result

    assert th.autograd.gradcheck(outputs, (x, layer.values, layer.bias))
    assert th.autograd.gradgradcheck(outputs, (x, layer.values, layer.bias))


def test_gradients_of_several_outputs_at_a_time(product: str) -> None:
    sparse, dense = make("linear", dtype=th.float64)
    x, outer = th.randn(5, 40, dtype=th.float64), th.randn(3, 5, 30, dtype=th.float64)
    gradients = []
    for layer in (sparse, dense):
        input = x.clone().requires_grad_()
        weight = layer.values if layer is sparse else layer.weight
        gradients.append(th.autograd.grad(layer(input), [input, weight, layer.bias], outer, is_grads_batched=True))
    (inputs, values, biases), expected = gradients
    assert_close(inputs, expected[0])
    assert_close(values, th.stack([sparse.topology.gather(weight) for weight in expected[1]]))
    assert_close(biases, expected[2])


@pytest.mark.parametrize(
    "misfit",
    [
        lambda layer: layer(th.randn(3, 39)),
        lambda layer: layer(th.randn(41)),
        lambda layer: layer(th.randn(3, 40).to("meta")),
        lambda layer: layer(th.randn(3, 40, dtype=th.float64)),
        lambda layer: layer(th.ones(3, 40, dtype=th.int64)),
        lambda layer: th.func.functional_call(layer, {"values": layer.values[1:]}, (th.randn(3, 40),)),
        lambda layer: th.func.functional_call(layer, {"bias": layer.bias[1:]}, (th.randn(3, 40),)),
        lambda layer: th.func.functional_call(layer, {"bias": layer.bias.double()}, (th.randn(3, 40),)),
    ],
    ids=["few features", "many features", "device", "type", "integers", "values", "bias", "type of bias"],
)
def test_what_does_not_fit_is_refused(product: str, misfit) -> None:
    with pytest.raises(RuntimeError):
        misfit(make("linear")[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sparse_layers_can_be_compiled(product: str) -> None:
    layer = prune(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), 0.5)
    compiled = th.compile(layer, backend="eager", fullgraph=True)
    for batch in (4, 7):
        x = th.randn(batch, 20)
        assert_close(compiled(x), layer(x), slack=5.0)


@needs_numba
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize(
    ("rows", "columns", "batch"),
    [
        (1, 1, 1),
        (1, 3000, 5),
        (65, 17, 129),  # a panel of rows, a tile of samples and one more
        (64, 16, 128),
        (130, 1025, 3),  # a block of columns and one more
        (97, 2500, 200),
        (15, 31, 47),
    ],
)
def test_kernels_cover_all_of_a_matrix(monkeypatch, rows: int, columns: int, batch: int, dtype: th.dtype) -> None:
    use("kernels", monkeypatch)
    th.manual_seed(0)
    dense = nn.Linear(columns, rows, dtype=dtype)
    sparse = SparseLinear.convert(copy.deepcopy(dense), Topology.random((rows, columns), max(1, rows * columns // 3)))
    with th.no_grad():
        dense.weight.mul_(sparse.topology.mask())
    compare_with_dense(sparse, dense, th.randn(batch, columns, dtype=dtype), slack=5.0)


@needs_numba
@pytest.mark.parametrize("batch", [1, 200])
def test_kernels_leave_memory_beside_their_results_alone(batch: int) -> None:
    from sb3_sparse.sparsity.products import kernel_products

    layer = prune(nn.Linear(70, 37), 0.5)
    x, room, allocated = th.randn(batch, 70), 4_096, []

    def new_empty(like: th.Tensor, *shape: int) -> th.Tensor:
        size = math.prod(shape)
        allocated.append(th.full((size + 2 * room,), 7.0))
        return allocated[-1][room : room + size].view(shape)

    expected = layer(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(th.Tensor, "new_empty", new_empty)
        rows = kernel_products.rows_of(layer.topology, with_transpose=True)
        outputs = kernel_products.multiply(x, layer.values.detach(), layer.bias.detach(), rows)
        kernel_products.input_gradient(outputs, layer.values.detach(), rows)
        kernel_products.weight_gradient(outputs, x, rows)
    assert_close(outputs, expected)
    assert len(allocated) >= 3
    for memory in allocated:
        assert (memory[:room] == 7.0).all()
        assert (memory[-room:] == 7.0).all()


@needs_numba
def test_threads_change_nothing(monkeypatch) -> None:
    from sb3_sparse.sparsity.products import kernel_products

    monkeypatch.setattr(kernel_products, "WORK_PER_THREAD", 1)
    use("kernels", monkeypatch)
    layer, x, results, before = (
        prune(nn.Linear(300, 400), 0.7),
        th.randn(70, 300, requires_grad=True),
        [],
        th.get_num_threads(),
    )
    shares = []
    run = kernel_products._multiply_tiles
    monkeypatch.setattr(kernel_products, "_multiply_tiles", lambda *args: shares.append(args[-2:]) or run(*args))
    try:
        for threads in (1, 2, 3):
            th.set_num_threads(threads)
            output = layer(x)
            results.append([output, *th.autograd.grad(output.square().sum(), [x, *layer.parameters()])])
    finally:
        th.set_num_threads(before)
    ranges = {400: [(0, 400), (0, 200), (200, 400), (0, 133), (133, 266), (266, 400)]}
    ranges[300] = [(0, 300), (0, 150), (150, 300), (0, 100), (100, 200), (200, 300)]
    assert sorted(shares) == sorted([*ranges[400], *ranges[300]])
    for other in results[1:]:
        assert all(map(th.equal, results[0], other))


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_kernels_run_in_a_forked_process(monkeypatch) -> None:
    # Threads that were started before the fork do not live on in the child.
    from sb3_sparse.sparsity.products import kernel_products

    monkeypatch.setattr(kernel_products, "WORK_PER_THREAD", 1)
    use("kernels", monkeypatch)
    layer, x, before = prune(nn.Linear(128, 256), 0.7), th.randn(20, 128), th.get_num_threads()
    try:
        th.set_num_threads(2)
        with th.no_grad():
            expected = layer(x)
            process = os.fork()
            if process == 0:
                # Not a return or an exception, either of which would go on with the tests in the child.
                os._exit(0 if th.equal(layer(x), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    finally:
        th.set_num_threads(before)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("sparsity", "batch"), [(0.1, 1), (0.1, 64), (0.9, 64)])
def test_active_weights_are_multiplied_where_it_pays(monkeypatch, back_end: str, sparsity: float, batch: int) -> None:
    use(back_end, monkeypatch, {"mkl": MKL_CROSSOVER, "kernels": KERNEL_CROSSOVER}[back_end])
    layer, calls = prune(nn.Linear(40, 30), sparsity, budget="weights"), []
    module = products_module.back_end_for(layer.topology).module
    for name in ("multiply", "input_gradient", "weight_gradient"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    layer(th.randn(batch, 40, requires_grad=True)).sum().backward()
    few = sparsity > 0.5 or batch == 1
    assert calls == (["multiply", "input_gradient", "weight_gradient"] if few else [])
    # Where they cannot be used, the layer works all the same.
    calls.clear()
    copy.deepcopy(layer).bfloat16()(th.randn(1, 40, dtype=th.bfloat16))
    assert layer(th.randn(0, 40)).shape == (0, 30)
    assert layer(th.randn(1, 40).as_subclass(Subclass)).shape == (1, 30)
    layer.record_dense_gradient()
    layer(th.randn(1, 40))
    assert not calls


class Subclass(th.Tensor):
    """Numbers that somebody follows through torch's operations."""


def test_crossovers_are_per_product() -> None:
    crossover = Crossover(0.5, 0.3, 0.1, small_batch=8)
    assert [crossover.products(density, 256) for density in (0.6, 0.4, 0.2, 0.1)] == [
        Products(False, False, False),
        Products(True, False, False),
        Products(True, True, False),
        Products(True, True, True),
    ]
    assert crossover.products(0.9, 8) == Products(True, True, True)


@pytest.mark.parametrize("available", ["kernels", "mkl", "nothing"])
def test_what_is_installed_is_used(monkeypatch, available: str) -> None:
    if available != "kernels":
        monkeypatch.setattr(products_module, "_kernels", lambda: None)
    if available == "nothing":
        monkeypatch.setattr(products_module, "_mkl", lambda: None)
    found = products_module.back_end_for(Topology.random((5, 5), 3))
    installed = {"kernels": importlib.util.find_spec("numba") is not None, "mkl": th.backends.mkl.is_available()}
    assert (found and found.name) == (available if installed.get(available) else found and "mkl")
    assert available != "nothing" or found is None
    sparse, dense = make("linear")
    compare_with_dense(sparse, dense, th.randn(3, 40))


@needs_numba
def test_kernels_are_not_for_huge_matrices() -> None:
    wide = Topology.random((2, 2**16 + 1), 100)
    found = products_module.back_end_for(wide)
    assert found is None or found.name == "mkl"
    layer = SparseLinear.convert(nn.Linear(2**16 + 1, 2), wide)
    x = th.randn(3, 2**16 + 1)
    assert_close(layer(x), to_dense(layer)(x))


def test_numba_that_does_not_load_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(products_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(products_module.importlib, "import_module", lambda name: raise_import_error("Numba needs NumPy 2.3"))
    with pytest.warns(RuntimeWarning, match=r"numba cannot be used \(Numba needs NumPy 2.3\)"):
        assert products_module._kernels.__wrapped__() is None


def raise_import_error(message: str) -> None:
    raise ImportError(message)


def test_kernels_can_be_switched_off(monkeypatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert products_module._kernels.__wrapped__() is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_sparse_layers_can_be_traced(product: str) -> None:
    # A trace that held the product of one input as a constant would ignore the next one.
    layer = prune(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), 0.5).eval()
    with th.no_grad():
        traced = th.jit.trace(layer, (th.randn(4, 20),), check_trace=False)
        batch = th.randn(4, 20)
        th.testing.assert_close(traced(batch), layer(batch))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("used_before", [False, True])
def test_traces_can_be_saved(kind: str, used_before: bool, product: str) -> None:
    layer = make(kind)[0].eval()
    batch = th.randn(4, *LAYERS[kind][1])
    if used_before:
        layer(batch)
    buffer = io.BytesIO()
    th.jit.save(th.jit.trace(layer, (th.randn_like(batch),)), buffer)
    buffer.seek(0)
    th.testing.assert_close(th.jit.load(buffer)(batch), layer(batch))
    layer(batch).sum().backward()  # nothing of the trace is left


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_is_refused_with_the_remedy(kind: str) -> None:
    layer = nn.Sequential(make(kind)[0])
    with pytest.raises(RuntimeError, match="to_dense"):
        th.jit.script(layer)
    batch = th.randn(4, *LAYERS[kind][1])
    th.testing.assert_close(th.jit.script(to_dense(layer))(batch), layer(batch))


@pytest.mark.filterwarnings("ignore:.*assigned during export")
@pytest.mark.parametrize("used_before", [False, True])
def test_sparse_layers_can_be_exported(kind: str, used_before: bool) -> None:
    layer = nn.Sequential(make(kind)[0]).eval()
    batch = th.randn(4, *LAYERS[kind][1])
    if used_before:
        layer(batch)
    exported = th.export.export(layer, (batch,)).module()
    th.testing.assert_close(exported(batch), layer(batch))


def test_default_device_is_not_that_of_the_layer(kind: str, product: str) -> None:
    dense = LAYERS[kind][0]()
    twin, batch = copy.deepcopy(dense), th.randn(50, *LAYERS[kind][1])  # on the CPU
    expected = prune(twin, 0.8, budget="weights", generator=th.Generator().manual_seed(0))
    expected(batch).sum().backward()
    with th.device("meta"):
        layer = prune(dense, 0.8, budget="weights", generator=th.Generator().manual_seed(0))
        layer(batch).sum().backward()
        to_dense(layer), summary(layer), layer.reset_parameters()
        layer.set_topology(layer.indices, layer.values.detach() + 1.0)
        layer.load_state_dict(expected.state_dict())
    assert th.equal(layer.values.grad, expected.values.grad)
    assert th.equal(layer(batch), expected(batch))
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"cpu"}


def test_default_device_set_after_construction(kind: str, product: str) -> None:
    layer, batch = make(kind)[0], th.randn(4, *LAYERS[kind][1])
    with th.device("meta"):
        output = layer(batch)
    assert th.equal(output, layer(batch))
