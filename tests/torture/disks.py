"""Checkpoints on disks that are full or read-only."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torture.kills import REFUSED, finish, start
from torture.models import TortureRun
from torture.runs import CHECKPOINTS, differences, outcome
from torture.trial import Trial

RUN = TortureRun("SAC", steps=200, save_freq=20)
# Bytes: from what holds no checkpoint of this run to what holds two.
_SIZES = (50_000, 1_000_000)


def limited_files(number: int, folder: Path, seed: int = 0) -> Iterator[Trial]:
    """
    Let files of a run grow to a random size only, so that writing checkpoints fails; then run it again without that.

    :param number: How many runs
    :param folder: Folder to work in
    :param seed: Seed of the sizes
    """
    generator = random.Random(seed)
    for index in range(number):
        full, limit = folder / str(index), generator.randrange(10_000, 1_000_000)
        yield Trial(f"files of at most {limit} bytes", _fault(_whole(folder), full, limit, lambda: None))


def full_disks(number: int, folder: Path, seed: int = 0) -> Iterator[Trial]:
    """
    Have a run write its checkpoints to a disk of a random size, which they soon fill; then make it larger, and run again.

    :param number: How many runs
    :param folder: Folder to work in
    :param seed: Seed of the sizes
    """
    generator = random.Random(seed)
    for index in range(number):
        full, size = folder / str(index), generator.randrange(*_SIZES)
        whole, checkpoints = _whole(folder), full / CHECKPOINTS
        with disk(checkpoints, f"size={size}"):
            make_room = partial(change_disk, checkpoints, "size=100m")
            yield Trial(f"a disk of {size} bytes", _fault(whole, full, None, make_room))


def read_only_disks(number: int, folder: Path) -> Iterator[Trial]:
    """
    Have a run write its checkpoints to a disk that is read-only: it must be refused before it trains.

    :param number: How often
    :param folder: Folder to work in
    """
    for index in range(number):
        refused = folder / str(index)
        with disk(refused / CHECKPOINTS, "size=1m,ro"):
            process = start(RUN, refused)
            process.join()
        is_refused = process.exitcode == REFUSED
        yield Trial(
            "a read-only disk", None if is_refused else f"the run ended with status {process.exitcode}, without an error"
        )


def can_have_disks(folder: Path) -> bool:
    """
    Whether disks can be made here: on Linux, by root.

    :param folder: Folder to work in
    """
    if sys.platform != "linux" or shutil.which("mount") is None:
        return False
    try:
        with disk(folder / "probe", "size=64k"):
            return True
    except subprocess.CalledProcessError:
        return False


@contextmanager
def disk(path: Path, options: str) -> Iterator[None]:
    """
    Have a disk of its own in a folder, which lies in memory and is gone afterwards.

    :param path: Folder, made if missing
    :param options: As ``mount`` takes them
    """
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True, capture_output=True)


def change_disk(path: Path, options: str) -> None:
    """
    Change a disk that is there.

    :param path: Its folder
    :param options: As ``mount`` takes them
    """
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True, capture_output=True)


def _whole(folder: Path) -> Path:
    """A run whose disk was never full."""
    whole = folder / "whole"
    if not whole.exists():
        finish(start(RUN, whole))
    return whole


def _fault(whole: Path, full: Path, limit: int | None, make_room: Callable[[], None]) -> str | None:
    """Train with too little room, then with enough; both must end as a run that always had enough."""
    process = start(RUN, full, limit)
    process.join()
    if process.exitcode != 0:
        return f"the run ended with status {process.exitcode}"
    if (full / "result.json").read_text() != (whole / "result.json").read_text():
        return "the run was another one"
    make_room()
    finish(start(RUN, full))
    return "; ".join(differences(outcome(whole), outcome(full))[:3]) or None
