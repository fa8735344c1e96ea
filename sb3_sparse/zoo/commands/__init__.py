"""The commands of ``sb3-sparse``, one file each."""

from sb3_sparse.zoo.commands import bench, export, figure, import_model, plot, quickstart, report, sweep, torture, zoo_commands

# Each adds its parsers, in the order of the help; a parser's default ``run`` takes the options given.
COMMANDS = (
    quickstart.add,
    bench.add,
    plot.add,
    sweep.add,
    figure.add,
    report.add,
    export.add,
    import_model.add,
    torture.add,
    zoo_commands.add,
)

__all__ = ["COMMANDS"]
