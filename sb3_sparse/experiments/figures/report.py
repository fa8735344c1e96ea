"""Results of grids as one self-contained HTML page: figures, tables, commands and where everything comes from."""

import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.figures import html
from sb3_sparse.experiments.figures.aggregation import Estimate, aggregate, performance_profile, probability_of_improvement
from sb3_sparse.experiments.figures.grid_figures import draw_figure
from sb3_sparse.experiments.figures.grid_panels import arm_label, arm_styles, of, pairs_of, panel_name
from sb3_sparse.experiments.figures.normalized_scores import UNITS, normalize
from sb3_sparse.experiments.figures.panels import Panels, name_panel
from sb3_sparse.experiments.figures.references import atari_scores, reference_curve
from sb3_sparse.experiments.verdicts import claim_of, verdicts_on
from sb3_sparse.experiments.sweep.grid import Grid, parse_grid
from sb3_sparse.experiments.sweep.grid_results import FINAL_FRACTION, GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun, key_of, short_task
from sb3_sparse.experiments.sweep.grid_table import Lines
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder
from sb3_sparse.experiments.sweep.sweep_progress import duration
from sb3_sparse.experiments.writing import write_text

Rows = list[list[str]]
_MADE_WITH = ("hardware", "version", "commit", "date")
_ORIGIN = "Where the runs come from"


def write_report(results: Path, path: Path) -> Path:
    """
    Write the page.

    :param results: Folder of results, which at least one grid was run in
    :param path: HTML file
    :return: That file
    :raises ValueError: if the folder holds no grid.
    """
    folder = ResultsFolder(results)
    noted = folder.noted_grids() if results.is_dir() else []
    if not noted:
        raise ValueError(f"{results} holds no results of a grid: give the folder that sweep or figure wrote to (--output).")
    import_extra("matplotlib", "plots")
    import_extra("rliable", "plots")
    table, records = folder.collect(), {key_of(name): record for name, record in folder.records().items()}
    grids = [parse_grid(facts["source"], facts["stem"], facts["budget"]) for facts in noted]
    sections = [_section(grid, facts["command"], table, records, folder) for grid, facts in zip(grids, noted, strict=True)]
    title = f"sb3-sparse: {len(noted)} grid{'s' if len(noted) > 1 else ''}, {len(records)} runs"
    link = os.path.relpath(folder.table, path.parent)
    beginning = [_abstract(grids, table, records), _contents(grids), _introduction(link)]
    write_text(path, html.page(title, [*beginning, *sections, _provenance(records)]))
    return path


def _abstract(grids: Sequence[Grid], table: Lines, records: Mapping[str, Any]) -> str:
    """How much was run on what, and the verdicts on figures of the paper."""
    hardware = sorted({str(record["hardware"]) for record in records.values()})
    text = f"<p>{len(records)} runs are finished, in {_spent(records.values())}, on {escape('; '.join(hardware))}.</p>"
    rows = []
    for number in dict.fromkeys(grid.figure for grid in grids if grid.figure is not None):
        ours, stored = (verdicts_on(number, lines) for lines in (table, None))
        says = ["; ".join(found) or "nothing yet" for found in (ours, stored)]
        rows.append([str(number), claim_of(number).text, *says])
    return text + html.table(["figure", "what the paper shows", "these runs", "tables that come with sb3-sparse"], rows)


def _contents(grids: Sequence[Grid]) -> str:
    names = {grid.name: f"{grid.name}: {grid.title}" for grid in grids} | {"origin": _ORIGIN}
    items = "".join(f"<li><a href={html.attribute('#' + name)}>{escape(title)}</a></li>" for name, title in names.items())
    return f"<nav><ul>{items}</ul></nav>"


def _introduction(table: str) -> str:
    return (
        f"<p>All results: <a href={html.attribute(table)}>{escape(table)}</a>, a line for each point of a run's curve.</p>"
        f"<p>Written by sb3-sparse {escape(version('sb3-sparse'))}. Steps are environment steps. Final returns are means "
        f"over the last {FINAL_FRACTION:.0%} of a run, or over the episodes at its end where the grid's evaluation has "
        "final_episodes. Learning curves and returns of single tasks are drawn with the "
        "standard deviation over seeds, statistics over tasks with 95 % intervals by stratified bootstrap (rliable). "
        "Published results are drawn in grey behind ours where there are any; they come from other code.</p>"
    )


