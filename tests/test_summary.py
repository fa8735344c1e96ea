import pytest
import torch as th
from torch import nn

from sb3_sparse.networks import SimBaEncoder
from sb3_sparse.sparsity import LayerSummary, prune, summary


def test_figures_of_a_linear_and_a_convolutional_layer() -> None:
    module = prune(nn.Sequential(nn.Linear(4, 3), nn.Conv2d(2, 3, 2)), 0.5, distribution="uniform")
    # Two active weights in the first row, four in the third: the second has no input.
    module[0].set_topology(th.tensor([0, 3, 8, 9, 10, 11]), th.ones(6))
    # A channel has eight weights; all active ones are in the last two.
    module[1].set_topology(th.arange(12, 24), th.ones(12))
    figures = summary(module)
    assert dict(figures) == {
        "0": LayerSummary(shape=(3, 4), total=12, active=6, units_without_input=1, multiply_adds=6),
        "1": LayerSummary(shape=(3, 2, 2, 2), total=24, active=12, units_without_input=1),
    }
    assert figures["0"].sparsity == 0.5
    assert (figures.total, figures.active, figures.other, figures.units_without_input) == (36 + 6, 18 + 6, 6, 2)
    assert figures.sparsity == pytest.approx(18 / 42)


def test_units_without_input_output_their_bias() -> None:
    layer = prune(nn.Linear(30, 200), 0.97, budget="weights")
    with th.no_grad():
        layer.values.uniform_(1, 2)
        outputs = layer(th.rand(50, 30) + 1)
    constant = (outputs == layer.bias).all(0).sum().item()
    assert constant > 0
    assert summary(layer)[""].units_without_input == constant


def test_dense_module() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.GRU(3, 2), nn.BatchNorm1d(2))
    figures = summary(module)
    assert figures["0"] == LayerSummary((3, 4), 12, 12, 0, 12)
    assert figures["1.weight_ih_l0"].active == 18
    assert figures.total == figures.active == sum(parameter.numel() for parameter in module.parameters())
    assert figures.sparsity == 0.0
    assert summary(nn.ReLU()).sparsity == 0.0


def test_shared_and_tied_layers_count_once() -> None:
    layer = nn.Linear(20, 20)
    module = nn.ModuleDict({"first": layer, "again": layer, "tied": nn.Linear(20, 20), "skipped": nn.Linear(20, 20)})
    module["tied"].weight = layer.weight
    for figures in (summary(module), summary(prune(module, 0.5, budget="weights", skip="skipped"))):
        assert list(figures) == ["first", "skipped"]
        assert figures.total == 2 * 400 + 3 * 20
        assert figures.active == sum(parameter.numel() for parameter in module.parameters()) or figures.sparsity == 0.0
    assert figures.active == 200 + 400 + 60


def test_table() -> None:
    module = nn.ModuleDict({"body": nn.Linear(100, 50), "head": nn.Linear(50, 2)})
    prune(module, 0.5, distribution="uniform", skip="head")
    module["body"].set_topology(th.arange(2500), th.ones(2500))
    assert str(summary(module)).splitlines() == [
        "layer                  shape     total  active  sparsity  units without input  multiply-adds",
        "---------------------  --------  -----  ------  --------  -------------------  -------------",
        "body                   50 x 100  5,000   2,500    0.5000                   25          2,500",
        "head                   2 x 50      100     100    0.0000                    0            100",
        "biases, normalisation               52      52    0.0000",
        "all                              5,152   2,652    0.4852                   25          2,600",
    ]
    assert repr(summary(module)) == str(summary(module))
    assert str(summary(nn.Linear(2, 3))).splitlines()[2].split() == ["(itself)", "3", "x", "2", "6", "6", "0.0000", "0", "6"]


def test_multiply_adds_of_a_pass() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(4, 6, 3, stride=2, groups=2)  # 9 x 9 to 4 x 4, of 6 * 2 * 9 weights
            self.up = nn.ConvTranspose2d(6, 2, 3)  # from 4 x 4 positions, of 6 * 2 * 9 weights
            self.rows, self.unused, self.recurrent = nn.Linear(6, 5), nn.Linear(7, 8), nn.GRU(6, 3)

        def forward(self, image: th.Tensor) -> th.Tensor:
            self.up(self.down(image))
            return self.rows(self.rows(th.zeros(2, 6)) @ th.zeros(5, 6)).sum() + self.recurrent(th.zeros(2, 6))[0].sum()

    for network, density in ((Network(), 1.0), (prune(Network(), 0.5, distribution="uniform", skip="recurrent"), 0.5)):
        counted = summary(network, th.zeros(1, 4, 9, 9))
        found = {name: counted[name].multiply_adds for name in ("down", "up", "rows", "unused", "recurrent.weight_ih_l0")}
        assert found == {
            "down": density * 16 * 108,
            "up": density * 16 * 108,
            "rows": density * 2 * 2 * 30,
            "unused": 0,
            "recurrent.weight_ih_l0": None,
        }
        assert counted.multiply_adds is None and str(counted).splitlines()[-1].endswith("?")
        assert summary(network)["down"].multiply_adds is None
        assert network.training and not network.down._forward_hooks


def test_multiply_adds_of_a_fused_encoder() -> None:
    encoder = prune(SimBaEncoder(6, 16, 1), 0.5)
    weights = sum(layer.active for layer in summary(encoder).values())
    assert summary(encoder, th.zeros(3, 6)).multiply_adds == 3 * weights
