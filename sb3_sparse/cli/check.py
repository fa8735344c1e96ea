"""``sb3-sparse check``: whether an exported file does here what the model did."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("check", help="compare an exported file with the actions that it carries")
    command.add_argument("file", type=Path, help="file of export; one of C is compiled and run, so check what you trust")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Check the file."""
    from sb3_sparse.deployment.checking import check

    print(f"{options.file}: deviates from the recorded actions by at most {check(options.file):.1e}")
