import copy
import io
import math
import pickle

import pytest
import torch as th
from torch import nn
from torch.nn.utils import prune as torch_prune

from sb3_sparse.networks import NoisyLinear
from sb3_sparse.sparsity import SparseConv2d, SparseLinear, allocate, prune, share_topology, sparse_layers, summary, to_dense


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 60), nn.LayerNorm(60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 30))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(50), nn.Linear(50, 70), nn.ReLU(), nn.Linear(70, 50))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.inner(x)


class Shared(nn.Module):
    """One layer under two names, and in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(30, 30)
        self.second = self.first
        self.head = nn.Linear(30, 20)
        self.plain = [self.first, self.head]

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.plain[1](self.second(self.first(x).relu()))


class Tied(nn.Module):
    """Two layers with one weight, and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 20)
        self.second.weight = self.first.weight

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.head(self.second(self.first(x).relu()))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(30, 20, batch_first=True), nn.Linear(20, 200)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.head(self.gru(x)[0])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(90, 24), nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.attention(*[self.embed(x)] * 3)[0]


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(6, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4, padding="same", padding_mode="circular"),
        nn.Conv2d(16, 8, 2, dilation=2),
        nn.Flatten(),
        nn.Linear(8 * 2 * 2, 30),
    )


# Name -> (module, shape of its input, how many layers can be pruned).
MODULES = {
    "mlp": (mlp, (4, 20), 3),
    "root": (lambda: nn.Linear(30, 40), (4, 30), 1),
    "convolutional": (convolutional, (4, 6, 9, 9), 4),
    "residual": (lambda: nn.Sequential(nn.Linear(40, 50), Residual(), Residual()), (4, 40), 5),
    "shared": (Shared, (4, 30), 2),
    "tied": (Tied, (4, 30), 3),
    "recurrent": (Recurrent, (2, 5, 30), 1),
    "attention": (Attention, (2, 5, 90), 1),
    "transformer": (lambda: nn.TransformerEncoderLayer(24, 3, 60, batch_first=True, dropout=0.0), (2, 5, 24), 2),
}


@pytest.fixture(params=list(MODULES))
def network(request: pytest.FixtureRequest) -> str:
    return request.param


def make(network: str, seed: int = 0) -> tuple[nn.Module, th.Tensor]:
    th.manual_seed(seed)
    return MODULES[network][0](), th.randn(MODULES[network][1])


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def masks(module: nn.Module) -> dict[str, th.Tensor]:
    return {name: layer.topology.mask().cpu() for name, layer in sparse_layers(module)}


def masked(dense: nn.Module, pruned: nn.Module) -> nn.Module:
    """The dense module with the masks of the pruned one applied."""
    with th.no_grad():
        for name, mask in masks(pruned).items():
            weight = dense.get_submodule(name).weight
            weight.copy_(weight * mask)
    return dense


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- Any module


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_the_masked_module(network: str, training: bool) -> None:
    dense, x = make(network)
    pruned = prune(copy.deepcopy(dense), 0.3).train(training)
    assert len(list(sparse_layers(pruned))) == MODULES[network][2]
    dense = masked(dense, pruned).train(training)
    for module in (pruned, dense):
        module(x).square().mean().backward()
    assert th.allclose(pruned(x), dense(x), atol=1e-5)
    for name, parameter in pruned.named_parameters():
        twin = dense.get_parameter(name.replace("values", "weight"))
        if name.split(".")[-1] == "values":
            expected = pruned.get_submodule(name.rpartition(".")[0]).topology.gather(twin.grad)
        else:
            expected = twin.grad
        assert th.allclose(parameter.grad, expected, atol=1e-5), name
    with th.no_grad():  # where the transformer takes its fused path
        assert th.allclose(pruned(x), dense(x), atol=1e-5)


def test_to_dense_is_the_plain_module(network: str) -> None:
    module, x = make(network)
    state, kinds = module.state_dict(), [type(layer) for layer in module.modules()]
    pruned = prune(module, 0.3)
    dense = to_dense(pruned)
    assert list(sparse_layers(pruned)), "to_dense leaves its argument alone"
    assert [type(layer) for layer in dense.modules()] == kinds
    assert {key: tensor.shape for key, tensor in dense.state_dict().items()} == {k: t.shape for k, t in state.items()}
    assert list(dense.state_dict()) == list(state)
    assert len(list(dense.parameters())) == len(list(pruned.parameters())), "what was tied stays tied"
    assert th.allclose(dense.eval()(x), pruned.eval()(x), atol=1e-5)
    assert [p.requires_grad for p in dense.parameters()] == [p.requires_grad for p in pruned.parameters()]
    MODULES[network][0]().load_state_dict(dense.state_dict())
    for layer in dense.modules():
        assert not vars(layer).keys() & {"dense_gradient", "_records_dense_gradient"}


