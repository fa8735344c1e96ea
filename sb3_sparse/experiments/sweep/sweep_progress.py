"""Progress of a grid and its runs, and the time that is left."""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.outcome import BUSY, FINISHED, Outcome
from sb3_sparse.experiments.sweep.results_folder import RunPaths, is_moving


# Seconds between two reports of what is going on, where there is no terminal; a tenth of the time so far in between.
_MOST_OFTEN, _LEAST_OFTEN = 30.0, 600.0
_MOST_RUNS_REPORTED = 8
_LEAST_STEPS = 20  # that a run's time is estimated from


class SweepProgress:
    """
    A bar for the grid and one for every run that is going on, in a terminal; elsewhere a line for each run that ended, and now
    and then for those that are going on.

    :param runs: Id -> run that is still to be done, and its files
    :param done: Number of runs that are done already
    """

    def __init__(self, runs: Mapping[str, tuple[GridRun, RunPaths]], done: int):
        self._runs = dict(runs)
        self._begun, self._ended, self._done_before = time.monotonic(), 0, done
        self._steps = {key: 0 for key in self._runs}
        self._reported, self._reported_steps = self._begun, dict(self._steps)
        self._looked = self._begun
        self._seconds: dict[str, float] = defaultdict(float)  # of all runs of an algorithm together
        self._at_start = {key: paths.read_progress() for key, (_, paths) in self._runs.items()}
        self._rich = import_extra("rich.progress", "progress")
        self._display = self._rich.Progress(
            self._rich.TextColumn("{task.description}"),
            self._rich.BarColumn(),
            self._rich.TextColumn("{task.fields[count]}"),
            self._rich.TimeElapsedColumn(),
            self._rich.TimeRemainingColumn(elapsed_when_finished=True),
            console=import_extra("rich.console", "progress").Console(file=sys.stdout),
            disable=not sys.stdout.isatty(),
        )
        self._bars: dict[Any, Any] = {}

    def __enter__(self) -> "SweepProgress":
        self._display.start()
        self._all_steps = sum(run.agent_steps for run, _ in self._runs.values())
        self._total = self._display.add_task("grid", total=self._all_steps, count=self._count())
        return self

    def __exit__(self, *_: Any) -> None:
        self._display.stop()

    def tick(self) -> None:
        """Look how far runs are."""
        now = time.monotonic()
        for key, (run, paths) in self._runs.items():
            if self._steps[key] < run.agent_steps and is_moving(paths):
                self._steps[key] = min(paths.read_progress(), run.agent_steps)
                self._seconds[run.algorithm] += now - self._looked
                self._show(key, run)
        self._looked = now
        self._show_total()
        pause = min(max(_MOST_OFTEN, (now - self._begun) / 10), _LEAST_OFTEN)
        if self._display.disable and now - self._reported >= pause:
            self._report(now - self._reported)
            self._reported, self._reported_steps = now, dict(self._steps)

    def ended(self, outcome: Outcome) -> None:
        """
        Take note of a run that ended.

        :param outcome: What became of it
        """
        run = outcome.run
        if outcome.state != BUSY:
            self._ended += 1
            self._steps[run.id] = run.agent_steps
        if run.id in self._bars:
            self._display.remove_task(self._bars.pop(run.id))
        self._show_total()
        problem = "" if outcome.state == FINISHED else f": {outcome.message or 'another grid is training it'}"
        self._say(f"{self._count()} {run.id} {outcome.state}{problem}{self._remaining()}")

    def _report(self, seconds: float) -> None:
        going = [self._runs[key][0] for key in self._bars]
        listed = going[:_MOST_RUNS_REPORTED]
        for run in listed:
            steps = self._steps[run.id]
            made = steps - max(self._reported_steps[run.id], self._at_start[run.id])
            rate = made / seconds
            # The first steps tell how long it takes to start.
            speed = (
                f", {rate:,.{0 if rate >= 10 else 1}f} a second, about {duration((run.agent_steps - steps) / rate)} left"
                if made >= _LEAST_STEPS
                else ""
            )
            self._say(f"{self._count()} {run.id}: {steps:,} of {run.agent_steps:,} agent steps{speed}")
        others = f", {len(going) - len(listed)} more runs are going on" if len(going) > len(listed) else ""
        self._say(
            f"{self._count()} {sum(self._steps.values()):,} of {self._all_steps:,} agent steps{self._remaining()}{others}"
        )

    def _show(self, key: Any, run: GridRun) -> None:
        if key not in self._bars:
            self._bars[key] = self._display.add_task(run.id.rpartition("-")[0], total=run.agent_steps, count="")
        count = f"{self._steps[key]:,} of {run.agent_steps:,} agent steps"
        self._display.update(self._bars[key], completed=self._steps[key], count=count)

    def _show_total(self) -> None:
        self._display.update(self._total, completed=sum(self._steps.values()), count=self._count())

    def _count(self) -> str:
        return f"[{self._done_before + self._ended}/{self._done_before + len(self._runs)}]"

    def _remaining(self) -> str:
        left, made = Counter[str](), Counter[str]()
        for key, (run, _) in self._runs.items():
            left[run.algorithm] += run.agent_steps - self._steps[key]
            made[run.algorithm] += max(self._steps[key] - self._at_start[key], 0)
        left = +left
        # An algorithm may take a hundred times as long for a step as another.
        known = [name for name in left if made[name] >= _LEAST_STEPS and self._seconds[name]]
        if not known:
            return ""
        at_once = sum(self._seconds.values()) / (self._looked - self._begun)
        seconds = sum(left[name] * self._seconds[name] / made[name] for name in known)
        unknown = ", ".join(sorted({*left} - {*known}))
        return f", about {duration(seconds / at_once)} left" + (f" without {unknown}" if unknown else "")

    def _say(self, line: str) -> None:
        # Brackets are rich's markup.
        self._display.console.print(line, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """
    A duration as people say it.

    :param seconds: Seconds
    """
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def describe(runs: Sequence[GridRun]) -> str:
    """
    Size of a number of runs.

    :param runs: Runs
    """
    return f"{len(runs)} runs, {sum(run.agent_steps for run in runs):,} agent steps"
