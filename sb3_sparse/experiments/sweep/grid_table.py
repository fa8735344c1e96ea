"""The table of all runs: one line per run and point of its learning curve."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_sparse.diagnostics.metrics import COLUMNS
from sb3_sparse.experiments.writing import replaced_file

_SETTINGS = (
    "run",
    "algo",
    "task",
    "label",
    "seed",
    "width_scale",
    "depth_scale",
    "width",
    "init",
    "sparsity",
    "distribution",
    "reset_freq",
    "parameters",
    "active_parameters",
    "simplicity_bias",
    "total_env_steps",
    "settings",
)
# Of the evaluation at the end of a run.
_FINAL = ("final_return_mean", "final_return_std", "final_episodes")
_POINT = ("env_steps", "return_mean", "return_std", "episodes")
# Column -> network and metric of the run's plasticity.csv. Value-based algorithms have one network, the critic here.
MEASURED = {f"{network}_{name}": (network, metric) for network in ("actor", "critic") for name, metric in COLUMNS.items()}
PROVENANCE = ("version", "commit", "date", "hardware", "seconds", "cpu_seconds")
TABLE_COLUMNS = (*_SETTINGS, *_FINAL, *_POINT, *MEASURED, *PROVENANCE)
# Columns that do not tell runs apart, or only those that differ in their seed.
OUTCOMES = {"run", "seed", "parameters", "active_parameters", "simplicity_bias", *_FINAL, *_POINT, *MEASURED, *PROVENANCE} | {
    "eval_episodes",  # of tables that were not written by a grid
}

Lines = list[dict[str, str]]


def read_table(path: Path) -> Lines:
    """
    Read a table.

    :param path: CSV file
    :return: Lines, column -> text
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """
    Write a table, replacing a former one as a whole.

    :param path: CSV file
    :param lines: Lines; what is not given is left empty
    """
    with replaced_file(path) as file:
        writer = csv.DictWriter(file, TABLE_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