@pytest.mark.parametrize("budget", ["all", "weights"])
@pytest.mark.parametrize("distribution", ["erdos_renyi", "uniform"])
def test_the_allocated_number_of_weights_is_active(network: str, distribution: str, budget: str) -> None:
    dense = make(network)[0]
    options = {"distribution": distribution, "budget": budget}
    before = copy.deepcopy(dense.state_dict())
    active = allocate(dense, 0.35, **options)
    assert not list(sparse_layers(dense)) and all(map(th.equal, dense.state_dict().values(), before.values()))
    for seed in range(3):
        pruned = prune(copy.deepcopy(dense), 0.35, generator=generator(seed), **options)
        figures = summary(pruned)
        for name, number in active.items():
            layer = figures[name.rpartition(".")[0]]
            assert layer.active == number
        for name, mask in masks(pruned).items():
            assert mask.sum() == pruned.get_submodule(name).values.numel()
        if distribution == "erdos_renyi":
            total = count(dense) if budget == "all" else sum(dense.get_parameter(name).numel() for name in active)
            removed = count(dense) - count(pruned)
            # Half a weight per layer by rounding, one per parameter because zeros are counted in whole ones.
            assert removed == pytest.approx(0.35 * total, abs=0.5 * len(active) + len(before))
        else:
            sizes = {name: dense.get_parameter(name).numel() for name in active}
            assert active == {name: round(0.65 * size) for name, size in sizes.items()}


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9])
def test_the_whole_tree_has_the_sparsity(sparsity: float) -> None:
    dense = nn.Sequential(nn.Linear(67, 128), nn.Linear(128, 512), nn.LayerNorm(512), nn.Linear(512, 128), nn.Linear(128, 1))
    total = count(dense)
    assert 1 - count(prune(dense, sparsity)) / total == pytest.approx(sparsity, abs=1e-4)


def test_sparsity_zero_changes_nothing(network: str) -> None:
    module, _ = make(network)
    before, state = copy.deepcopy(module), dict(module.named_parameters())
    assert prune(module, 0.0) is module
    assert [type(layer) for layer in module.modules()] == [type(layer) for layer in before.modules()]
    assert all(parameter is state[name] for name, parameter in module.named_parameters())
    assert all(map(th.equal, module.state_dict().values(), before.state_dict().values()))


def test_kept_weights_are_not_rescaled(network: str) -> None:
    dense, _ = make(network)
    pruned = prune(copy.deepcopy(dense), 0.3)
    for name, layer in sparse_layers(pruned):
        weight = dense.get_submodule(name).weight
        assert th.equal(layer.weight, weight * layer.topology.mask())
        assert 0 < layer.values.numel() < weight.numel()


# --- Masks


def test_masks_follow_the_seed(network: str) -> None:
    first, again, other = (masks(prune(make(network)[0], 0.3, generator=generator(seed))) for seed in (0, 0, 1))
    assert all(map(th.equal, first.values(), again.values()))
    assert not any(map(th.equal, first.values(), other.values()))


def test_masks_follow_the_default_generator() -> None:
    draws = []
    for seed in (0, 0, 1):
        module = mlp()
        th.manual_seed(seed)
        draws.append(masks(prune(module, 0.5))["3"])
    assert th.equal(draws[0], draws[1])
    assert not th.equal(draws[0], draws[2])


def test_layers_have_masks_of_their_own() -> None:
    module = prune(nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30)), 0.5)
    first, second = masks(module).values()
    assert first.sum() == second.sum()
    assert not th.equal(first, second)


@pytest.mark.gpu
def test_masks_do_not_depend_on_the_device(network: str) -> None:
    dense, x = make(network)
    on_cpu = prune(copy.deepcopy(dense), 0.3, generator=generator()).eval()
    on_gpu = prune(copy.deepcopy(dense).to("cuda"), 0.3, generator=generator()).eval()
    assert all(map(th.equal, masks(on_cpu).values(), masks(on_gpu).values()))
    assert all(tensor.is_cuda for tensor in on_gpu.state_dict().values())
    assert th.allclose(on_gpu(x.to("cuda")).cpu(), on_cpu(x), atol=1e-2)


@pytest.mark.gpu
def test_generator_of_the_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="drawn on the CPU"):
        prune(mlp(), 0.5, generator=th.Generator("cuda"))


# --- What stays


