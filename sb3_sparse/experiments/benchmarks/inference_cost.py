"""Cost of one pass of a network for one observation: dense torch against active weights only, in torch and exported."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch as th

from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.common.architecture import simba_sizes
from sb3_sparse.common.networks import simba_network
from sb3_sparse.deployment.runtime import SparsePolicy
from sb3_sparse.deployment.step_list import steps_of
from sb3_sparse.experiments.benchmarks.contenders import ACTION_DIM, OBSERVATION_DIM
from sb3_sparse.experiments.benchmarks.timing import in_turn, mean_microseconds
from sb3_sparse.sparsity import prune, to_dense

SECONDS_PER_ROUND = 0.05


@dataclass(frozen=True)
class InferenceCost:
    """
    Process time of one pass, medians over rounds.

    :param network: "actor" or "critic", of humanoid's sizes
    :param width_scale: Width scale w
    :param sparsity: Fraction of its parameters that was removed
    :param dense_us: Microseconds of the dense torch module
    :param sparse_us: Microseconds of the sparse torch module
    :param exported_us: Microseconds of what ``load_policy`` returns for it
    """

    network: str
    width_scale: float
    sparsity: float
    dense_us: float
    sparse_us: float
    exported_us: float


def inference_cost(width_scales: Sequence[float], sparsities: Sequence[float], rounds: int = 7) -> list[InferenceCost]:
    """
    Time all variants in turn, on one thread.

    :param width_scales: Width scales w
    :param sparsities: Sparsities, in [0, 1)
    :param rounds: Timed rounds
    """
    threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        cases = itertools.product(("actor", "critic"), width_scales, sparsities)
        return [_network_cost(*case, rounds) for case in cases]
    finally:
        th.set_num_threads(threads)


@th.no_grad()
def _network_cost(network: str, width_scale: float, sparsity: float, rounds: int) -> InferenceCost:
    sizes = dict(zip(("actor", "critic"), simba_sizes(width_scale, 1.0), strict=True))
    input_dim = OBSERVATION_DIM if network == "actor" else OBSERVATION_DIM + ACTION_DIM
    output_dim = ACTION_DIM if network == "actor" else 1
    module = simba_network(input_dim, sizes[network], output_dim)
    prune(module, sparsity, generator=th.Generator().manual_seed(0))
    dense = to_dense(module)
    exported = SparsePolicy({"": (input_dim,)}, (output_dim,), steps_of(dense))
    observation = th.randn(1, input_dim)
    vector = observation[0].numpy()
    th.testing.assert_close(th.as_tensor(exported(vector)), dense(observation)[0], rtol=1e-4, atol=1e-4)
    works = {0: lambda: dense(observation), 1: lambda: module(observation), 2: lambda: exported(vector)}
    times = in_turn(works, rounds, lambda work: mean_microseconds(work, SECONDS_PER_ROUND))
    return InferenceCost(network, width_scale, sparsity, *map(statistics.median, times.values()))


def format_passes(costs: Sequence[InferenceCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    titles = "network | w | sparsity | dense torch, us | sparse torch, us | dense / sparse | exported, us | dense / exported"
    return markdown_table(titles, map(_cells, costs))


def _cells(cost: InferenceCost) -> list[str]:
    case = [cost.network, f"{cost.width_scale:g}", f"{cost.sparsity:g}", f"{cost.dense_us:.0f}"]
    return case + [cell for us in (cost.sparse_us, cost.exported_us) for cell in (f"{us:.0f}", f"{cost.dense_us / us:.2f}")]
