"""Returns of different tasks on one scale."""

import math

from sb3_sparse.experiments.figures.references import atari_scores
from sb3_sparse.experiments.sweep.grid_run import short_task

# Scales, and what numbers on them are.
UNITS = {"dmc": "return / 1000", "atari": "human-normalised", "return": "return"}
DMC_MAXIMUM = 1_000.0  # a task of the DeepMind Control Suite pays at most 1 in each of its 1000 steps


def normalize(scale: str, task: str, value: float) -> float:
    """
    Put a return on a scale.

    :param scale: "dmc": divided by 1000; "atari": 0 for random play, 1 for a human; "return": as it is
    :param task: Environment id
    :param value: Return of an episode
    """
    if scale == "dmc":
        return value / DMC_MAXIMUM
    if scale == "atari":
        return human_normalized(task, value)
    return value


def human_normalized(task: str, value: float) -> float:
    """
    Human-normalised score of an Atari game: (score - random) / (human - random).

    :param task: Environment id, e.g. "ALE/Breakout-v5"
    :param value: Score of a game; NaN stays NaN
    :raises ValueError: for a game that is not among the 26 of Atari-100k.
    """
    games = atari_scores()
    game = short_task(task)
    if game not in games:
        raise ValueError(f"{task} is none of the 26 games of Atari-100k, so there is no human score for it.")
    random, human = games[game]["random"], games[game]["human"]
    return (value - random) / (human - random) if math.isfinite(value) else value
