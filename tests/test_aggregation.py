"""Aggregated scores against numbers worked out by hand and published ones."""

import math

import numpy as np
import pytest

from sb3_sparse.experiments.figures.aggregation import aggregate, common_seeds, performance_profile, probability_of_improvement
from sb3_sparse.experiments.figures.normalized_scores import human_normalized, normalize
from sb3_sparse.experiments.figures.references import atari_scores, reference_curve

pytest.importorskip("rliable")


def test_statistics_worked_out_by_hand() -> None:
    # Two tasks, four seeds: of the eight scores 0 to 7, the middle half is 2, 3, 4, 5.
    found = aggregate({"a": dict(enumerate([0.0, 2.0, 4.0, 6.0])), "b": dict(enumerate([1.0, 3.0, 5.0, 7.0]))}, resamples=50)
    assert found is not None
    assert (found.iqm.value, found.mean.value, found.median.value) == (3.5, 3.5, 3.5)
    assert (found.tasks, found.seeds, found.left_out) == (2, 4, 0)
    assert found.iqm.low < 3.5 < found.iqm.high


def test_an_outlier_moves_the_mean_and_not_the_interquartile_mean() -> None:
    scores = dict(enumerate([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 100.0]))
    found = aggregate({"a": scores}, resamples=50)
    assert found is not None and found.iqm.value == 1.0 and found.mean.value == pytest.approx(107 / 8)


def test_intervals_hold_what_they_claim() -> None:
    """Of means of 20 normal variables: 1.96 standard errors on both sides."""
    values = np.random.default_rng(0).normal(size=20)
    found = aggregate({"a": dict(enumerate(values))}, resamples=2_000)
    assert found is not None
    half = 1.96 * values.std() / math.sqrt(20)
    assert found.mean.high - found.mean.low == pytest.approx(2 * half, rel=0.1)
    assert found == aggregate({"a": dict(enumerate(values))}, resamples=2_000)  # reproducible


def test_aggregation_leaves_random_numbers_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    aggregate({"a": {0: 1.0, 1: 2.0}}, resamples=10)
    assert np.random.random() == expected


def test_seeds_that_a_task_lacks_are_left_out_and_counted() -> None:
    matrix, left_out = common_seeds({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {1: 5.0, 2: 6.0, 3: 7.0}})
    np.testing.assert_array_equal(matrix, [[2.0, 5.0], [3.0, 6.0]])
    assert left_out == 2
    assert aggregate({"a": {0: 1.0}, "b": {1: 1.0}}) is None and aggregate({}) is None


def test_one_seed_has_no_interval() -> None:
    found = aggregate({"a": {0: 1.0}, "b": {0: 2.0}})
    assert found is not None and found.mean.value == 1.5 and math.isnan(found.mean.low)


def test_probability_of_improvement_worked_out_by_hand() -> None:
    # Task a: 3 of 4 pairs are won; task b: all are ties, which count half.
    better, worse = {"a": {0: 1.0, 1: 3.0}, "b": {0: 1.0, 1: 1.0}}, {"a": {0: 0.0, 1: 2.0}, "b": {0: 1.0, 1: 1.0}}
    found = probability_of_improvement(better, worse, resamples=20)
    assert found is not None and found.value == pytest.approx((0.75 + 0.5) / 2)
    assert probability_of_improvement({"a": {0: 1.0}}, {"b": {0: 1.0}}) is None


def test_performance_profile_worked_out_by_hand() -> None:
    profile = performance_profile({"a": {0: 0.0, 1: 1.0}, "b": {0: 2.0, 1: 3.0}}, np.array([-1.0, 0.5, 2.0, 3.0]))
    assert profile is not None
    np.testing.assert_array_equal(profile, [1.0, 0.75, 0.25, 0.0])


def test_scales() -> None:
    assert normalize("dmc", "dm_control/dog-run-v0", 500.0) == 0.5 and normalize("return", "Ant-v4", 7.0) == 7.0
    assert normalize("atari", "ALE/Breakout-v5", 30.5) == pytest.approx(1.0, abs=0.01)  # a human's score
    assert human_normalized("ALE/Pong-v5", -20.7) == pytest.approx(0.0)
    assert math.isnan(human_normalized("ALE/Pong-v5", math.nan))
    with pytest.raises(ValueError, match="26 games"):
        human_normalized("ALE/Tetris-v5", 1.0)