def _section(grid: Grid, command: Sequence[str], table: Lines, records: Mapping[str, Any], folder: ResultsFolder) -> str:
    results = GridResults.select(grid, table)
    finished = sum(run.id in results.lines for run in grid.runs)
    parts = [
        f"<h2 id={html.attribute(grid.name)}>{escape(f'{grid.name}: {grid.title}')}</h2>",
        *(f'<p class="problem">{escape(problem)}</p>' for problem in results.problems()),
        f"<pre>{escape(_shown(command))}</pre>",
        f"<p>{finished} of {len(grid.runs)} runs are finished, in "
        f"{_spent(records[run.key] for run in grid.runs if run.key in records)}.</p>",
    ]
    if finished:
        parts.append(html.image(draw_figure(results, folder.path / "runs", folder.figures / grid.name), grid.title))
        parts.append(_aggregates(results))
        parts.append(_profiles(results, folder))
        parts.append(html.details("Every task", _task_table(results)))
        parts.append(html.details("Every run", _run_table(results, records)))
    parts.append(html.details("The grid's file", f"<pre>{escape(grid.source)}</pre>"))
    return "\n".join(filter(None, parts))


def _shown(command: Sequence[str]) -> str:
    words = list(command)
    if words and Path(words[0]).is_absolute():  # where it was on that machine says nothing to others
        words[0] = Path(words[0]).name
    return shlex.join(words)


def _spent(records: Iterable[Mapping[str, Any]]) -> str:
    seconds, cpu_seconds = (sum(column) for column in zip((0.0, 0.0), *map(_times, records), strict=True))
    return f"{duration(seconds)} of wall time and {duration(cpu_seconds)} of CPU time, summed over runs"


def _times(record: Mapping[str, Any]) -> tuple[float, float]:
    return float(record["seconds"]), float(record["cpu_seconds"])


def _aggregates(results: GridResults) -> str:
    head = ["algorithm", "network", "tasks", "seeds", f"IQM ({UNITS[results.grid.score]})", "mean", "median"]
    head += ["optimality gap"] if results.grid.score == "atari" else []
    head += ["parameters", "learnable", "P(better than dense)"]
    rows = [row for algorithm in results.grid.algorithms for row in _aggregate_rows(results, algorithm)]
    return html.table(head, rows)


def _aggregate_rows(results: GridResults, algorithm: str) -> Rows:
    rows = []
    arms = results.arms(of(algorithm))
    for runs in arms.values():
        scores = results.scores(runs)
        found = aggregate(scores)
        if found is None:
            continue
        dense = next((others for others in arms.values() if _is_dense_twin(others[0], runs[0])), None)
        # Of one seed, such a probability is 0 or 1 on every task, and says nothing.
        better = None if dense is None or found.seeds == 1 else probability_of_improvement(scores, results.scores(dense))
        seeds = f"{found.seeds}" + (f" ({found.left_out} runs left out)" if found.left_out else "")
        gap = [found.optimality_gap] if results.grid.score == "atari" else []
        rows.append(
            [
                panel_name(algorithm, "")[0],
                runs[0].label,
                str(found.tasks),
                seeds,
                *(_estimate(estimate) for estimate in (found.iqm, found.mean, found.median, *gap)),
                *(_count(results, runs, column) for column in ("parameters", "active_parameters")),
                "" if better is None else _estimate(better),
            ]
        )
    return rows


def _is_dense_twin(dense: GridRun, sparse: GridRun) -> bool:
    """Whether an arm is another one's of the same size, unpruned."""
    others = {key: value for key, value in sparse.policy.items() if key not in ("sparsity", "distribution")}
    mine = {key: value for key, value in dense.policy.items() if key not in ("sparsity", "distribution")}
    return dense.sparsity == 0 < sparse.sparsity and mine == others and dense.reset_freq == sparse.reset_freq


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _count(results: GridResults, runs: Sequence[GridRun], column: str) -> str:
    counts = sorted({int(count) for run in runs if (count := results.number(run, column)) is not None})
    return f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "") if counts else ""


