"""The torture suite as a program, run by scripts/torture."""

import argparse
import sys
import tempfile
from pathlib import Path

from torture.kills import RUNS
from torture.suite import Torture, torture


def main() -> int:
    """
    Run the suite.

    :return: Exit status, 1 if something was at fault
    """
    defaults = Torture()
    parser = argparse.ArgumentParser(prog="torture", description=sys.modules["torture"].__doc__)
    numbers = {
        "kills": f"kills of each of {len(RUNS)} runs",
        "damages": "damaged checkpoints",
        "valid": "valid configurations",
        "invalid": "invalid configurations",
        "disks": "runs of each kind whose disk is full or read-only",
        "pairs": "pairs of runs in one folder",
        "seed": "seed of everything",
    }
    for name, text in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=f"{text} (default: %(default)s)")
    try:
        how = Torture(**vars(parser.parse_args()))
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        return 0 if torture(how, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
