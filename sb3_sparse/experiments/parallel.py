"""Several training runs at once, one process each, under one progress display."""

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sb3_sparse.experiments.extras import import_extra

REFRESH_SECONDS = 0.5


class Run(Protocol):
    """What the display needs to know of a run: what it is and how long it takes."""

    @property
    def task(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def agent_steps(self) -> int: ...


RunT = TypeVar("RunT", bound=Run)
ResultT = TypeVar("ResultT")
Train = Callable[[RunT, Path, Callable[[int], None]], ResultT]


def train_all(
    train: Train[RunT, ResultT],
    runs: Sequence[RunT],
    folders: Sequence[Path],
    workers: int | None = None,
    on_result: Callable[[ResultT], None] = lambda result: None,
) -> list[ResultT]:
    """
    Train runs in parallel processes of one thread each, with a progress bar per run.

    :param train: Trains one run: takes it, its folder, and a function to call with the number of steps done; at the top of a
        module, so that other processes find it
    :param runs: What to train
    :param folders: Where each run saves
    :param workers: Processes at once; as many as there are CPU cores if None
    :param on_result: Called with each result as soon as it is there
    :return: The results, in the order of the runs
    :raises Exception: what a run raised; runs that have not begun are given up then.
    """
    progress_bars = import_extra("rich.progress", "progress")
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        progress_bars.Progress(*_columns(progress_bars)) as display,
        ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool,
    ):
        steps = manager.Queue()
        bars = [display.add_task(_describe(run), total=run.agent_steps) for run in runs]
        pairs = zip(runs, folders, strict=True)
        futures = [pool.submit(_train, train, run, folder, i, steps) for i, (run, folder) in enumerate(pairs)]
        _follow(futures, steps, lambda i, step: display.update(bars[i], completed=step), on_result)
        return [future.result() for future in futures]


def _train(train: Train[RunT, ResultT], run: RunT, folder: Path, index: int, steps: Any) -> ResultT:
    return train(run, folder, lambda step: steps.put((index, step)))


def _follow(
    futures: Sequence["Future[ResultT]"],
    steps: "queue.Queue[tuple[int, int]]",
    show: Callable[[int, int], None],
    on_result: Callable[[ResultT], None],
) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=REFRESH_SECONDS, return_when=FIRST_COMPLETED)
        while not steps.empty():
            show(*steps.get())
        for future in done:
            if future.exception() is not None:
                for other in pending:
                    other.cancel()
            on_result(future.result())


def _describe(run: Run) -> str:
    return f"{run.task.removeprefix('dm_control/').removesuffix('-v0')} {run.label} seed {run.seed}"


def _columns(progress_bars: Any) -> list[Any]:
    return [
        progress_bars.TextColumn("{task.description}"),
        progress_bars.BarColumn(),
        progress_bars.MofNCompleteColumn(),
        progress_bars.TextColumn("agent steps"),
        progress_bars.TimeElapsedColumn(),
        progress_bars.TimeRemainingColumn(),
    ]
