"""The results table: one CSV line per evaluation, to which every session of runs adds."""

import csv
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_sparse.experiments.provenance import commit, processor
from sb3_sparse.experiments.training import TrainingResult

COLUMNS = (
    "commit",
    "date",
    "hardware",
    "algo",
    "task",
    "network",
    "width_scale",
    "sparsity",
    "seed",
    "updates_per_agent_step",
    "learning_rate",
    "batch_size",
    "learning_starts",
    "env_steps",
    "return_mean",
    "return_std",
    "critic_dormant",
    "critic_srank",
    "critic_parameter_norm",
    "eval_episodes",
    "cpu_seconds",
)


# Columns that are empty where nothing was measured -> the measure's name.
_DIAGNOSTICS = {"critic_dormant": "dormant_0.1", "critic_srank": "srank", "critic_parameter_norm": "parameter_norm"}


def rows(result: TrainingResult, action_repeat: int) -> list[dict[str, Any]]:
    """
    Lines of the results table for one run.

    :param result: A finished run
    :param action_repeat: Environment steps per agent step
    """
    run = result.run
    shared = {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(run.device),
        "algo": run.algo,
        "task": run.task,
        "network": run.network,
        "width_scale": run.width_scale,
        "sparsity": run.sparsity,
        "seed": run.seed,
        "updates_per_agent_step": run.updates_per_agent_step,
        # SB3's MlpPolicy runs with SB3's own defaults.
        "learning_rate": run.learning_rate if run.network != "mlp" else 3e-4,
        "batch_size": run.batch_size if run.network != "mlp" else 256,
        "learning_starts": run.learning_starts,
        "eval_episodes": run.eval_episodes,
        "cpu_seconds": round(result.cpu_seconds),
    }
    return [
        {
            **shared,
            "env_steps": evaluation.agent_steps * action_repeat,
            "return_mean": round(evaluation.mean_return, 1),
            "return_std": round(evaluation.std_return, 1),
            **{column: _number(evaluation.critic.get(name)) for column, name in _DIAGNOSTICS.items()},
        }
        for evaluation in result.evaluations
    ]


def _hardware(device: str) -> str:
    used = get_device(device)
    return th.cuda.get_device_name(used) if used.type == "cuda" else f"{processor()}, one thread"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def append_rows(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """
    Add lines to a results table, which is made if it does not exist.

    :param path: CSV file
    :param lines: Lines with the columns of the table
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(lines)


def read_rows(path: Path) -> list[dict[str, str]]:
    """
    Read a results table.

    :param path: CSV file
    :return: One dictionary of strings per line
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