def test_module_and_its_references_stay() -> None:
    module = Shared()
    head, bias, calls = module.head, module.head.bias, []
    head.register_forward_hook(lambda *_: calls.append("after"))
    head.register_forward_pre_hook(lambda *_: calls.append("before"))
    head.custom = "attribute"
    prune(module, 0.5)
    module(th.randn(2, 30))
    assert calls == ["before", "after"]
    assert module.head is head is module.plain[1]
    assert module.first is module.second is module.plain[0]
    assert isinstance(head, SparseLinear)
    assert head.bias is bias
    assert head.custom == "attribute"
    assert type(to_dense(module).head) is nn.Linear


def test_tied_weights_stay_tied() -> None:
    module = prune(Tied(), 0.5)
    assert module.first.values is module.second.values
    assert module.first.topology is module.second.topology
    assert module.first.bias is not module.second.bias
    dense = to_dense(module)
    assert dense.first.weight is dense.second.weight
    assert dense.first.bias is not dense.second.bias


def test_frozen_weights_stay_frozen() -> None:
    module = mlp()
    module[0].weight.requires_grad_(False)
    module[3].bias.requires_grad_(False)
    prune(module, 0.5)
    assert not module[0].values.requires_grad and module[0].bias.requires_grad
    assert module[3].values.requires_grad and not module[3].bias.requires_grad
    dense = to_dense(module)
    assert not dense[0].weight.requires_grad and dense[3].weight.requires_grad


def test_layer_types_and_parameter_order() -> None:
    module = prune(convolutional(), 0.5)
    assert isinstance(module[0], SparseConv2d) and module[0].bias is None
    assert isinstance(module[6], SparseLinear)
    names = [name for name, _ in convolutional().named_parameters()]
    sparse = {name for name, _ in sparse_layers(module)}
    expected = [name.replace("weight", "values") if name.rpartition(".")[0] in sparse else name for name in names]
    assert [name for name, _ in module.named_parameters()] == expected


def test_dtype_of_the_module_stays() -> None:
    module = prune(mlp().double(), 0.5)
    assert all(parameter.dtype == th.float64 for parameter in module.parameters())
    assert module(th.randn(2, 20, dtype=th.float64)).dtype == th.float64


@pytest.mark.parametrize("transfer", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_pruned_module_can_be_copied(network: str, transfer) -> None:
    module, x = make(network)
    pruned = prune(module, 0.3).eval()
    twin = transfer(pruned)
    assert th.equal(twin(x), pruned(x))
    assert [type(layer) for layer in twin.modules()] == [type(layer) for layer in pruned.modules()]
    assert len(list(twin.parameters())) == len(list(pruned.parameters()))


def test_state_loads_into_a_module_pruned_with_another_seed(network: str) -> None:
    module, x = make(network)
    pruned = prune(module, 0.3, generator=generator(1)).eval()
    other = prune(make(network, seed=5)[0], 0.3, generator=generator(2)).eval()
    other(x)
    buffer = io.BytesIO()
    th.save(pruned.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(th.load(buffer, weights_only=True))
    assert th.equal(other(x), pruned(x))
    assert all(map(th.equal, masks(other).values(), masks(pruned).values()))


# --- Skipping


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 20, 3), nn.Flatten(), nn.Linear(20, 60))
        self.mean, self.scale = nn.Linear(60, 20), nn.Linear(60, 20)
        self.alias = self.mean


@pytest.mark.parametrize(
    ("skip", "dense"),
    [
        ("mean", {"mean"}),
        (["mean", "scale"], {"mean", "scale"}),
        (("body",), {"body.0", "body.2"}),
        ("body.2", {"body.2"}),
        ("alias", {"mean"}),
        (nn.Conv2d, {"body.0"}),
        ([nn.Conv2d, "scale"], {"body.0", "scale"}),
        ([nn.Sequential], {"body.0", "body.2"}),
        ([nn.GRU], set()),
        (lambda name, layer: name.startswith("s"), {"scale"}),
        (lambda name, layer: name == "alias", {"mean"}),
        (lambda name, layer: getattr(layer, "out_features", 0) == 20, {"mean", "scale"}),
        ((), set()),
    ],
)
def test_skipped_layers_stay_dense(skip, dense: set[str]) -> None:
    layers = {"body.0", "body.2", "mean", "scale"}
    module = prune(TwoHeads(), 0.3, skip=skip)
    assert set(masks(module)) == layers - dense
    assert all(type(module.get_submodule(name)) in (nn.Linear, nn.Conv2d) for name in dense)
    # They count in the budget all the same.
    assert 1 - count(module) / count(TwoHeads()) == pytest.approx(0.3, abs=1e-3)


