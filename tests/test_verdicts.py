"""The rule that makes a verdict of a table, and the page that holds the verdicts."""

from pathlib import Path

import numpy as np
import pytest

from sb3_sparse.experiments.verdicts import (
    CLAIMS,
    Claim,
    Evidence,
    _row,
    final_values,
    interval,
    stored_tables,
    verdict,
    write_verdicts,
)
from sb3_sparse.experiments.sweep.grid import load_grid

PAGE = Path(__file__).parent.parent / "docs" / "reproduce" / "verdicts.md"
HIGH, LOW = [9.0, 10.0, 11.0, 10.5, 9.5], [1.0, 2.0, 3.0, 2.5, 1.5]


@pytest.mark.parametrize(
    "ahead, behind, is_more_better, is_whole, expected",
    [
        (HIGH, LOW, True, True, "reproduced"),
        (HIGH, LOW, True, False, "reproduced at a smaller scale"),
        (LOW, HIGH, False, True, "reproduced"),
        (LOW, HIGH, True, True, "not reproduced: the reverse holds"),
        (HIGH, [value + 0.1 for value in HIGH], True, True, "not reproduced: no difference seen"),
        (HIGH[:4], LOW, True, True, "reproduced (a hint only)"),
        (HIGH[:1], LOW, True, True, "no verdict from one seed"),
    ],
)
def test_the_rule(ahead: list[float], behind: list[float], is_more_better: bool, is_whole: bool, expected: str) -> None:
    assert verdict(ahead, behind, is_more_better, is_whole) == expected


def test_intervals_are_those_of_scipy() -> None:
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    values = np.random.default_rng(1).normal(size=10).tolist()
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=2).confidence_interval
    assert interval(values) == pytest.approx(tuple(expected), abs=0.02)


def test_every_episode_of_the_last_part_counts_the_same() -> None:
    columns = {"run": "a", "final_return_mean": "", "total_env_steps": "100"}
    points = [("50", "7", "1"), ("80", "1", "3"), ("100", "5", "1")]
    lines = [{**columns, "env_steps": s, "return_mean": r, "episodes": n} for s, r, n in points]
    assert final_values(lines, "return_mean", 0.5) == {"a": pytest.approx(2.0)}
    lines = [{**line, "final_return_mean": "4"} for line in lines]
    assert final_values(lines, "return_mean", 0.5) == {"a": 4.0}


@pytest.mark.parametrize("budget, expected", [("full", "reproduced"), ("short", "reproduced at a smaller scale")])
def test_only_the_paper_s_own_runs_reproduce_a_figure(budget: str, expected: str) -> None:
    runs = [run for run in load_grid(Path("figure-9"), budget).runs if run.algorithm == "sac"]
    columns = {"final_return_mean": "", "total_env_steps": "100", "env_steps": "100", "episodes": "1", "cpu_seconds": "1"}
    columns |= {"task": runs[0].task, "commit": "abc", "hardware": "a machine"}
    lines = []
    for run in runs:
        for seed in range(5):  # a short grid has fewer
            arm, noise = str(bool(run.sparsity)), (run.sparsity > 0) * 10 + 0.1 * seed + run.seed
            lines.append(
                {**columns, "run": run.id if budget == "full" else f"{run.id}{seed}", "label": arm, "return_mean": str(noise)}
            )
    evidence = Evidence("a-table", {"label": "True"}, {"label": "False"})
    found = _row(Claim(9, "a claim", (evidence,)), evidence, lines)[2]
    assert found.removesuffix(" (a hint only)") == expected


def test_every_figure_has_a_claim() -> None:
    assert [claim.figure for claim in CLAIMS] == list(range(1, 19))


def test_the_page_says_what_the_tables_say(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    write_verdicts(page)
    assert page.read_text() == PAGE.read_text()
    assert {"streaming", "streaming-ant"} <= set(stored_tables())
