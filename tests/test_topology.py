import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from sb3_sparse.sparsity import Topology, prune, share_topology, sparse_layers
from sb3_sparse.sparsity.products.compressed_rows import compressed_rows

SHAPES = [(6, 5), (4, 3, 3, 2)]


@pytest.fixture
def topology() -> Topology:
    return Topology(th.tensor([0, 3, 7, 10, 11]), (4, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("active", [1, 7, 30])
def test_random_topology_has_the_exact_number_in_order(shape: tuple[int, ...], active: int) -> None:
    topology = Topology.random(shape, active)
    assert topology.active == topology.indices.numel() == topology.mask().sum() == active
    assert topology.mask().shape == topology.shape == shape
    assert topology.density == active / math.prod(shape)
    assert bool((topology.indices.diff() > 0).all())


@pytest.mark.parametrize("active", [0, -1, 31])
def test_random_topology_of_an_impossible_number_is_refused(active: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 30 .* got {active}"):
        Topology.random((6, 5), active)


def test_random_topology_follows_its_generator() -> None:
    draws = [Topology.random((20, 20), 40, th.Generator().manual_seed(seed)).indices for seed in (0, 0, 1)]
    assert th.equal(draws[0], draws[1])
    assert not th.equal(draws[0], draws[2])


def test_random_topology_is_uniform_over_positions() -> None:
    # Every position is active in 4000 * 5 / 20 = 1000 draws on average, with a standard deviation of 27.4; five of them allow
    # for 20 positions. Over pairs the expectation is 4000 * 5 * 4 / (20 * 19) = 210.5 with 14.1, and 190 pairs.
    generator = th.Generator().manual_seed(0)
    masks = th.stack([Topology.random((4, 5), 5, generator).mask().flatten() for _ in range(4000)]).float()
    pairs = masks.t() @ masks
    assert (pairs.diag() - 1000).abs().max() < 5 * 27.4
    assert (pairs[~th.eye(20, dtype=th.bool)] - 210.5).abs().max() < 5 * 14.1


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (th.tensor([3, 0]), "increase strictly"),
        (th.tensor([3, 3]), "increase strictly"),
        (th.tensor([-1, 3]), r"within \[0, 12\)"),
        (th.tensor([3, 12]), r"within \[0, 12\)"),
        (th.tensor([], dtype=th.int64), "at least one"),
        (th.tensor([[1, 3]]), "flat tensor"),
        (th.tensor([1.0, 3.0]), "int32 or int64"),
    ],
)
def test_invalid_indices_are_refused(topology: Topology, indices: th.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(indices, (4, 3))
    # Moving is as strict, and leaves all as it was.
    before = topology.indices.clone()
    with pytest.raises(ValueError):
        topology.assign(indices)
    assert th.equal(topology.indices, before)


def test_topology_keeps_indices_of_its_own(topology: Topology) -> None:
    twin = Topology(topology.indices, topology.shape)
    topology.assign(th.tensor([1, 2, 3, 4, 5]))
    assert twin.indices.tolist() == [0, 3, 7, 10, 11]


@pytest.mark.parametrize("shape", SHAPES)
def test_scatter_and_gather_agree_with_the_mask(shape: tuple[int, ...]) -> None:
    topology, weight = Topology.random(shape, 9), th.randn(shape)
    values = topology.gather(weight)
    assert th.equal(values, weight[topology.mask()])
    assert th.equal(topology.scatter(values), weight * topology.mask())
    # A weight that lies in memory in another order has the same entries.
    strided = weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert th.equal(topology.gather(strided), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_scatter_is_differentiable_twice(shape: tuple[int, ...]) -> None:
    topology = Topology.random(shape, 9)
    values = th.randn(9, dtype=th.float64, requires_grad=True)
    assert th.autograd.gradcheck(topology.scatter, (values,))
    assert th.autograd.gradgradcheck(lambda v: topology.scatter(v).pow(3), (values,))


def test_scatter_works_under_vmap() -> None:
    topology = Topology.random((4, 3), 5)
    values = th.randn(6, 5)
    expected = th.stack([topology.scatter(v) for v in values])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # torch has no batching rule for it
        assert th.equal(th.func.vmap(topology.scatter)(values), expected)


def test_compressed_rows_describe_the_matrix_and_its_transpose() -> None:
    topology = Topology.random((7, 4), 9)
    values = th.randn(9)
    rows, weight = compressed_rows(topology), topology.scatter(values)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # that compressed rows are a beta feature
        kwargs = {"check_invariants": True}
        matrix = th.sparse_csr_tensor(rows.row_starts, rows.columns, values, (7, 4), **kwargs)
        values = values[rows.to_transposed]
        transpose = th.sparse_csr_tensor(rows.transposed_row_starts, rows.transposed_columns, values, (4, 7), **kwargs)
    assert th.equal(matrix.to_dense(), weight)
    assert th.equal(transpose.to_dense(), weight.t())
    assert all(tensor.dtype == th.int32 for tensor in rows)


def copy_buffers(topology: Topology, indices: th.Tensor) -> None:
    for mine, other in zip(topology.buffers(), Topology(indices, topology.shape).buffers(), strict=True):
        mine.copy_(other)


def load(topology: Topology, indices: th.Tensor) -> None:
    topology.load_state_dict({"indices": indices, "weight_shape": th.tensor(topology.shape)})


def load_by_assignment(topology: Topology, indices: th.Tensor) -> None:
    topology.load_state_dict({"indices": indices, "weight_shape": th.tensor(topology.shape)}, assign=True)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.filterwarnings("ignore:The buffers of another network")
@pytest.mark.parametrize("move", [Topology.assign, copy_buffers, load, load_by_assignment])
def test_what_is_derived_follows_the_indices(topology: Topology, move, inference: bool) -> None:
    fresh = Topology(th.tensor([1, 2, 5, 6, 9]), topology.shape)
    with th.inference_mode(inference):
        if inference:
            topology = Topology(topology.indices, topology.shape)  # its indices count no versions
        topology.mask(), topology.derive(compressed_rows)
        move(topology, fresh.indices.clone())
        assert topology.long_indices().tolist() == [1, 2, 5, 6, 9]
        assert th.equal(topology.mask(), fresh.mask())
        assert all(map(th.equal, topology.derive(compressed_rows), fresh.derive(compressed_rows)))


def test_what_is_derived_in_inference_mode_serves_training(topology: Topology) -> None:
    with th.inference_mode():
        topology.mask(), topology.derive(compressed_rows)
    assert not topology.long_indices().is_inference()
    assert not any(tensor.is_inference() for tensor in topology.derive(compressed_rows))


def test_what_is_derived_is_neither_copied_nor_saved() -> None:
    topology = Topology.random((100, 100), 1000)
    topology.mask(), topology.derive(compressed_rows)
    for twin in (copy.deepcopy(topology), pickle.loads(pickle.dumps(topology))):
        assert twin._derived == {}
        twin.assign(th.arange(1000))
        assert twin.mask().sum() == 1000
        assert not th.equal(twin.mask(), topology.mask())
    assert len(pickle.dumps(topology)) < 3 * 1000 * 4  # indices and positions


def test_loading_another_number_of_active_weights_is_refused_with_the_remedy(topology: Topology) -> None:
    other = Topology(th.tensor([1, 2]), topology.shape)
    with pytest.raises(RuntimeError, match=r"2 active weights in the checkpoint, 5 of 12 here.*sparsity, distribution"):
        topology.load_state_dict(other.state_dict())


@pytest.mark.parametrize("strict", [True, False])
def test_loading_another_shape_with_as_many_active_weights_is_refused(topology: Topology, strict: bool) -> None:
    other = Topology(topology.indices, (3, 4))
    with pytest.raises(RuntimeError, match=r"shape \(3, 4\) in the checkpoint, \(4, 3\) here"):
        topology.load_state_dict(other.state_dict(), strict=strict)


@pytest.mark.parametrize("indices", [[0, 3, 7, 11, 10], [0, 3, 3, 10, 11], [-1, 3, 7, 10, 11], [0, 3, 7, 10, 12]])
def test_loading_damaged_indices_is_refused(topology: Topology, indices: list[int]) -> None:
    state = {"indices": th.tensor(indices, dtype=th.int32), "weight_shape": th.tensor([4, 3])}
    with pytest.raises(RuntimeError, match=r"damaged in the checkpoint.*increase strictly"):
        topology.load_state_dict(state)
    assert topology.indices.tolist() == [0, 3, 7, 10, 11]


@pytest.mark.parametrize("name", ["indices", "signature"])
def test_loading_indices_that_were_not_saved_is_refused(topology: Topology, name: str) -> None:
    state = {**topology.state_dict(), name: Topology(th.tensor([0, 3, 7, 9, 11]), (4, 3)).state_dict()[name]}
    with pytest.raises(RuntimeError, match=r"damaged in the checkpoint.*not those that were saved"):
        topology.load_state_dict(state)


def average_of_torch(**kwargs: Any) -> Callable[[nn.Module, nn.Module], None]:
    def update(average: nn.Module, network: nn.Module) -> None:
        wrapped = AveragedModel(average, use_buffers=True, **kwargs)
        wrapped.module, wrapped.n_averaged = average, wrapped.n_averaged + 1  # which wraps a copy
        wrapped.update_parameters(network)

    return update


def average_of_states(average: nn.Module, network: nn.Module) -> None:
    for mine, other in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        mine.copy_(0.99 * mine + 0.01 * other)


def average_behind_the_back(average: nn.Module, network: nn.Module) -> None:
    for mine, other in zip(average.buffers(), network.buffers(), strict=True):
        mine.data.copy_(0.99 * mine.data + 0.01 * other.data)


AVERAGES = {
    "stochastic": average_of_torch(),
    "exponential": average_of_torch(multi_avg_fn=get_ema_multi_avg_fn(0.999)),
    "one by one": average_of_torch(avg_fn=get_ema_avg_fn(0.9)),
    "states": average_of_states,
    "data": average_behind_the_back,
}


def averaged(average: str, network: nn.Module, other: nn.Module) -> nn.Module:
    result = copy.deepcopy(network)
    for _ in range(20):
        AVERAGES[average](result, other)
    return result


@pytest.mark.parametrize("size", [30, 5000])  # indices of the larger one have more digits than a float holds
@pytest.mark.parametrize("average", list(AVERAGES))
def test_average_of_equal_networks_is_that_network(average: str, size: int) -> None:
    network = prune(nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2)), 0.995, budget="weights")
    batch = th.randn(3, size)
    result = averaged(average, network, network)
    th.testing.assert_close(result(batch), network(batch))
    twin = copy.deepcopy(network)
    twin.load_state_dict(averaged(average, network, network).state_dict())
    th.testing.assert_close(twin(batch), network(batch))
    for mine, theirs in zip(sparse_layers(averaged(average, network, network)), sparse_layers(network), strict=True):
        assert th.equal(mine[1].indices, theirs[1].indices)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("follow", ["compile", "trace"])
def test_average_that_is_followed_at_its_first_use_is_right(follow: str) -> None:
    network = prune(nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2)), 0.8)
    result, batch = averaged("exponential", network, network), th.randn(3, 30)
    if follow == "compile":
        followed = th.compile(result, fullgraph=True, backend="eager")
    else:
        followed = th.jit.trace(result, batch, check_trace=False)
    th.testing.assert_close(followed(batch), network(batch))


