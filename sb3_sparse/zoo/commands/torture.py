"""``sb3-sparse torture``: everything that can happen to runs, on purpose."""

import argparse
import tempfile
from pathlib import Path

from sb3_sparse.experiments.torture import Torture, torture
from sb3_sparse.experiments.torture_kills import RUNS


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    defaults = Torture()
    command = commands.add_parser("torture", help="kill runs, damage checkpoints, fill disks, train random configurations")
    numbers = {
        "kills": f"kills of each of {len(RUNS)} runs",
        "damages": "damaged checkpoints",
        "valid": "valid configurations",
        "invalid": "invalid configurations",
        "disks": "runs of each kind whose disk is full or read-only",
        "pairs": "pairs of runs in one folder",
    }
    for name, text in numbers.items():
        command.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=f"{text} (default: %(default)s)")
    command.add_argument("--seed", type=int, default=defaults.seed)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the suite."""
    names = ("kills", "damages", "valid", "invalid", "disks", "pairs", "seed")
    with tempfile.TemporaryDirectory() as folder:
        is_fine = torture(Torture(**{name: getattr(options, name) for name in names}), Path(folder))
    if not is_fine:
        raise ValueError("something was at fault, see above")
