import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_sparse.sparsity import erdos_renyi, uniform
from sb3_sparse.sparsity.allocation import get_distribution

# Layer-wise sparsities of the paper's code for its networks, printed with 12 digits.
GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_er.json").read_text())["configs"]


def golden_shapes(config: dict) -> dict[str, list[int]]:
    """Every parameter of the reference's network: kernels as they are in the file, biases and LayerNorm as SimBa has them."""
    shapes = dict(config["kernels"])
    for name, (_, outputs) in config["kernels"].items():
        shapes[name.replace("/kernel", "/bias")] = [outputs]
    for norm in range(config["blocks"] + 1):
        shapes |= {f"norm_{norm}/scale": [config["hidden"]], f"norm_{norm}/bias": [config["hidden"]]}
    return shapes


@pytest.mark.parametrize("config", GOLDEN.values(), ids=list(GOLDEN))
def test_erdos_renyi_reproduces_the_reference(config: dict) -> None:
    shapes = golden_shapes(config)
    assert sum(math.prod(shape) for shape in shapes.values()) == config["total_params"]
    for sparsity, expected in config["by_sparsity"].items():
        result = erdos_renyi(shapes, float(sparsity))
        assert [result[name] for name in config["kernels"]] == pytest.approx(expected["kernel_sparsity"], abs=1e-9)
        assert all(result[name] == 0.0 for name in shapes if name not in config["kernels"])
        active = sum((1.0 - result[name]) * math.prod(shape) for name, shape in shapes.items())
        assert active == pytest.approx(expected["expected_active_total"], abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "raw_density"),
    [
        ((40, 10), Fraction(50, 400)),
        ((16, 8, 3, 3), Fraction(16 + 8 + 3 + 3, 16 * 8 * 9)),
        ((16, 8, 5, 1), Fraction(16 + 8 + 5 + 1, 16 * 8 * 5)),
        ((8, 4, 3), Fraction(8 + 4 + 3, 8 * 4 * 3)),
    ],
)
def test_erdos_renyi_density_of_a_layer_is_proportional_to_the_sum_of_its_dimensions(
    shape: tuple[int, ...], raw_density: Fraction
) -> None:
    # Next to a layer of raw density 100 / 2500, large enough that neither becomes dense.
    result = erdos_renyi({"layer": shape, "other": (50, 50)}, 0.9)
    ratio = (1 - result["layer"]) / (1 - result["other"])
    assert ratio == pytest.approx(float(raw_density / Fraction(100, 2500)))


def test_erdos_renyi_by_hand() -> None:
    # 400 + 2500 + 50 parameters, of which 0.8 are to go: 320 + 2000 + 40 zeros, 590 left. The bias keeps its 50; 540 are
    # shared by weights in the ratio of their dimensions' sums, 50 to 100.
    result = erdos_renyi({"small": (40, 10), "large": (50, 50), "bias": (50,)}, 0.8)
    assert result == pytest.approx({"small": 1 - 180 / 400, "large": 1 - 360 / 2500, "bias": 0.0})


def test_erdos_renyi_solves_again_when_a_layer_becomes_dense() -> None:
    # 8 + 2500 weights, half to go: 1254 left, shared 6 to 100, would be 71 for the first, which has 8 only.
    assert erdos_renyi({"head": (2, 4), "body": (50, 50)}, 0.5) == pytest.approx({"head": 0.0, "body": 1 - 1246 / 2500})


def test_zeros_are_counted_in_whole_weights() -> None:
    # floor(0.5 * 9) + floor(0.5 * 15) = 11 of 24 zeros, not 12.
    result = erdos_renyi({"a": (3, 3), "b": (5, 3)}, 0.5)
    assert sum((1 - result[name]) * size for name, size in {"a": 9, "b": 15}.items()) == pytest.approx(13)


def test_uniform_gives_every_weight_the_same_sparsity() -> None:
    shapes = {"linear": (4, 3), "conv": (4, 3, 2, 2), "bias": (4,), "scale": (), "head": (2, 4)}
    expected = {"linear": 0.7, "conv": 0.7, "bias": 0.0, "scale": 0.0, "head": 0.0}
    assert uniform(shapes, 0.7, dense=["head"]) == expected


def test_named_layers_stay_dense_but_count_in_the_budget() -> None:
    shapes = {"head": (10, 50), "body": (50, 50)}
    result = erdos_renyi(shapes, 0.5, dense=["head"])
    assert result == pytest.approx({"head": 0.0, "body": 1500 / 2500})


@pytest.mark.parametrize("sparsity", [0.0, 1e-6])
@pytest.mark.parametrize("distribution", [erdos_renyi, uniform])
def test_no_zeros_leave_all_dense(distribution, sparsity: float) -> None:
    # One of 1600 shapes at least lies where the scale times the raw density rounds to more than one.
    for rows in range(1, 41):
        for columns in range(1, 41):
            result = distribution({"weight": (rows, columns), "empty": (0, columns), "bias": (rows,)}, sparsity)
            assert result["weight"] <= sparsity
            assert result["empty"] == result["bias"] == 0.0
    assert distribution({}, 0.5) == {}


@pytest.mark.parametrize("distribution", [erdos_renyi, uniform])
@pytest.mark.parametrize(
    ("sparsity", "error", "message"),
    [
        (1.0, ValueError, "got 1"),
        (-0.1, ValueError, "must lie in"),
        (float("nan"), ValueError, "nan"),
        (float("inf"), ValueError, "inf"),
        (80, ValueError, "for 80 % give 0.8"),
        (True, TypeError, "True"),
        (np.bool_(True), TypeError, "True"),
        ("0.5", TypeError, "'0.5'"),
        (None, TypeError, "None"),
        (th.tensor([0.5, 0.5]), TypeError, "tensor"),
    ],
)
def test_invalid_sparsity_is_refused(distribution, sparsity, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        distribution({"weight": (10, 10)}, sparsity)


@pytest.mark.parametrize("sparsity", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), 0.5])
def test_any_real_number_is_a_sparsity(sparsity) -> None:
    assert erdos_renyi({"weight": (10, 10)}, sparsity) == pytest.approx({"weight": 0.5})


def test_unreachable_budget_is_refused_with_what_can_be_reached() -> None:
    # 20 of 120 parameters are a bias, so that less than 1 - 20 / 120 can go.
    shapes = {"weight": (10, 10), "bias": (20,)}
    with pytest.raises(ValueError, match=r"leaves 12 of 120 .* 20 already.*below 0\.833"):
        erdos_renyi(shapes, 0.9)
    assert erdos_renyi(shapes, 0.8)["weight"] < 1.0


def test_distributions_are_looked_up_by_name() -> None:
    assert get_distribution("erdos_renyi") is erdos_renyi
    assert get_distribution("uniform") is uniform
    assert get_distribution(max) is max  # any function will do
    with pytest.raises(ValueError, match=r"'erk'.*'erdos_renyi', 'uniform'"):
        get_distribution("erk")