@pytest.mark.parametrize("average", list(AVERAGES))
def test_average_of_different_masks_is_refused(average: str) -> None:
    network, other = (prune(nn.Sequential(nn.Linear(30, 30)), 0.8, generator=th.Generator().manual_seed(i)) for i in (0, 1))
    for use in (nn.Module.state_dict, lambda module: module(th.ones(1, 30))):
        with pytest.raises(RuntimeError, match=r"computed with the indices.*set_topology or load_state_dict"):
            use(averaged(average, network, other))


@pytest.mark.parametrize("write", [lambda t: t.mul_(2), lambda t: t.fill_(3), lambda t: t.copy_(t.flip(0))])
def test_indices_written_by_others_are_refused(topology: Topology, write) -> None:
    topology.long_indices()
    write(topology.indices)
    with pytest.raises(RuntimeError, match="computed with the indices"):
        topology.long_indices()


def test_masks_that_move_under_an_average_are_reported() -> None:
    network = prune(nn.Linear(30, 30), 0.8)
    average = AveragedModel(network)
    average.update_parameters(network)
    network.set_topology(th.arange(network.topology.active), network.values.detach().clone())
    average.update_parameters(network)
    with pytest.warns(UserWarning, match="active weights moved"):
        average(th.ones(1, 30))