def human_scores(column: str) -> dict[str, dict[int, float]]:
    return {game: {0: human_normalized(f"ALE/{game}-v5", row[column])} for game, row in atari_scores().items()}


@pytest.mark.parametrize(("column", "mean", "median"), [("der", 0.3503, 0.1894), ("van_hasselt", 0.285, 0.161)])
def test_published_scores_come_to_the_published_aggregates(column: str, mean: float, median: float) -> None:
    """Agarwal et al. (2021) for DER, Schwarzer et al. (2021) for van Hasselt's; the others need every single run."""
    assert len(atari_scores()) == 26 and atari_scores()["Pong"]["human"] == 14.6
    found = aggregate(human_scores(column))
    assert found is not None and found.tasks == 26 and math.isnan(found.mean.low)
    assert found.mean.value == pytest.approx(mean, abs=5e-4)
    assert found.median.value == pytest.approx(median, abs=5e-4)
    if column == "der":  # of the true runs
        assert found.iqm.value == pytest.approx(0.183, abs=0.02)


def test_normal_runs_with_the_published_spread_come_close_to_the_published_gap() -> None:
    """0.698 over the true runs, of which only mean and standard deviation are at hand; their IQM of 0.183 is not normal's."""
    rng = np.random.default_rng(0)
    drawn = {game: rng.normal(row["der"], row["der_std"], 100) for game, row in atari_scores().items()}
    scores = {g: {i: human_normalized(f"ALE/{g}-v5", value) for i, value in enumerate(values)} for g, values in drawn.items()}
    found = aggregate(scores, resamples=200)
    assert found is not None and found.seeds == 100
    assert found.optimality_gap.value == pytest.approx(0.698, abs=0.01)
    assert found.mean.value == pytest.approx(0.350, abs=0.02)
    for estimate in (found.iqm, found.mean, found.median, found.optimality_gap):
        assert estimate.low < estimate.value < estimate.high


def test_human_normalised_by_hand() -> None:
    assert human_normalized("ALE/Breakout-v5", 1.7) == 0.0 and human_normalized("ALE/Breakout-v5", 30.5) == 1.0
    assert human_normalized("ALE/Breakout-v5", 16.1) == pytest.approx(0.5)


def test_aggregates_by_hand() -> None:
    # Without the smallest and the largest quarter 0.375 remains; what is missing to 1 is 1, 0.75, 0.5 and, above it, 0.
    found = aggregate({"Breakout": {0: 0.0, 1: 0.25, 2: 0.5, 3: 1.5}}, resamples=50)
    assert found is not None
    values = [estimate.value for estimate in (found.iqm, found.mean, found.median, found.optimality_gap)]
    assert values == pytest.approx([0.375, 0.5625, 0.5625, 0.5625])


@pytest.mark.parametrize(
    ("algorithm", "task", "step", "mean"),
    [
        ("sac", "dm_control/dog-walk-v0", 200_000, 475),
        ("sac", "dm_control/humanoid-walk-v0", 500_000, 442),
        ("drqv2", "dm_control/quadruped-run-pixels-v0", 1_000_000, 459.5),
        ("drqv2", "dm_control/ball_in_cup-catch-pixels-v0", 100_000, 359.0),
        ("stream_ac", "Walker2d-v4", 250_000, (385 + 343) / 2),
    ],
)
def test_published_curves(algorithm: str, task: str, step: int, mean: float) -> None:
    curve = reference_curve(algorithm, task)
    assert curve is not None
    assert curve.means[curve.env_steps.index(step)] == pytest.approx(mean, abs=1.0)


def test_no_published_curve_is_made_up() -> None:
    assert reference_curve("sac", "dm_control/cartpole-swingup-v0") is None and reference_curve("ppo", "Walker2d-v4") is None
