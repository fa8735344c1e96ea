"""
Where multiplying active weights only is faster than multiplying the dense matrix: what ``sparsity.products`` chooses by.

The dense matrix is what a sparse layer would multiply instead, so that building it from the values counts, and so does picking
the active weights' gradients from all.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch as th
import torch.nn.functional as F

from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.installation import install_command
from sb3_sparse.sparsity import Topology
from sb3_sparse.sparsity.products.choice import BackEnd, available_back_ends

# Rows x columns: both layers of a critic's block at width 1, an actor's at width 5, a critic's at width 5.
SHAPES = ((2048, 512), (512, 2048), (2560, 640), (10240, 2560))
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PRODUCTS = ("forward", "input gradient", "weight gradient")
SECONDS_PER_FIGURE = 0.03


@dataclass(frozen=True)
class ProductCost:
    """
    Process time of one product of one layer.

    :param back_end: What multiplies active weights only: "kernels" or "mkl"
    :param product: "forward", "input gradient" or "weight gradient"
    :param rows: Rows of the matrix
    :param columns: Columns of the matrix
    :param batch: Number of samples
    :param density: Fraction of weights that is active
    :param dense_ms: Milliseconds with the dense matrix
    :param sparse_ms: Milliseconds with the active weights only
    """

    back_end: str
    product: str
    rows: int
    columns: int
    batch: int
    density: float
    dense_ms: float
    sparse_ms: float


def product_cost(
    batches: Sequence[int], shapes: Sequence[tuple[int, int]] | None = None, densities: Sequence[float] | None = None
) -> list[ProductCost]:
    """
    Time all products on one thread, dense and sparse in turn.

    :param batches: Batch sizes
    :param shapes: Numbers of rows and columns; ``SHAPES`` if None
    :param densities: Densities, in (0, 1]; ``DENSITIES`` if None
    :raises ValueError: if there is nothing but the dense matrix, or a batch is not positive.
    """
    shapes, densities = SHAPES if shapes is None else shapes, DENSITIES if densities is None else densities
    if min(batches) < 1:
        raise ValueError(f"batch sizes must be positive, got {list(batches)}.")
    back_ends = available_back_ends()
    if not back_ends:
        raise ValueError(
            f"There is nothing but the dense matrix here, run: {install_command('fast')}, or install a torch with MKL."
        )
    cases = itertools.product(back_ends, shapes, batches, densities)
    threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        return [cost for case in cases for cost in _layer_cost(*case)]
    finally:
        th.set_num_threads(threads)


@th.no_grad()
def _layer_cost(back_end: BackEnd, shape: tuple[int, int], batch: int, density: float) -> list[ProductCost]:
    generator = th.Generator().manual_seed(0)
    topology = Topology.random(shape, max(1, round(density * shape[0] * shape[1])), generator)
    values, bias = th.randn(topology.active, generator=generator), th.randn(shape[0], generator=generator)
    input, outer = th.randn(batch, shape[1], generator=generator), th.randn(batch, shape[0], generator=generator)
    module = back_end.module
    rows = module.rows_of(topology, with_transpose=True)
    pairs: dict[str, tuple[Callable[[], th.Tensor], Callable[[], th.Tensor]]] = {
        "forward": (
            lambda: F.linear(input, topology.scatter(values), bias),
            lambda: module.multiply(input, values, bias, rows),
        ),
        "input gradient": (
            lambda: outer @ topology.scatter(values),
            lambda: module.input_gradient(outer, values, rows),
        ),
        "weight gradient": (
            lambda: topology.gather(outer.t() @ input),
            lambda: module.weight_gradient(outer, input, rows),
        ),
    }
    return [
        ProductCost(back_end.name, product, *shape, batch, density, *_milliseconds(*works)) for product, works in pairs.items()
    ]


def _milliseconds(*works: Callable[[], th.Tensor]) -> list[float]:
    """Medians of turns, after one that counts how often each is to be repeated."""
    repeats = []
    for work in works:
        work()
        start = time.process_time()
        work()
        repeats.append(max(1, round(SECONDS_PER_FIGURE / 3 / max(time.process_time() - start, 1e-6))))
    turns: list[list[float]] = [[] for _ in works]
    for _ in range(3):
        for work, repeat, times in zip(works, repeats, turns, strict=True):
            start = time.process_time()
            for _ in range(repeat):
                work()
            times.append((time.process_time() - start) / repeat * 1e3)
    return [statistics.median(times) for times in turns]


def format_crossovers(costs: Sequence[ProductCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table of the largest density at which active weights only are at least as fast as the dense matrix
    """
    rows = []
    cases = dict.fromkeys((cost.back_end, cost.rows, cost.columns, cost.batch) for cost in costs)
    for case in cases:
        measured = [cost for cost in costs if (cost.back_end, cost.rows, cost.columns, cost.batch) == case]
        cells = [crossover([cost for cost in measured if cost.product == product]) for product in PRODUCTS]
        back_end, height, width, batch = case
        rows.append([back_end, f"{height} x {width}", str(batch), *cells])
    return markdown_table(" | ".join(["back end", "rows x columns", "batch", *PRODUCTS]), rows)


def crossover(costs: Sequence[ProductCost]) -> str:
    """
    :param costs: Costs of one product at several densities
    :return: Density where both take as long, between the densities measured; ">" or "<" and a density if it lies beyond them
    """
    costs = sorted(costs, key=lambda cost: cost.density)
    ratios = [cost.sparse_ms / cost.dense_ms for cost in costs]
    if ratios[0] > 1.0:
        return f"< {costs[0].density:g}"
    for i in range(1, len(costs)):
        if ratios[i] > 1.0:
            part = (1.0 - ratios[i - 1]) / (ratios[i] - ratios[i - 1])
            return f"{costs[i - 1].density + part * (costs[i].density - costs[i - 1].density):.2f}"
    return f"> {costs[-1].density:g}"
