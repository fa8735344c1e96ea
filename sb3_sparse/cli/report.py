"""``sb3-sparse report``: results of grids as a page."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command's parser."""
    command = commands.add_parser("report", help="write the results of grids as one self-contained HTML page")
    command.add_argument("results", type=Path, help="folder of results of sweep or figure")
    command.add_argument("--output", type=Path, help="file to write (default: report.html in that folder)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the page."""
    from sb3_sparse.experiments.figures.report import write_report
    from sb3_sparse.zoo.registration import register

    register()
    print(write_report(options.results, options.output or options.results / "report.html"))
