"""Breaks runs in every way there is, and tells what came of it; scripts/torture runs it."""

import argparse
import sys
import tempfile
from pathlib import Path

from torture.damage import damaged_checkpoints
from torture.disks import can_have_disks, full_disks, limited_files, read_only_disks
from torture.fuzz import invalid_trials, valid_trials
from torture.kills import RUNS, kill_points
from torture.pairs import shared_folders
from torture.trial import report

# Default and description of the options.
NUMBERS = {
    "kills": (1, f"kills of each of {len(RUNS)} runs"),
    "damages": (20, "damaged checkpoints"),
    "valid": (20, "valid configurations"),
    "invalid": (20, "invalid configurations"),
    "disks": (3, "runs of each kind whose disk is full or read-only"),
    "pairs": (1, "pairs of runs in one folder"),
    "seed": (0, "seed of everything"),
}


def count(text: str) -> int:
    """Read a number that is not negative."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return int(text)


def torture(how: argparse.Namespace, folder: Path) -> bool:
    """
    Run the suite, and print what came of it.

    :param how: How much of everything
    :param folder: Folder to work in
    :return: Whether something was at fault
    """
    kinds = {
        "kills": kill_points(RUNS if how.kills else [], how.kills, folder / "kills", how.seed),
        "damaged checkpoints": damaged_checkpoints(how.damages, folder / "damage", how.seed),
        "files that cannot grow": limited_files(how.disks, folder / "limited", how.seed),
        "pairs of runs in one folder": shared_folders(how.pairs, folder / "pairs"),
        "valid configurations": valid_trials(how.valid, how.seed),
        "invalid configurations": invalid_trials(how.invalid, how.seed),
    }
    if can_have_disks(folder):
        kinds["full disks"] = full_disks(how.disks, folder / "full", how.seed)
        kinds["read-only disks"] = read_only_disks(how.disks, folder / "read-only")
    else:
        print("no full and no read-only disks: mounting them takes root, on Linux", flush=True)
    return any([report(title, trials) for title, trials in kinds.items()])


def main() -> int:
    """
    Run the suite as the options say.

    :return: Exit status, 1 if something was at fault
    """
    parser = argparse.ArgumentParser(prog="torture", description=sys.modules["torture"].__doc__)
    for name, (default, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=count, default=default, help=f"{text} (default: %(default)s)")
    with tempfile.TemporaryDirectory() as folder:
        return int(torture(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
