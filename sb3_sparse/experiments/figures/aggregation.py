"""Scores of several tasks and seeds in one number with an interval (Agarwal et al., 2021), computed by rliable."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_sparse.installation import import_extra

# Task -> seed -> score.
Scores = Mapping[str, Mapping[int, float]]
RESAMPLES = 1_000


@dataclass(frozen=True)
class Estimate:
    """
    A statistic and its 95 % interval.

    :param value: Statistic
    :param low: Lower end; NaN if there is one seed only
    :param high: Upper end
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """
    Aggregated scores.

    :param iqm: Interquartile mean over tasks and seeds
    :param mean: Mean over tasks of the means over seeds
    :param median: Median over tasks of the means over seeds
    :param optimality_gap: How much is missing to a score of 1, where it is missing, on average over tasks and seeds
    :param tasks: Number of tasks
    :param seeds: Number of seeds that all tasks have
    :param left_out: Scores that were left out, as their seed is missing in another task
    """

    iqm: Estimate
    mean: Estimate
    median: Estimate
    optimality_gap: Estimate
    tasks: int
    seeds: int
    left_out: int


def aggregate(scores: Scores, resamples: int = RESAMPLES) -> Aggregate | None:
    """
    Aggregate scores, with stratified bootstrap intervals: seeds are drawn anew within each task.

    Statistics over tasks need the same seeds in each: those that a task lacks are left out, and counted.

    :param scores: Task -> seed -> score
    :param resamples: Number of bootstrap samples
    :return: Aggregated scores, None if there is no seed that all tasks have
    """
    matrix, left_out = common_seeds(scores)
    if matrix.size == 0:
        return None
    values = _statistics(matrix)
    if len(matrix) == 1:
        intervals = np.full((2, len(values)), np.nan)
    else:
        library = import_extra("rliable.library", "plots")
        with _seeded():
            found = library.get_interval_estimates({"arm": matrix}, _statistics, reps=resamples)
        intervals = found[1]["arm"]
    estimates = [Estimate(float(v), float(low), float(high)) for v, low, high in zip(values, *intervals, strict=True)]
    iqm, mean, median, gap = estimates
    return Aggregate(iqm, mean, median, gap, matrix.shape[1], len(matrix), left_out)


def probability_of_improvement(better: Scores, worse: Scores, resamples: int = RESAMPLES) -> Estimate | None:
    """
    Probability that a run of one arm scores higher than one of another on the same task, averaged over tasks.

    :param better: Scores of the one
    :param worse: Scores of the other
    :param resamples: Number of bootstrap samples
    :return: Probability with its interval; None if they have no task in common
    """
    tasks = [task for task in better if task in worse]
    pair = tuple(common_seeds({task: scores[task] for task in tasks})[0] for scores in (better, worse))
    if not tasks or min(matrix.size for matrix in pair) == 0:
        return None
    metrics = import_extra("rliable.metrics", "plots")
    value = float(metrics.probability_of_improvement(*pair))
    if min(len(matrix) for matrix in pair) == 1:
        return Estimate(value, float("nan"), float("nan"))
    library = import_extra("rliable.library", "plots")
    with _seeded():
        _, found = library.get_interval_estimates({"pair": pair}, metrics.probability_of_improvement, reps=resamples)
    return Estimate(value, *(float(end) for end in found["pair"].reshape(-1)))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray | None:
    """
    Fraction of runs that score above a threshold.

    :param scores: Task -> seed -> score
    :param thresholds: (thresholds,)
    :return: (thresholds,), None without scores
    """
    matrix, _ = common_seeds(scores)
    if matrix.size == 0:
        return None
    above = import_extra("rliable.library", "plots").run_score_deviation
    return np.array([above(matrix, threshold) for threshold in thresholds])


def common_seeds(scores: Scores) -> tuple[np.ndarray, int]:
    """
    The scores that can be compared across tasks.

    :param scores: Task -> seed -> score
    :return: (seeds, tasks), and how many scores are in no complete row
    """
    if not scores:
        return np.zeros((0, 0)), 0
    seeds = sorted(set.intersection(*(set(of_task) for of_task in scores.values())))
    matrix = np.array([[of_task[seed] for of_task in scores.values()] for seed in seeds]).reshape(len(seeds), len(scores))
    return matrix, sum(map(len, scores.values())) - matrix.size


def _statistics(matrix: np.ndarray) -> np.ndarray:
    metrics: Any = import_extra("rliable.metrics", "plots")
    return np.array([getattr(metrics, f"aggregate_{name}")(matrix) for name in ("iqm", "mean", "median", "optimality_gap")])


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from NumPy's global generator: the same table gives the same intervals, and nobody's numbers change."""
    state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
        random.setstate(python_state)
