"""Verdicts on the paper's figures, from the stored tables: ``python -m sb3_sparse.experiments.verdicts PAGE``."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from sb3_sparse.experiments.sweep.grid import load_grid
from sb3_sparse.experiments.sweep.grid_results import FINAL_FRACTION
from sb3_sparse.experiments.sweep.grid_run import key_of, short_task
from sb3_sparse.experiments.sweep.grid_table import Lines, read_table

RESAMPLES = 10_000
# With fewer seeds an interval says little.
FEWEST_SEEDS = 5
BEGIN, END = "<!-- verdicts, written by a command -->", "<!-- end of the verdicts -->"
_HEAD = [
    *("figure", "what the paper shows", "verdict", "evidence (mean and 95 % interval)", "seeds", "CPU hours"),
    *("table, commit, machine", "draw it"),
]


@dataclass(frozen=True)
class Evidence:
    """
    Two arms of a stored table, of which the paper says which one is ahead.

    :param table: Name of the table
    :param ahead: Column -> value of the arm that is ahead by the paper
    :param behind: The same of the other
    :param column: What is compared
    :param is_more_better: Whether the arm ahead has the larger value
    :param last: Fraction of a run at its end over which values are averaged, 1 for the area under the curve
    """

    table: str
    ahead: Mapping[str, str]
    behind: Mapping[str, str]
    column: str = "return_mean"
    is_more_better: bool = True
    last: float = FINAL_FRACTION


@dataclass(frozen=True)
class Claim:
    """
    What a figure of the paper shows.

    :param figure: Its number
    :param text: What it shows
    :param evidence: Stored tables that speak for or against it
    """

    figure: int
    text: str
    evidence: tuple[Evidence, ...] = ()


def _streaming(table: str, task: str, width: int, last: float = FINAL_FRACTION) -> Evidence:
    arm = {"task": task, "width": str(width), "init": "dense"}
    return Evidence(table, {**arm, "sparsity": "0.9"}, {**arm, "sparsity": "0.0"}, last=last)


def _pays(column: str = "return_mean", is_more_better: bool = True) -> tuple[Evidence, ...]:
    arms = [
        (f"w = {w}, S = 0.9, {n}", f"w = {w}, S = 0, {n}") for w in (0.25, 0.5) for n in ("1 update", "4 updates", "8 updates")
    ]
    return tuple(
        Evidence("where-sparsity-pays", {"label": sparse}, {"label": dense}, column, is_more_better) for sparse, dense in arms
    )


# The last 25,000 of 150,000 steps, as the grid says beforehand.
_ANT = _streaming("streaming-ant", "Ant-v4", 128, last=1 / 6)
_WALKER = tuple(_streaming("streaming", "Walker2d-v4", width) for width in (128, 512))
_WHOLE_CURVES = tuple(replace(evidence, last=1.0) for evidence in (_ANT, *_WALKER))
CLAIMS = (
    Claim(1, "Dense networks stop improving with size, sparse ones go on"),
    Claim(2, "At equal parameters, wider and sparser networks are ahead"),
    Claim(3, "Large networks at S = 0.9 end above dense ones", _pays()),
    Claim(4, "The sparse critic keeps a higher Srank", _pays("critic_srank")),
    Claim(5, "The sparse critic has fewer dormant units", _pays("critic_dormant", is_more_better=False)),
    Claim(6, "Reset helps the large dense network, not the sparse one"),
    Claim(7, "The sparse critic's parameters have a smaller norm", _pays("critic_parameter_norm", is_more_better=False)),
    Claim(8, "Sparse networks have a higher simplicity bias score"),
    Claim(9, "Gradients of sparse networks interfere less after training"),
    Claim(10, "Visual RL: wide dense critics fall behind, sparse ones do not"),
    Claim(11, "Visual RL: the wide sparse critic keeps more active units"),
    Claim(12, "Streaming: static sparsity keeps wide networks ahead of dense ones", _WALKER[1:]),
    Claim(13, "Streaming: static sparsity ends above dense networks", (_ANT, *_WALKER)),
    Claim(14, "As figure 1, by the number of parameters"),
    Claim(15, "As figure 2, width, task by task"),
    Claim(16, "As figure 2, depth, task by task"),
    Claim(17, "Streaming: static sparsity learns faster at each width", _WHOLE_CURVES),
    Claim(18, "Atari-100k: wide sparse networks improve on the default"),
)


def final_values(lines: Lines, column: str, last: float) -> dict[str, float]:
    """
    Final value of every run: of returns that of the evaluation at its end if there was one, else the mean over the last part,
    in which every episode counts the same. Over a whole run it is the area under the curve, the mean of its points.

    :param lines: Lines of a table
    :param column: Column
    :param last: Fraction of a run
    :return: Run -> value
    """
    runs: dict[str, Lines] = defaultdict(list)
    for line in lines:
        runs[line["run"]].append(line)
    return {run: _final(points, column, last) for run, points in runs.items()}


def _final(points: Lines, column: str, last: float) -> float:
    if column == "return_mean" and points[0]["final_return_mean"] != "":
        return float(points[0]["final_return_mean"])
    begin = (1 - last) * int(points[0]["total_env_steps"])
    found = [point for point in points if int(point["env_steps"]) > begin and point[column] != ""]
    weights = [float(point["episodes"]) for point in found] if column == "return_mean" and last < 1 else None
    return float(np.average([float(point[column]) for point in found], weights=weights))


def interval(values: Sequence[float], other: Sequence[float] | None = None) -> tuple[float, float]:
    """
    95 % bootstrap interval, over seeds, of a mean, or of the difference between two.

    :param values: A value for each seed
    :param other: Values whose mean is subtracted
    :return: Lower and upper end
    """
    generator = np.random.default_rng(0)
    means = [
        np.asarray(found)[generator.integers(len(found), size=(RESAMPLES, len(found)))].mean(axis=1)
        for found in (values, other)
        if found is not None
    ]
    low, high = np.percentile(means[0] - means[1] if len(means) > 1 else means[0], [2.5, 97.5])
    return float(low), float(high)


def verdict(ahead: Sequence[float], behind: Sequence[float], is_more_better: bool, is_whole: bool) -> str:
    """
    Whether the arm that the paper has ahead is ahead.

    :param ahead: Final values of that arm, one for each seed
    :param behind: Those of the other
    :param is_more_better: Whether ahead means more
    :param is_whole: Whether the runs are the paper's: its networks, settings and length
    """
    if min(len(ahead), len(behind)) < 2:
        return "no verdict from one seed"
    low, high = interval(ahead, behind) if is_more_better else interval(behind, ahead)
    found = (
        "reproduced" if low > 0 else "not reproduced: the reverse holds" if high < 0 else "not reproduced: no difference seen"
    )
    if low > 0 and not is_whole:
        found = "reproduced at a smaller scale"
    return found if min(len(ahead), len(behind)) >= FEWEST_SEEDS else f"{found} (a hint only)"


def stored_tables() -> dict[str, Lines]:
    """Name -> lines of the tables that the package has."""
    folder = resources.files("sb3_sparse.experiments") / "results"
    paths = sorted(Path(str(path)) for path in folder.iterdir() if path.name.endswith(".csv"))
    return {path.stem: read_table(path) for path in paths}


def verdict_table(tables: Mapping[str, Lines]) -> str:
    """
    The table of verdicts.

    :param tables: Stored tables
    :return: Markdown
    """
    rows = [row for claim in CLAIMS for row in _rows(claim, tables) or [_not_run(claim)]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEAD, ["---"] * len(_HEAD), *rows))


def verdicts_on(figure: int, lines: Lines | None = None) -> list[str]:
    """
    What runs say about a figure of the paper.

    :param figure: Its number
    :param lines: Lines of their table; the tables that the package has if None
    :return: Verdict and evidence, for each pair of arms that is there
    """
    claim = claim_of(figure)
    tables = stored_tables() if lines is None else {evidence.table: lines for evidence in claim.evidence}
    return list(dict.fromkeys(f"{row[2]}: {row[3]}" for row in _rows(claim, tables)))


def claim_of(figure: int) -> Claim:
    """
    What a figure of the paper shows.

    :param figure: Its number
    """
    return next(claim for claim in CLAIMS if claim.figure == figure)


def _rows(claim: Claim, tables: Mapping[str, Lines]) -> list[list[str]]:
    there = (evidence for evidence in claim.evidence if _is_there(evidence, tables))
    return [_row(claim, evidence, tables[evidence.table]) for evidence in there]


def _is_there(evidence: Evidence, tables: Mapping[str, Lines]) -> bool:
    lines = tables.get(evidence.table, [])
    return bool(_of(lines, evidence.ahead) and _of(lines, evidence.behind))


def _of(lines: Lines, arm: Mapping[str, str]) -> Lines:
    return [line for line in lines if all(line[column] == value for column, value in arm.items())]


def _row(claim: Claim, evidence: Evidence, table: Lines) -> list[str]:
    arms = [_of(table, arm) for arm in (evidence.ahead, evidence.behind)]
    values = [list(final_values(lines, evidence.column, evidence.last).values()) for lines in arms]
    first = arms[0][0]
    paper = {run.key for run in load_grid(Path(f"figure-{claim.figure}"), "full").runs}
    found = verdict(
        values[0], values[1], evidence.is_more_better, {key_of(line["run"]) for lines in arms for line in lines} <= paper
    )
    shown = "; ".join(f"{lines[0]['label']}: {_mean(of_arm)}" for lines, of_arm in zip(arms, values, strict=True))
    runs = {line["run"]: line for lines in arms for line in lines}.values()
    hours = sum(float(line["cpu_seconds"]) for line in runs) / 3600
    hardware = " and ".join(sorted({line["hardware"] for line in runs}))
    return [
        str(claim.figure),
        claim.text,
        found,
        f"{short_task(first['task'])}, {_what(evidence)}: {shown}",
        " and ".join(str(count) for count in sorted({len(of_arm) for of_arm in values})),
        f"{hours:.1f}",
        f"`{evidence.table}.csv`, {first['commit']}, {hardware}",
        f"`python -m sb3_sparse plot sb3_sparse/experiments/results/{evidence.table}.csv`",
    ]


def _what(evidence: Evidence) -> str:
    name = evidence.column.removesuffix("_mean").replace("_", " ")
    return f"{name}, whole curve" if evidence.last == 1 else f"final {name}"


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    low, high = interval(values)
    return f"{np.mean(values):.4g} ({low:.4g} to {high:.4g})"


def _not_run(claim: Claim) -> list[str]:
    runs = load_grid(Path(f"figure-{claim.figure}"), "full").runs
    size = f"{len(runs):,} runs, {sum(run.agent_steps for run in runs) / 1e6:,.0f} million agent steps"
    return [
        str(claim.figure),
        claim.text,
        "not affordable here",
        size,
        "",
        "",
        "",
        f"`python -m sb3_sparse figure {claim.figure} --budget full`",
    ]


def write_verdicts(page: Path) -> None:
    """
    Renew the table of verdicts in a page, between its two marks.

    :param page: Markdown file
    """
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{verdict_table(stored_tables())}\n\n{END}{after}")


if __name__ == "__main__":
    write_verdicts(Path(sys.argv[1]))