def _profiles(results: GridResults, folder: ResultsFolder) -> str:
    """Performance profiles, where several runs of an arm make one."""
    counts = Counter((run.algorithm, run.arm) for run in results.grid.runs)
    if max(counts.values()) == 1:
        return ""
    panels = Panels(len(results.grid.algorithms))
    for axis, algorithm in zip(panels.axes, results.grid.algorithms, strict=True):
        arms = results.arms(of(algorithm))
        scores = {arm: results.scores(runs) for arm, runs in arms.items()}
        values = [value for of_arm in scores.values() for of_task in of_arm.values() for value in of_task.values()]
        thresholds = np.linspace(min(values, default=0.0), max(values, default=1.0), 100)
        looks = arm_styles(arms)
        for arm, runs in arms.items():
            profile = performance_profile(scores[arm], thresholds)
            if profile is not None:
                axis.plot(thresholds, profile, label=arm_label(runs), **{**looks[arm], "marker": ""})
        axis.set_xlabel("score")
        name_panel(axis, [panel_name(algorithm, "")[0]], "fraction of runs above")
    files = panels.save(folder.figures / f"{results.grid.name}-profiles", "Performance profiles")
    return html.details("Performance profiles", html.image(files, "Performance profiles"))


def _task_table(results: GridResults) -> str:
    """Mean final return of every network on every task, and what it comes to on the grid's scale."""
    unit, games = results.grid.score, atari_scores()
    head = ["algorithm", "task", "network", "seeds", "final return"]
    head += [UNITS[unit]] if unit != "return" else []
    head += ["published DER"] if unit == "atari" else ["published"]
    rows = []
    for (algorithm, task), runs in itertools.product(pairs_of(results), results.arms().values()):
        finals = [final for run in runs if of(algorithm, task)(run) and (final := results.final(run)) is not None]
        if finals:
            mean = float(np.mean(finals))
            shown = [f"{mean:.5g}", *([f"{normalize(unit, task, mean):.3f}"] if unit != "return" else [])]
            published = f"{games[short_task(task)]['der']:g}" if unit == "atari" else _published(results, algorithm, task)
            shown.append(published)
            rows.append([panel_name(algorithm, "")[0], short_task(task), runs[0].label, str(len(finals)), *shown])
    return html.table(head, rows)


def _published(results: GridResults, algorithm: str, task: str) -> str:
    """Mean of a published curve over the last part of as many environment steps, if it goes as far."""
    curve = reference_curve(algorithm, task)
    if curve is None:
        return ""
    runs = filter(of(algorithm, task), results.grid.runs)
    end = min(length for run in runs if (length := results.number(run, "total_env_steps")) is not None)
    points = zip(curve.env_steps, curve.means, strict=True)
    last = [mean for step, mean in points if (1 - FINAL_FRACTION) * end < step <= end]
    return f"{np.mean(last):.5g} ({curve.label}, {curve.seeds} seeds)" if last else ""


def _run_table(results: GridResults, records: Mapping[str, Any]) -> str:
    head = ["algorithm", "task", "network", "seed", "final return", "wall time", "CPU time", *_MADE_WITH]
    rows = []
    for run in results.grid.runs:
        record, final = records.get(run.key), results.final(run)
        made = ["missing", *[""] * 6]
        if record is not None:
            shown = "no value" if final is None else f"{final:.5g}"
            made = [shown, *map(duration, _times(record)), *(str(record[key]) for key in _MADE_WITH)]
        rows.append([panel_name(run.algorithm, "")[0], short_task(run.task), run.label, str(run.seed), *made])
    return html.table(head, rows)


def _provenance(records: Mapping[str, Any]) -> str:
    head = ["sb3-sparse", "commit", "hardware", "torch", "Stable-Baselines3", "runs"]
    kinds = Counter(
        (r["version"], r["commit"], r["hardware"], r["versions"].get("torch", ""), r["versions"].get("stable-baselines3", ""))
        for r in records.values()
    )
    rows = [[*map(str, kind), str(count)] for kind, count in kinds.most_common()]
    return f'<h2 id="origin">{_ORIGIN}</h2>\n' + html.table(head, rows)