def test_modules_can_be_skipped() -> None:
    for given in (lambda module: module.mean, lambda module: [module.mean], lambda module: iter([module.mean])):
        module = TwoHeads()
        prune(module, 0.3, skip=given(module))
        assert set(masks(module)) == {"body.0", "body.2", "scale"}


def test_skip_may_be_an_iterator() -> None:
    module = prune(TwoHeads(), 0.3, skip=(name for name in ("mean", "scale")))
    assert set(masks(module)) == {"body.0", "body.2"}


def test_skipped_layers_do_not_count_among_the_weights() -> None:
    module = prune(TwoHeads(), 0.3, budget="weights", skip=["mean", "body"])
    assert module.scale.topology.active == round(0.7 * 60 * 20)


# --- Errors: each names its reason, and leaves the module as it was


def spectral() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.utils.spectral_norm(nn.Linear(30, 40)))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.utils.weight_norm(nn.Linear(30, 40)))


def torch_pruned() -> nn.Module:
    module = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 40))
    torch_prune.random_unstructured(module[1], "weight", 0.5)
    return module


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.LazyLinear(40))


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(20, 30), nn.Linear(30, 30), nn.Linear(30, 20)
        self.head.weight = self.embedding.weight


def tied_conv() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    module[1].weight = module[0].weight
    return module


def tied_noisy() -> nn.Module:
    module = nn.Sequential(nn.Linear(9, 9), NoisyLinear(9, 9))
    module[1].weight_mu = module[0].weight
    return module


REFUSALS = {
    "spectral norm": (spectral, {}, "'1' is computed by something else"),
    "weight norm": (weight_normed, {}, "'1' is computed by something else"),
    "torch.nn.utils.prune": (torch_pruned, {}, "'1' is computed by something else"),
    "lazy": (lazy, {}, r"'1.weight' is not initialised yet"),
    "tied embedding": (TiedEmbedding, {}, r"weight of 'head' \(Linear\) is tied to 'embedding' \(Embedding\), which is not"),
    "tied, one skipped": (tied_conv, {"skip": ["0"]}, r"'1' \(Conv2d\) is tied to '0' \(Conv2d\), which is not pruned along"),
    "tied to another type": (tied_noisy, {}, r"'0' \(Linear\) is tied to '1' \(NoisyLinear\), which is not pruned along"),
    "unknown name": (mlp, {"skip": ["head"]}, "'head', but Sequential has no such"),
    "no layer": (lambda: nn.GRU(3, 4), {}, "GRU has no layer to prune"),
    "all skipped": (mlp, {"skip": nn.Linear}, "no layer to prune"),
    "too sparse": (mlp, {"sparsity": 0.999}, "stay dense"),
    "no weight left": (
        lambda: nn.Sequential(nn.Linear(5, 2), nn.Linear(100, 100)),
        {"sparsity": 0.99, "distribution": "uniform"},
        r"'0.weight' of shape \(2, 5\) would keep no weight",
    ),
    "not a fraction": (mlp, {"sparsity": 80}, "for 80 %"),
    "budget": (mlp, {"budget": "some"}, "'some': choose one of 'all', 'weights'"),
    "distribution": (mlp, {"distribution": "some"}, "'some': choose one of"),
    "pruned before": (lambda: prune(mlp(), 0.5), {}, "pruned already"),
    "pruned in part": (lambda: nn.Sequential(nn.Linear(9, 9), prune(nn.Linear(9, 9), 0.5)), {}, "pruned already .layer '1'"),
    "distribution of nonsense": (
        mlp,
        {"distribution": lambda shapes, sparsity, dense: dict.fromkeys(shapes, math.nan)},
        "The distribution gave '0.weight' the sparsity nan",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("refusal", list(REFUSALS))
def test_what_cannot_be_pruned_is_refused_and_left_alone(refusal: str) -> None:
    build, options, message = REFUSALS[refusal]
    module = build()
    parameters = [(name, id(parameter)) for name, parameter in module.named_parameters()]
    kinds = [type(layer) for layer in module.modules()]
    rng = generator()
    state = rng.get_state()
    with pytest.raises(ValueError, match=message):
        prune(module, **{"sparsity": 0.5, "generator": rng, **options})
    assert [(name, id(parameter)) for name, parameter in module.named_parameters()] == parameters
    assert [type(layer) for layer in module.modules()] == kinds
    assert th.equal(rng.get_state(), state)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("build", [spectral, weight_normed, torch_pruned, lazy, TiedEmbedding])
def test_sparsity_zero_needs_nothing_that_can_be_pruned(build) -> None:
    module = build()
    prune(module, 0.0)
    assert not list(sparse_layers(module))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("build", [spectral, weight_normed, torch_pruned])
def test_wrapped_layers_can_be_skipped(build) -> None:
    module = prune(build(), 0.3, skip=["1"]).eval()
    assert set(masks(module)) == {"0"}
    assert module(th.randn(2, 20)).shape == (2, 40)


def test_parametrized_layers_stay_dense() -> None:
    module = nn.Sequential(nn.Linear(20, 60), nn.utils.parametrizations.spectral_norm(nn.Linear(60, 20)))
    kind, x = type(module[1]), th.randn(2, 60)
    expected = module.eval()[1](x)
    prune(module, 0.3)
    assert set(masks(module)) == {"0"}
    assert type(module[1]) is kind
    assert th.equal(module[1](x), expected)


def test_layer_with_a_wrapped_bias_is_pruned() -> None:
    module = nn.Linear(30, 40)
    torch_prune.random_unstructured(module, "bias", 0.5)
    x, bias = th.randn(2, 30), module.bias.detach().clone()
    prune(module, 0.5)
    assert th.allclose(module(x), x @ module.weight.t() + bias, atol=1e-6)
    assert (bias == 0).sum() == 20


def test_subclasses_of_prunable_layers_stay_dense() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: th.Tensor) -> th.Tensor:
            return 2 * super().forward(input)

    module = prune(nn.Sequential(nn.Linear(20, 30), Doubled(30, 10)), 0.2)
    assert set(masks(module)) == {"0"}


def test_layers_in_a_plain_list_are_unknown_to_torch_and_stay() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(30, 30)]

    module = Hidden()
    with pytest.raises(ValueError, match="Hidden has no layer to prune"):
        prune(module, 0.5)
    assert type(module.layers[0]) is nn.Linear


