"""The command line, one file for each command of ``sb3-sparse``."""

from sb3_sparse.cli import bench, check, export, figure, import_model, plot, quickstart, report, sweep, zoo_commands

# Each adds its parsers, in the order of the help; a parser's default ``run`` takes the options given.
COMMANDS = (
    quickstart.add,
    bench.add,
    plot.add,
    sweep.add,
    figure.add,
    report.add,
    export.add,
    check.add,
    import_model.add,
    zoo_commands.add,
)

__all__ = ["COMMANDS"]
