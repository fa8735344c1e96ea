"""Timing of several kinds of work in turn, round by round, so that a machine whose speed drifts is fair to all."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.utils import get_device

Key = TypeVar("Key", bound=Hashable)
Work = Callable[[], Any]


def prepare(device: str) -> str:
    """
    Have torch use one thread on a CPU, and TF32 for matrix products on a GPU.

    :param device: Device, "auto" as SB3 takes it
    :return: Its name
    """
    used = get_device(device)
    if used.type != "cuda":
        th.set_num_threads(1)
        return "CPU"
    th.set_float32_matmul_precision("high")
    return th.cuda.get_device_name(used)


def seconds(work: Work, device: str = "cpu", threads: int = 1) -> float:
    """
    Time some work: process time on a CPU, elapsed time with several threads there, time until the GPU is done on a GPU.

    :param work: Does it
    :param device: Device that it runs on
    :param threads: Threads that it has on a CPU
    """
    if (gpu := get_device(device)).type == "cuda":
        th.cuda.synchronize(gpu)
        start = time.perf_counter()
        work()
        th.cuda.synchronize(gpu)
        return time.perf_counter() - start
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def mean_microseconds(work: Work, seconds: float) -> float:
    """
    Time work that is too short for a clock: over and over.

    :param work: Does it
    :param seconds: For how long, of process time
    :return: Microseconds of process time of one
    """
    repeats, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(10):
            work()
        repeats += 10
    return (time.process_time() - start) / repeats * 1e6


def in_turn(
    works: Mapping[Key, Work], rounds: int, measure: Callable[[Work], float] = seconds, warm_ups: int = 1
) -> dict[Key, list[float]]:
    """
    :param works: What to time
    :param rounds: Timed rounds
    :param measure: Times one
    :param warm_ups: Rounds before, which do not count
    :return: What was measured in each round
    """
    found: dict[Key, list[float]] = {key: [] for key in works}
    for timed_round in range(-warm_ups, rounds):
        for key, work in works.items():
            measured = measure(work)
            if timed_round >= 0:
                found[key].append(measured)
    return found


def median_ratio(these: Sequence[float], others: Sequence[float]) -> float:
    """
    :param these: Measured in each round
    :param others: The same of something else
    :return: Median over rounds of the former divided by the latter
    """
    return statistics.median(this / other for this, other in zip(these, others, strict=True))
