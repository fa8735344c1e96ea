"""Cost of one update and one action of SAC: stock SB3, ours in stock SB3, and our compiled update, in one run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_device

from sb3_sparse.experiments.markdown_table import markdown_table, spread
from sb3_sparse.arguments import check_integer
from sb3_sparse.experiments.benchmarks.contenders import BATCH_SIZE, OBSERVATION_DIM, STOCK, Contender, filled
from sb3_sparse.experiments.benchmarks.timing import Work, in_turn, median_ratio, seconds
from sb3_sparse.experiments.benchmarks.training_memory import training_memory
from sb3_sparse.training.programs import WARM_UPS

PREDICTIONS = 100


@dataclass(frozen=True)
class UpdateCost:
    """
    Cost of one contender, as :func:`~sb3_sparse.experiments.benchmarks.timing.seconds` measures it.

    :param width_scale: Width scale w
    :param variant: Name of the contender
    :param device: Name of the device
    :param update_ms: Milliseconds of one update in each round
    :param update_speedup: Median over rounds of the time of stock SB3 with a plain dense network of this width, divided by
        this contender's
    :param predict_ms: Milliseconds of one action for one observation in each round
    :param predict_speedup: The same for actions
    :param memory_bytes: Memory that training takes, without the replay buffer; None if it was not measured
    """

    width_scale: float
    variant: str
    device: str
    update_ms: Sequence[float]
    update_speedup: float
    predict_ms: Sequence[float]
    predict_speedup: float
    memory_bytes: int | None


def update_cost(
    contenders: Sequence[Contender],
    rounds: int = 7,
    updates: int = 5,
    device: str = "auto",
    memory: bool = True,
    threads: int = 1,
) -> list[UpdateCost]:
    """
    Time ``train()`` and ``predict()`` of all contenders in turn, round by round, so that a machine whose speed drifts is fair
    to all. On a GPU torch's matrix products use TF32, those of stock SB3 as well.

    :param contenders: What to compare; widths without stock SB3 among them get no ratio
    :param rounds: Timed rounds, after two that are not
    :param updates: Updates per round, in one call of ``train()``
    :param device: Device
    :param memory: Whether to measure memory as well, each contender in a process of its own
    :param threads: Threads of torch on a CPU
    :raises ValueError: if a number is not positive.
    """
    check_integer("rounds", rounds)
    check_integer("updates", updates)
    check_integer("threads", threads)
    kind = get_device(device).type
    if kind == "cuda":
        th.set_float32_matmul_precision("high")
    used = [training_memory(contender, device) if memory else None for contender in contenders]
    models = [filled(contender, device) for contender in contenders]
    if kind == "cpu":
        th.set_num_threads(threads)
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    if kind == "cuda":
        for model in models * 2:  # at first the states of optimizers are made, whereupon updates are captured anew
            model.train(WARM_UPS + 1, BATCH_SIZE)  # type: ignore[attr-defined]
    works: dict[tuple[str, int], Work] = {}
    for i, model in enumerate(models):
        works["update", i] = partial(model.train, updates, BATCH_SIZE)  # type: ignore[attr-defined]
        works["predict", i] = partial(_predict, model, observation)
    times = in_turn(works, rounds, lambda work: 1e3 * seconds(work, device, threads), warm_ups=2)
    update_ms = [[each / updates for each in times["update", i]] for i in range(len(models))]
    predict_ms = [[each / PREDICTIONS for each in times["predict", i]] for i in range(len(models))]
    name = th.cuda.get_device_name(get_device(device)) if kind == "cuda" else "CPU"
    return [
        UpdateCost(
            contender.width_scale,
            contender.variant,
            name,
            update_ms[i],
            _speedup(contenders, update_ms, i),
            predict_ms[i],
            _speedup(contenders, predict_ms, i),
            used[i],
        )
        for i, contender in enumerate(contenders)
    ]


def format_table(costs: Sequence[UpdateCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    titles = "w | variant | ms per update: median (min to max) | updates/s | SB3 / this | ms per action | SB3 / this | MiB"
    return markdown_table(titles, map(_cells, costs))


def _cells(cost: UpdateCost) -> list[str]:
    update, action = statistics.median(cost.update_ms), statistics.median(cost.predict_ms)
    memory = "not measured" if cost.memory_bytes is None else f"{cost.memory_bytes / 2**20:.0f}"
    updates = [spread(cost.update_ms, ".2f"), f"{1e3 / update:.0f}", f"{cost.update_speedup:.2f}"]
    actions = [f"{action:.3f}", f"{cost.predict_speedup:.2f}"]
    return [f"{cost.width_scale:g}", cost.variant, *updates, *actions, memory]


def _predict(model: BaseAlgorithm, observation: np.ndarray) -> None:
    for _ in range(PREDICTIONS):
        model.predict(observation)


def _speedup(contenders: Sequence[Contender], times: Sequence[Sequence[float]], i: int) -> float:
    stock = Contender(STOCK, contenders[i].width_scale)
    if stock not in contenders:
        return float("nan")
    return median_ratio(times[contenders.index(stock)], times[i])
