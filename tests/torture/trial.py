"""What came of an attempt to break something."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """
    An attempt.

    :param what: What was tried
    :param fault: What went wrong, None if nothing did
    """

    what: str
    fault: str | None = None


def report(title: str, trials: Iterable[Trial]) -> bool:
    """
    Count attempts, and name faults.

    :param title: Of the kind of attempts
    :param trials: Attempts
    :return: Whether there was a fault
    """
    found = list(trials)
    faults = [f"FAULT: {trial.what}: {trial.fault}" for trial in found if trial.fault is not None]
    print("\n".join([f"{title}: {len(found)} trials, {len(faults)} faults", *faults]), flush=True)
    return bool(faults)
