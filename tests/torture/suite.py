"""The torture suite: everything that can happen to runs, on purpose."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torture.damage import damaged_checkpoints, format_damages
from torture.disks import RUN, can_have_disks, full_disks, limited_files, read_only_disks
from torture.fuzz import format_trials, invalid_trials, valid_trials
from torture.kills import REFUSED, RUNS, finish, format_kills, kill_points, start
from torture.runs import CHECKPOINTS, differences


@dataclass(frozen=True)
class Torture:
    """
    How much of everything.

    :param kills: Kills of each of the runs in ``RUNS``
    :param damages: Damaged checkpoints
    :param valid: Valid configurations
    :param invalid: Invalid configurations
    :param disks: Runs of each kind whose disk is full or read-only
    :param pairs: Pairs of runs in one folder
    :param seed: Seed of all
    :raises ValueError: if a number is negative.
    """

    kills: int = 1
    damages: int = 20
    valid: int = 20
    invalid: int = 20
    disks: int = 3
    pairs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if number < 0:
                raise ValueError(f"{name} must not be negative, got {number}.")


def torture(how: Torture, folder: Path) -> bool:
    """
    Run the suite, and print what came of it.

    :param how: How much of everything
    :param folder: Folder to work in
    :return: Whether nothing was at fault
    """
    kills = list(kill_points(RUNS if how.kills else [], how.kills, folder / "kills", how.seed))
    print(f"{sum(len(result.moments) for result in kills)} kills\n{format_kills(kills)}", flush=True)
    damages = list(damaged_checkpoints(how.damages, folder / "damage", how.seed))
    print(format_damages(damages), flush=True)
    disks = _disks(how, folder / "disks")
    pairs = list(shared_folders(how.pairs, folder / "pairs"))
    print(format_faults("pairs of runs in one folder", pairs), flush=True)
    valid = list(valid_trials(how.valid, how.seed))
    print(format_trials("valid", valid), flush=True)
    invalid = list(invalid_trials(how.invalid, how.seed))
    print(format_trials("invalid", invalid), flush=True)
    faults = [k for k in kills if k.differences] + [d for d in damages if d.is_fault]
    return not (faults or any(disks) or any(pairs) or any(trial.fault for trial in (*valid, *invalid)))


def _disks(how: Torture, folder: Path) -> list[str | None]:
    limited = list(limited_files(how.disks, folder / "limited", how.seed))
    print(format_faults("runs whose files cannot grow", limited), flush=True)
    if how.disks and not can_have_disks(folder):
        print("no full and no read-only disks: mounting them takes root, on Linux", flush=True)
        return limited
    full = list(full_disks(how.disks, folder / "full", how.seed))
    print(format_faults("full disks", full), flush=True)
    read_only = list(read_only_disks(how.disks, folder / "read-only"))
    print(format_faults("read-only disks", read_only), flush=True)
    return [*limited, *full, *read_only]


def shared_folders(number: int, folder: Path) -> Iterator[str | None]:
    """
    Start a run in the folder of one that is not over: it must be refused, and the first one must not notice.

    :param number: How often
    :param folder: Folder to work in
    :return: What was at fault, None if nothing was
    """
    for index in range(number):
        whole, shared = folder / f"{index}-whole", folder / f"{index}-shared"
        finish(start(RUN, whole))
        first = start(RUN, shared)
        while first.is_alive() and not any((shared / CHECKPOINTS).glob("*.json")):
            time.sleep(0.01)
        second = start(RUN, shared)
        second.join()
        finish(first)
        if second.exitcode != REFUSED:
            yield f"the second run was not refused, but ended with status {second.exitcode}"
            continue
        # SB3 makes Monitors and loggers, which truncate their files, before any callback is asked.
        results = [json.loads((path / "result.json").read_text()) for path in (whole, shared)]
        found = differences(*results)
        yield f"the first run has changed: {found[:3]}" if found else None


def format_faults(title: str, faults: Sequence[str | None]) -> str:
    """
    Count, and name faults.

    :param title: Of what was done
    :param faults: What was at fault each time, None if nothing was
    """
    return "\n".join([f"{len(faults)} {title}: {sum(map(bool, faults))} faults", *(f"FAULT: {f}" for f in faults if f)])
