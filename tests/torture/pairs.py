"""Runs in the folder of one that is not over."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from torture.disks import RUN
from torture.kills import REFUSED, finish, start
from torture.runs import CHECKPOINTS, differences
from torture.trial import Trial


def shared_folders(number: int, folder: Path) -> Iterator[Trial]:
    """
    Start a run in the folder of one that is not over: it must be refused, and the first one must not notice.

    :param number: How often
    :param folder: Folder to work in
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
        # SB3 makes Monitors and loggers, which truncate their files, before any callback is asked.
        found = differences(*(json.loads((path / "result.json").read_text()) for path in (whole, shared)))
        if second.exitcode != REFUSED:
            found = [f"the second run was not refused, but ended with status {second.exitcode}"]
        yield Trial(f"pair {index}", "; ".join(found[:3]) or None)
