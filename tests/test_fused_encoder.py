"""The encoder as one operation does what its layers do one after the other, and stands back where it could not."""

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch as th
from torch import nn

from sb3_sparse.networks import SimBaBlock, SimBaEncoder, simba
from sb3_sparse.networks.simba import HeadedEncoder, outputs_of
from sb3_sparse.sparsity import SparseLinear, prune

pytest.importorskip("numba")

from sb3_sparse.networks.fused import encoder as fused
from sb3_sparse.networks.fused import plan, table


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of outputs with every pass as one operation."""
    made: list[int] = []
    run = fused.run_forward
    monkeypatch.setattr(fused, "run_forward", lambda *args: (made.append(len(args[0].encoder.output_dims)), run(*args))[1])
    return made


def network(
    sparsity: float = 0.0,
    dtype: th.dtype = th.float64,
    dims: tuple[int, int, int] = (13, 24, 2),
    heads: Sequence[int] = (),
    seed: int = 0,
) -> nn.ModuleList:
    th.manual_seed(seed)
    encoder = SimBaEncoder(*dims)
    module = nn.ModuleList([encoder, *(nn.Linear(dims[1], size) for size in heads)]).to(dtype)
    for parameter in module.parameters():
        if parameter.ndim == 1:  # nothing is multiplied with 1, or adds 0
            nn.init.normal_(parameter)
    if sparsity:
        prune(module, sparsity)
    return module


def results(module: nn.ModuleList, x: th.Tensor, is_input_differentiated: bool = True) -> list[th.Tensor]:
    """Outputs, and gradients of all that asks for one."""
    x = x.clone().requires_grad_(is_input_differentiated)
    encoder, *heads = module
    outputs = outputs_of(encoder, x, heads) if heads else [encoder(x)]
    gradients = [th.sin(th.arange(output.numel(), dtype=x.dtype)).view_as(output) for output in outputs]
    th.autograd.backward(outputs, gradients)
    found = [x, *module.parameters()]
    return [*(output.detach() for output in outputs), *(tensor.grad for tensor in found if tensor.requires_grad)]


def layer_by_layer(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], list[th.Tensor]]) -> list[th.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(simba, "kernels_are_available", lambda: False)
        return compute()


def distance(first: th.Tensor, second: th.Tensor) -> float:
    """Largest difference, as a fraction of the largest entry."""
    assert first.shape == second.shape
    return float((first - second).abs().max() / second.abs().max())


def assert_close(first: Sequence[th.Tensor], second: Sequence[th.Tensor]) -> None:
    assert len(first) == len(second)
    assert max(map(distance, first, second)) <= 1e-12 if first[0].dtype == th.float64 else 1e-5


SIZES = [((13, 24, 2), 256), ((5, 32, 3), 37), ((88, 150, 1), 16), ((3, 300, 1), 130)]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("dims", "batch"), SIZES, ids=str)
def test_passes_are_those_of_the_layers(
    dims: tuple[int, int, int], batch: int, sparsity: float, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = network(sparsity, dims=dims), th.randn(batch, dims[0], dtype=th.float64)
    found = results(copy.deepcopy(module), x)
    assert passes == [1]
    assert_close(found, layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x)))
    with th.no_grad():
        assert_close([module[0](x)], found[:1])
    assert passes == [1, 1]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("dims", "batch"), SIZES, ids=str)
def test_single_precision_is_nearly_as_exact_as_that_of_the_layers(
    dims: tuple[int, int, int], batch: int, sparsity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = network(sparsity, th.float32, dims), th.randn(batch, dims[0])
    found = results(copy.deepcopy(module), x)
    by_layers = layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x))
    exact = layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module).double(), x.double()))
    for ours, theirs, right in zip(found, by_layers, exact, strict=True):
        assert distance(ours, right) <= 5 * distance(theirs, right) + 2e-7


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("heads", [[3], [5, 2]])
def test_heads_belong_to_the_pass(
    sparsity: float, heads: list[int], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = network(sparsity, heads=heads), th.randn(40, 13, dtype=th.float64)
    assert_close(results(copy.deepcopy(module), x), layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x)))
    assert passes == [len(heads)]


@pytest.mark.parametrize("small", [0, 2**17])
def test_dense_products_are_those_of_blas(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALL", small)
    module, x = network(heads=[3, 14]), th.randn(40, 13, dtype=th.float64)
    assert_close(results(copy.deepcopy(module), x), layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x)))


@pytest.mark.parametrize("small", [0, 2**17])
def test_blocks_may_differ(small: int, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALL", small)
    module, x = network(), th.randn(40, 13, dtype=th.float64)
    block = module[0].blocks[1]
    block.expand, block.contract = nn.Linear(24, 500).double(), nn.Linear(500, 24).double()
    found = results(copy.deepcopy(module), x)
    assert_close(found, layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x)))
    with th.no_grad():
        assert_close([module[0](x)], found[:1])
    assert passes == [1, 1]


def test_biases_may_be_missing(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = network(0.5), th.randn(40, 13, dtype=th.float64)
    for layer in module.modules():
        if isinstance(layer, SparseLinear):
            layer.bias = None
    assert_close(results(copy.deepcopy(module), x), layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x)))
    assert passes == [1]


@pytest.mark.parametrize("frozen", ["all", "weights", "blocks.0", "none, and the input"])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_gradients_are_computed_where_they_are_asked_for(
    frozen: str, sparsity: float, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = network(sparsity, heads=[2]), th.randn(40, 13, dtype=th.float64)
    for name, parameter in module.named_parameters():
        is_weight = name.endswith(("weight", "values"))
        parameter.requires_grad_(not (frozen == "all" or frozen in name or (frozen == "weights" and is_weight)))
    of_input = frozen != "none, and the input"
    found = results(copy.deepcopy(module), x, of_input)
    assert_close(found, layer_by_layer(monkeypatch, lambda: results(copy.deepcopy(module), x, of_input)))
    assert passes == [1]


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.7])
def test_gradients_of_gradients(sparsity: float, passes: list[int]) -> None:
    encoder = network(sparsity, dims=(3, 6, 1))[0]
    names = dict(encoder.named_parameters())
    for parameter in names.values():
        parameter.requires_grad_(True)
    x = th.randn(16, 3, dtype=th.float64, requires_grad=True)
    inputs = (x, *names.values())
    assert th.autograd.gradcheck(lambda x, *_: encoder(x), inputs)
    assert th.autograd.gradgradcheck(lambda x, *_: encoder(x), inputs)
    assert len(passes) > 2


def test_passes_back_can_be_repeated_and_batched() -> None:
    encoder, x = network(0.9)[0], th.randn(20, 13, dtype=th.float64, requires_grad=True)
    output = encoder(x)
    gradients = th.randn(3, *output.shape, dtype=th.float64)
    one_by_one = [th.autograd.grad(output, x, gradient, retain_graph=True)[0] for gradient in gradients]
    (together,) = th.autograd.grad(output, x, gradients, is_grads_batched=True)
    th.testing.assert_close(together, th.stack(one_by_one))


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "WORK_PER_THREAD", 100)
    shares: list[int] = []
    run_shares = table.run_shares
    monkeypatch.setattr(table, "run_shares", lambda run, number: (shares.append(number), run_shares(run, number))[1])
    found = []
    for threads in (1, 2, 3):
        th.set_num_threads(threads)
        module = network(0.5, th.float32, (13, 64, 2), heads=[3])
        found.append(results(module, th.randn(70, 13, generator=th.Generator().manual_seed(1))))
    assert set(shares) >= {1, 2, 3}
    for others in found[1:]:
        assert all(map(th.equal, found[0], others))


def listen(module: nn.Module) -> None:
    module.register_forward_hook(lambda *_: None)


UNUSUAL: dict[str, Callable[[SimBaEncoder], object]] = {
    "a hook on a layer": lambda encoder: listen(encoder.blocks[0].expand),
    "a hook on an activation": lambda encoder: listen(encoder.blocks[1].activation),
    "a hook on a block": lambda encoder: listen(encoder.blocks[1]),
    "a hook on all blocks": lambda encoder: encoder.blocks.register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda encoder: encoder.norm.register_full_backward_hook(lambda *_: None),
    "a recorded gradient": lambda encoder: encoder.blocks[0].expand.record_dense_gradient(),
    "another activation": lambda encoder: setattr(encoder.blocks[0], "activation", nn.GELU()),
    "another block": lambda encoder: encoder.blocks.append(nn.Identity()),
    "another norm": lambda encoder: setattr(encoder.blocks[0].norm, "eps", 0.1),
    "no weight": lambda encoder: setattr(encoder, "norm", nn.LayerNorm(24, 1e-6, elementwise_affine=False)),
    "a parametrization": lambda encoder: nn.utils.parametrizations.weight_norm(encoder.norm),
    "an other forward": lambda encoder: setattr(encoder.norm, "forward", lambda x: 2 * x),
    "a frozen layout": lambda encoder: setattr(encoder.norm.weight, "data", th.ones(48, dtype=th.float64)[::2]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_goes_from_layer_to_layer(name: str, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, x = network(0.5)[0], th.randn(20, 13, dtype=th.float64)
    before = encoder(x)
    UNUSUAL[name](encoder)
    found = encoder(x)
    assert passes == [1]
    th.testing.assert_close(found, layer_by_layer(monkeypatch, lambda: [encoder(x)])[0])
    if name.startswith(("another", "an other")):
        assert not th.equal(found, before)


def test_hooks_on_the_encoder_and_its_heads_run(passes: list[int]) -> None:
    headed = HeadedEncoder(*network(0.5, heads=[2])).double()
    x = th.randn(20, 13, dtype=th.float64)
    expected = headed(x)
    seen: list[nn.Module] = []
    for module in (headed[0], headed[1]):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    th.testing.assert_close(headed(x), expected)
    assert seen == [headed[0], headed[1]]
    assert passes == [1, 1]  # the latter of the encoder alone, whose hook runs after it


def test_followed_computations_go_from_layer_to_layer(passes: list[int]) -> None:
    encoder, x = network(0.5, th.float32)[0], th.randn(20, 13)
    expected = encoder(x)
    th.testing.assert_close(th.func.vmap(encoder, chunk_size=None)(x.unsqueeze(1)).squeeze(1), expected)
    th.testing.assert_close(th.func.jacrev(encoder)(x).sum((0, 1)).shape, x.shape)
    th.testing.assert_close(th.jit.trace(encoder, x, check_trace=False)(x), expected)
    with th.autocast("cpu"):
        assert float((encoder(x) - expected).abs().max()) > 0
    assert encoder(th.randn(2, 20, 13)).shape == (2, 20, 24)
    assert encoder(x[:3]).shape == (3, 24)
    assert passes == [1]
    with pytest.raises(RuntimeError):
        encoder(th.randn(20, 12))


def test_plans_follow_parameters_and_positions(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = network(0.8), th.randn(20, 13, dtype=th.float64)
    encoder = module[0]

    def check() -> None:
        found = results(module, x)
        module.zero_grad()
        assert_close(found, layer_by_layer(monkeypatch, lambda: results(module, x)))
        module.zero_grad()

    check()
    layer = encoder.blocks[1].contract
    layer.set_topology(th.arange(layer.topology.active), th.randn(layer.topology.active, dtype=th.float64))
    check()
    encoder.blocks[0].norm.weight = nn.Parameter(th.randn(24, dtype=th.float64))
    check()
    layer.bias.data = th.randn(24, dtype=th.float64)
    check()
    encoder.load_state_dict(network(0.8, seed=1)[0].state_dict())
    check()
    module.float()
    x = x.float()
    check()
    assert len(passes) == 6


def test_plans_of_other_shapes_are_forgotten(passes: list[int]) -> None:
    encoder = network(0.8)[0]
    for batch in range(16, 80):
        encoder(th.randn(batch, 13, dtype=th.float64))
    ((_, plans),) = encoder._fused._kept.values()
    assert len(plans) == fused.MOST_PLANS
    assert len(passes) == 64


def test_copies_and_pickles_have_plans_of_their_own(passes: list[int]) -> None:
    encoder, x = network(0.8)[0], th.randn(20, 13, dtype=th.float64)
    expected = encoder(x)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other._fused is None
        assert th.equal(other(x), expected)
        nn.init.normal_(other.norm.weight)
        assert not th.equal(other(x), expected)
    assert th.equal(encoder(x), expected)
    assert len(passes) == 6


def test_what_is_no_number_stays(passes: list[int]) -> None:
    encoder, x = network(0.8)[0], th.randn(20, 13, dtype=th.float64)
    x[3] = th.nan
    output = encoder(x)
    assert output[3].isnan().all()
    assert not output[4].isnan().any()
    assert passes == [1]


def test_a_block_alone_is_no_encoder() -> None:
    block = SimBaBlock(8)
    assert block(th.randn(20, 8)).shape == (20, 8)
