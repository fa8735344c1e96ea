"""
Published results that our curves are drawn upon.

``sac_simba_dmc.csv``: SimBa's own results with SAC, two updates per step, dense, default size (Lee et al., 2024).
``drqv2_dmc.csv``: DrQ-v2's own (Yarats et al., 2022). ``stream_ac.csv``: the authors' code of Stream AC, run for two seeds
with its default network; returns of training episodes, at the middle of the window that they ended in.
``atari_100k.csv``: the 26 games of Atari-100k: random play and a human (Mnih et al., 2015; Badia et al., 2020), Dopamine's DER
with a Nature CNN (Agarwal et al., 2021: mean and standard deviation over 100 runs), DER's authors (van Hasselt et al., 2019,
as listed by Schwarzer et al., 2021).
"""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from sb3_sparse.experiments.sweep.grid_run import short_task

FOLDER = Path(__file__).parents[1] / "references"
# Algorithm -> file of its published curves, and what they are of.
_CURVES = {
    "sac": ("sac_simba_dmc.csv", "SimBa's own SAC, dense, w = 1"),
    "drqv2": ("drqv2_dmc.csv", "DrQ-v2's own"),
    "stream_ac": ("stream_ac.csv", "the authors' code, width 128"),
}
_OTHER_NAMES = {"ball_in_cup": "cup"}


@dataclass(frozen=True)
class ReferenceCurve:
    """
    A published learning curve.

    :param label: Whose it is
    :param env_steps: Environment steps
    :param means: Mean returns over seeds
    :param stds: Their standard deviations
    :param seeds: Number of seeds
    """

    label: str
    env_steps: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    seeds: int


def reference_curve(algorithm: str, task: str) -> ReferenceCurve | None:
    """
    Find a published learning curve.

    :param algorithm: The zoo's name of the algorithm
    :param task: Environment id
    :return: The curve, None if there is none
    """
    if algorithm not in _CURVES:
        return None
    file, label = _CURVES[algorithm]
    points = [line for line in _read(file) if _same(line["task"], task)]
    if not points:
        return None
    return ReferenceCurve(
        label=label,
        env_steps=tuple(int(point["env_steps"]) for point in points),
        means=tuple(float(point["mean_return"]) for point in points),
        stds=tuple(float(point["std_return"]) for point in points),
        seeds=int(points[0]["seeds"]),
    )


def atari_scores() -> dict[str, dict[str, float]]:
    """Game -> its published scores: "random", "human", "der", "der_std", "van_hasselt"."""
    return {line["game"]: {key: float(line[key]) for key in line if key != "game"} for line in _read("atari_100k.csv")}


@functools.lru_cache
def _read(file: str) -> tuple[dict[str, str], ...]:
    with (FOLDER / file).open(newline="") as lines:
        return tuple(csv.DictReader(lines))


def _same(published: str, task: str) -> bool:
    """Whether a published task is an environment id's: "cup_catch" is dm_control's "ball_in_cup-catch"."""
    name = re.sub(r"-pixels$|-vision$", "", short_task(task))
    for long, short in _OTHER_NAMES.items():
        name = name.replace(long, short)
    return re.sub("[-_]", "", re.sub(r"-v\d+$", "", published)) == re.sub("[-_]", "", name)