def test_networks_of_different_masks_can_be_stacked() -> None:
    networks = [prune(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)), 0.8) for _ in range(3)]
    counts = {tuple(layer.topology.active for _, layer in sparse_layers(network)) for network in networks}
    assert len(counts) == 1
    state, batch = th.func.stack_module_state(networks), th.randn(4, 30)
    base = copy.deepcopy(networks[0])
    for _ in range(2):
        outputs = th.func.vmap(lambda *state: th.func.functional_call(base, state, (batch,)))(*state)
        th.testing.assert_close(outputs, th.stack([network(batch) for network in networks]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for network in networks:
            th.testing.assert_close(th.func.functional_call(base, network.state_dict(), (batch,)), network(batch))
    th.testing.assert_close(base(batch), networks[0](batch))


@pytest.fixture
def pair() -> nn.ModuleDict:
    online = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    target = copy.deepcopy(online)
    prune(online, 0.8)
    share_topology(online, target)
    return nn.ModuleDict({"online": online, "target": target})


def reload(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    th.save(module, buffer)
    buffer.seek(0)
    return th.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "transfer",
    [
        lambda pair: pair,
        lambda pair: pair.to(th.float64),
        lambda pair: pair.half().float(),
        copy.deepcopy,
        lambda pair: pickle.loads(pickle.dumps(pair)),
        reload,
        pytest.param(lambda pair: pair.to("cuda"), marks=pytest.mark.gpu),
    ],
    ids=["itself", "to", "half", "deepcopy", "pickle", "save", "cuda"],
)
def test_topology_stays_shared(pair: nn.ModuleDict, transfer) -> None:
    moved = transfer(pair)
    for layer in ("0", "2"):
        online, target = moved["online"].get_submodule(layer), moved["target"].get_submodule(layer)
        assert online.topology is target.topology
        assert online.values is not target.values
        indices = th.arange(online.topology.active)
        online.set_topology(indices, th.ones(indices.shape))
        assert th.equal(target.indices.cpu(), indices.int())
        assert target.weight.flatten()[len(indices) :].count_nonzero() == 0


def test_shared_topology_is_the_same_for_both_after_loading(pair: nn.ModuleDict) -> None:
    other = copy.deepcopy(pair)
    layer = other["online"][0]
    layer.set_topology(th.arange(layer.topology.active), th.ones(layer.topology.active))
    x = th.randn(3, 30)
    pair["online"](x), pair["target"](x)  # what is derived exists by now
    pair.load_state_dict(other.state_dict())
    assert pair["online"][0].topology is pair["target"][0].topology
    for name in ("online", "target"):
        assert th.equal(pair[name](x), other[name](x))