def test_custom_distribution_is_used() -> None:
    calls = []

    def first_only(shapes, sparsity, dense):
        calls.append((dict(shapes), sparsity, list(dense)))
        return {name: sparsity if name == "0.weight" else 0.0 for name in shapes}

    module = prune(mlp(), 0.25, distribution=first_only)
    assert set(masks(module)) == {"0"}
    assert module[0].topology.active == round(0.75 * 1200)
    ((shapes, sparsity, dense),) = calls
    assert shapes == {name: tuple(parameter.shape) for name, parameter in mlp().named_parameters()}
    assert sparsity == 0.25
    assert dense == [name for name in shapes if name not in ("0.weight", "3.weight", "5.weight")]


def test_layer_without_inputs_stays() -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        module = nn.Sequential(nn.Linear(0, 20), nn.Linear(20, 20))
    prune(module, 0.5)
    assert set(masks(module)) == {"1"}


# --- Target networks


def test_target_shares_the_topology_but_not_the_values(network: str) -> None:
    online, x = make(network)
    target = make(network, seed=1)[0]
    dense = copy.deepcopy(target)
    prune(online, 0.3)
    share_topology(online, target)
    share_topology(online, target)  # which changes nothing more
    for (name, layer), (twin_name, twin) in zip(sparse_layers(online), sparse_layers(target), strict=True):
        assert name == twin_name
        assert twin.topology is layer.topology
        assert twin.values is not layer.values
        assert twin.values.data_ptr() != layer.values.data_ptr()
    assert [p.shape for p in target.parameters()] == [p.shape for p in online.parameters()], "what was tied stays tied"
    assert th.allclose(target.eval()(x), masked(dense, online).eval()(x), atol=1e-5)


def test_target_may_contain_layers_of_the_source() -> None:
    body = nn.Linear(20, 30)
    online = prune(nn.Sequential(body, nn.Linear(30, 30)), 0.5)
    target = nn.Sequential(body, nn.Linear(30, 30))
    share_topology(online, target)
    assert target[0] is online[0]
    assert target[1].topology is online[1].topology


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(20, 30)), "no layer '1'"),
        (lambda: nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 31)), r"'1' is \(31, 30\) on cpu"),
        (lambda: nn.Sequential(nn.Linear(20, 30), nn.Conv2d(30, 30, 1)), "'1' of the target is a Conv2d"),
        (lambda: nn.Sequential(nn.Linear(20, 30), prune(nn.Linear(30, 30), 0.5)), "'1' of the target is pruned already"),
        (lambda: nn.Sequential(nn.Linear(20, 30), nn.utils.spectral_norm(nn.Linear(30, 30))), "'1' is computed by"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_target_of_another_structure_is_refused_and_left_alone(target, message: str) -> None:
    online, module = prune(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 30)), 0.5), target()
    with pytest.raises(ValueError, match=message):
        share_topology(online, module)
    assert type(module[0]) is nn.Linear
