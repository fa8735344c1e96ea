"""Scores of Atari-100k: human-normalised, and aggregated over games as Agarwal et al. (2021) do."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.common.extras import import_extra

TABLE = Path(__file__).parent / "results" / "atari_100k_scores.json"
METRICS = ("mean", "median", "iqm", "optimality_gap")


@dataclass(frozen=True)
class GameScores:
    """
    Published scores of one game.

    :param random: Of random actions
    :param human: Of a professional tester
    :param der: Of DER with a Nature CNN (Agarwal et al., 2021), mean over 100 runs
    :param der_std: Standard deviation over these runs
    :param van_hasselt: Of DER's authors (van Hasselt et al., 2019)
    """

    random: float
    human: float
    der: float
    der_std: float
    van_hasselt: float


@dataclass(frozen=True)
class Aggregate:
    """
    One number for all games.

    :param metric: "mean", "median", "iqm" or "optimality_gap"
    :param value: Of the runs given
    :param low: Lower end of the 95 % stratified bootstrap interval; NaN with a single run per game, which has none
    :param high: Its upper end
    """

    metric: str
    value: float
    low: float
    high: float


@cache
def published() -> Mapping[str, GameScores]:
    """The 26 games of Atari-100k, by name ("Breakout"), and their published scores."""
    return {game: GameScores(**scores) for game, scores in json.loads(TABLE.read_text())["games"].items()}


def human_normalized(game: str, score: float) -> float:
    """
    :param game: Name of a game, such as "Breakout"
    :param score: Score in it
    :return: 0 for random actions, 1 for a human
    :raises ValueError: if it is none of the 26 games.
    """
    if game not in published():
        raise ValueError(f"{game!r} is none of the {len(published())} games of Atari-100k: {', '.join(published())}.")
    scores = published()[game]
    return (score - scores.random) / (scores.human - scores.random)


def aggregate(scores: Mapping[str, Sequence[float]], repetitions: int = 2_000, seed: int = 0) -> list[Aggregate]:
    """
    Aggregate human-normalised scores over games and runs by rliable: mean and median of the games' means, interquartile mean
    of all runs, and optimality gap (how much is missing to 1), with 95 % intervals.

    :param scores: Game -> scores of its runs, as many for every game
    :param repetitions: Bootstrap samples behind the intervals
    :param seed: Seed of these
    :raises ValueError: if games have different numbers of runs, or are not known.
    :raises ImportError: if rliable is missing.
    """
    matrix = _matrix(scores)
    metrics: Any = import_extra("rliable.metrics", "plots")
    library: Any = import_extra("rliable.library", "plots")

    def values(runs: np.ndarray) -> np.ndarray:
        return np.array([getattr(metrics, f"aggregate_{name}")(runs) for name in METRICS])

    if len(matrix) == 1:
        intervals = np.full((2, len(METRICS)), np.nan)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="random_state is deprecated")  # of arch, which rliable calls so
            state = np.random.RandomState(seed)
            _, found = library.get_interval_estimates({"": matrix}, values, reps=repetitions, random_state=state)
        intervals = found[""]
    return [Aggregate(*line) for line in zip(METRICS, map(float, values(matrix)), *intervals.tolist(), strict=True)]


def format_scores(scores: Mapping[str, Sequence[float]], aggregates: Sequence[Aggregate]) -> str:
    """
    :param scores: Game -> scores of its runs
    :param aggregates: What they come to
    :return: Two Markdown tables
    """
    lines = ["| game | runs | score | human-normalised | published DER |", "|---|---|---|---|---|"]
    for game, runs in scores.items():
        mean = float(np.mean(runs))
        normalized = human_normalized(game, mean)
        lines.append(f"| {game} | {len(runs)} | {mean:.1f} | {normalized:.3f} | {published()[game].der:.1f} |")
    lines += ["", f"| over {len(scores)} games | value | 95 % interval |", "|---|---|---|"]
    for part in aggregates:
        interval = "one run has none" if np.isnan(part.low) else f"{part.low:.3f} to {part.high:.3f}"
        lines.append(f"| {part.metric.replace('_', ' ')} | {part.value:.3f} | {interval} |")
    return "\n".join(lines)


def format_improvements(scores: Mapping[str, Mapping[str, Sequence[float]]], default: Mapping[str, Sequence[float]]) -> str:
    """
    What the paper's figure 18 shows: by how much the mean score exceeds that of the default network.

    :param scores: Name of a network -> game -> scores of its runs
    :param default: Game -> scores of the default network's runs
    :return: Markdown table of percentages
    """
    lines = [f"| game | {' | '.join(scores)} |", "|---" * (len(scores) + 1) + "|"]
    for game, runs in default.items():
        base = float(np.mean(runs))
        gains = [100 * (float(np.mean(network[game])) - base) / abs(base) if base else np.nan for network in scores.values()]
        lines.append(f"| {game} | {' | '.join(f'{gain:+.1f} %' for gain in gains)} |")
    return "\n".join(lines)


def _matrix(scores: Mapping[str, Sequence[float]]) -> np.ndarray:
    """(runs, games) normalised scores."""
    counts = {game: len(runs) for game, runs in scores.items()}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"Every game needs the same number of runs, at least one; got {counts}.")
    return np.array([[human_normalized(game, score) for score in runs] for game, runs in scores.items()]).T
