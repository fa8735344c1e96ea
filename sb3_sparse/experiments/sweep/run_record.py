"""Record of a finished run: its lines of the table, and its provenance."""

import json
import math
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.grid_table import MEASURED, PROVENANCE, TABLE_COLUMNS
from sb3_sparse.experiments.sweep.run_defaults import without_defaults
from sb3_sparse.sparsity import SparseLayer, sparse_layers
from sb3_sparse.zoo.provenance import provenance
from sb3_sparse.zoo.run_folders import RunFolder

# The networks of value-based algorithms stand in the columns of the critic.
_AS_CRITIC = ("q_net", "quantile_net")


def count_parameters(model: BaseAlgorithm) -> dict[str, int]:
    """
    Parameters of a model's online networks.

    :param model: Model
    :return: All of them, pruned ones included, as ``parameters``; those that learn as ``active_parameters``
    """
    online = [module for name, module in model.policy.named_children() if not name.endswith("_target")]
    learning = {parameter for module in online for parameter in module.parameters()}
    active = sum(parameter.numel() for parameter in learning)
    layers = {layer for module in online for _, layer in sparse_layers(module)}
    pruned = sum(_pruned(layer) for layer in layers)
    return {"parameters": active + pruned, "active_parameters": active}


def _pruned(layer: SparseLayer) -> int:
    size = math.prod(layer.topology.shape)
    return sum(size - layer.get_parameter(values).numel() for values in layer.value_names.values())


def made_with(device: th.device | str, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """
    What a run was made with.

    :param device: Device that it was trained on
    :param seconds: How long it took, the pieces of an interrupted run together
    :param cpu_seconds: Process time
    """
    origin = provenance(device)
    threads = "one thread" if th.get_num_threads() == 1 else f"{th.get_num_threads()} threads"
    return {
        "version": version("sb3-sparse"),
        **origin,
        "hardware": f"{origin['hardware']}, {threads}",
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "host": platform.node(),
    }


def table_lines(run: GridRun, folder: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Lines of the table for a finished run.

    :param run: Run
    :param folder: What the zoo left of it
    :param record: What it was made with
    :return: One line per point of the learning curve
    """
    found = RunFolder(folder, record["action_repeat"])
    points = _evaluated(found) if run.evaluation is not None else _windows(run, found)
    measured = _measured(found)
    settings = {
        "run": run.id,
        "algo": run.algorithm,
        "task": run.task,
        "label": run.label,
        "seed": run.seed,
        **{key: run.policy.get(key, "") for key in ("width_scale", "depth_scale", "width", "init", "distribution")},
        "sparsity": run.sparsity,
        "reset_freq": run.reset_freq or "",
        "simplicity_bias": record.get("simplicity_bias", ""),
        "total_env_steps": run.agent_steps * found.action_repeat,
        **_final(record.get("final_returns")),
        "settings": json.dumps(_other_settings(run), sort_keys=True),
        **{key: record[key] for key in ("parameters", "active_parameters", *PROVENANCE)},
    }
    return [{**settings, **point, **measured.get(point["env_steps"], {})} for point in points]


def _other_settings(run: GridRun) -> dict[str, Any]:
    """What decides a run but its seed, and has no column of its own."""
    settings = without_defaults(run.settings())
    named = {"algorithm", "task", "seed", "agent_steps", "reset_freq", "policy", "hyperparameters"}
    policy = {key: value for key, value in settings["policy"].items() if key not in TABLE_COLUMNS or isinstance(value, dict)}
    rest = {key: value for key, value in settings.items() if key not in named and value}
    return {**policy, **settings["hyperparameters"], **rest}


def _final(returns: Sequence[float] | None) -> dict[str, Any]:
    if returns is None:
        return {}
    mean, std = round(float(np.mean(returns)), 3), round(float(np.std(returns)), 3)
    return {"final_return_mean": mean, "final_return_std": std, "final_episodes": len(returns)}


def _evaluated(folder: RunFolder) -> list[dict[str, Any]]:
    file = folder.path / "evaluations.npz"
    if not file.exists():
        return []
    with np.load(file) as saved:
        return [
            _point(int(step) * folder.action_repeat, returns)
            for step, returns in zip(saved["timesteps"], saved["results"], strict=True)
        ]


def _windows(run: GridRun, folder: RunFolder) -> list[dict[str, Any]]:
    """Returns of training episodes, by the window that they ended in."""
    curve = folder.curve
    if curve is None:
        return []
    total = run.agent_steps * folder.action_repeat
    ends = [total * (i + 1) // run.windows for i in range(run.windows)]
    by_window: dict[int, list[float]] = defaultdict(list)
    for step, value in zip(curve.env_steps, curve.returns, strict=True):
        by_window[next((end for end in ends if step <= end), total)].append(value)
    return [_point(end, np.array(by_window[end])) for end in ends if end in by_window]


def _point(env_steps: int, returns: np.ndarray) -> dict[str, Any]:
    return {
        "env_steps": env_steps,
        "return_mean": round(float(np.mean(returns)), 3),
        "return_std": round(float(np.std(returns)), 3),
        "episodes": len(returns),
    }


def _measured(folder: RunFolder) -> dict[int, dict[str, str]]:
    """Environment steps -> column -> value."""
    columns = {pair: column for column, pair in MEASURED.items()}
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for line in folder.measurements:
        network = "critic" if line.network in _AS_CRITIC else line.network
        column = columns.get((network, line.metric))
        if column is not None and not line.layer and math.isfinite(line.value):
            found[line.env_steps][column] = f"{line.value:.6g}"
    return found
