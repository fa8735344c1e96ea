"""The benchmark of single products, from the command line down."""

import json
from pathlib import Path

import pytest
import torch as th

from sb3_sparse.cli.command_line import main
from sb3_sparse.installation import install_command
from sb3_sparse.experiments.benchmarks import product_cost as module
from sb3_sparse.experiments.benchmarks.product_cost import PRODUCTS, ProductCost, crossover, format_crossovers, product_cost
from sb3_sparse.sparsity.products.choice import available_back_ends

needs_back_end = pytest.mark.skipif(not available_back_ends(), reason="there is nothing but the dense matrix")


def costs(*ratios: float, product: str = "forward", back_end: str = "mkl") -> list[ProductCost]:
    """Costs at the densities 0.2, 0.4, ..., with a dense product of 2 ms."""
    return [ProductCost(back_end, product, 20, 10, 8, 0.2 * (i + 1), 2.0, 2.0 * ratio) for i, ratio in enumerate(ratios)]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((0.5, 0.9, 1.1), "0.50"),  # half way from 0.4 to 0.6
        ((0.5, 1.0, 3.0), "0.40"),
        ((0.6, 1.4, 0.9), "0.30"),  # the first one, from 0.2 to 0.4
        ((1.2, 1.5), "< 0.2"),
        ((0.2, 0.9, 1.0), "> 0.6"),
    ],
)
def test_crossover_is_where_both_take_as_long(ratios: tuple[float, ...], expected: str) -> None:
    assert crossover(costs(*ratios)) == expected
    assert crossover(costs(*ratios)[::-1]) == expected


def test_table_has_a_row_for_every_case() -> None:
    measured = [cost for i, product in enumerate(PRODUCTS) for cost in costs(0.5, 0.9 + 0.2 * i, product=product)]
    measured += [cost for product in PRODUCTS for cost in costs(2.0, product=product, back_end="kernels")]
    assert format_crossovers(measured).splitlines()[2:] == [
        "| mkl | 20 x 10 | 8 | > 0.4 | 0.37 | 0.33 |",
        "| kernels | 20 x 10 | 8 | < 0.2 | < 0.2 | < 0.2 |",
    ]


@needs_back_end
def test_everything_is_measured() -> None:
    threads = th.get_num_threads()
    measured = product_cost(shapes=[(40, 30), (30, 40)], batches=[1, 8], densities=[0.1, 1.0])
    assert th.get_num_threads() == threads
    assert len(measured) == len(available_back_ends()) * 2 * 2 * 2 * len(PRODUCTS)
    assert len({(c.back_end, c.product, c.rows, c.batch, c.density) for c in measured}) == len(measured)
    assert all(cost.dense_ms > 0 and cost.sparse_ms > 0 for cost in measured)


@needs_back_end
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "products.json"
    monkeypatch.setattr(module, "DENSITIES", (0.5,))
    monkeypatch.setattr(module, "SHAPES", ((20, 10),))
    assert main(["bench", "products", "--batch", "2", "--json", str(path)]) == 0
    assert {entry["product"] for entry in json.loads(path.read_text())} == set(PRODUCTS)
    assert "| 20 x 10 | 2 |" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "products", "--batch", "0"]) == 1
    assert "batch sizes must be positive, got [0]" in capsys.readouterr().err
    monkeypatch.setattr(module, "available_back_ends", lambda: [])
    assert main(["bench", "products"]) == 1
    assert install_command("fast") in capsys.readouterr().err
