"""Every format of an export beside every algorithm: whether it works, its size, its time for an action and its deviation."""

import functools
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.common import SparseSimBaExtractor, sparsify
from sb3_sparse.crossq import SparseSimBaCrossQPolicy
from sb3_sparse.deployment import check, export
from sb3_sparse.deployment.c_program import compiled_policy
from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy
from sb3_sparse.deployment.onnx_file import load_onnx
from sb3_sparse.deployment.recording import Policy, example_observations, flat
from sb3_sparse.deployment.runtime import load_policy
from sb3_sparse.deployment.torchscript_file import load_torchscript
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.experiments.benchmarks.contenders import ACTION_DIM, OBSERVATION_DIM
from sb3_sparse.experiments.benchmarks.timing import Work, in_turn, mean_microseconds, prepare
from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.sac import SparseSimBaPolicy
from sb3_sparse.sparsity.products.choice import kernels_are_available
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy

N_ACTIONS = 4
IMAGE = (3, 84, 84)
# Column -> format, and ending of its files.
_COLUMNS = {
    "onnx": ("onnx", ".onnx"),
    "torchscript": ("torchscript", ".pt"),
    "sparse, numba": ("sparse", ".npz"),
    "sparse, NumPy": ("sparse", ".npz"),
    "c": ("c", ".c"),
}


@dataclass(frozen=True)
class DeploymentCost:
    """
    One format of one algorithm's policy.

    :param algorithm: The algorithm
    :param width_scale: Times the usual width
    :param sparsity: Sparsity of what acts
    :param column: Format, and what runs it
    :param bytes: Size of the file, 0 if there is none
    :param us: Microseconds of process time for one action, median over rounds
    :param predict_us: The same of the model's own ``predict``
    :param deviation: Largest deviation from the model's actions, as a fraction of half their range; of the export, or of the
        check of the recorded actions
    :param obstacle: Why there is no file, "" if there is one
    """

    algorithm: str
    width_scale: float
    sparsity: float
    column: str
    bytes: int
    us: float
    predict_us: float
    deviation: float
    obstacle: str = ""


class _Env(gym.Env):
    """Spaces alone."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        return self.observation_space.sample(), {}


_VECTOR = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
_BOX, _NUMBER = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32), spaces.Discrete(N_ACTIONS)
_OFF: dict[str, Any] = {"buffer_size": 10}


def _ours(algorithm: Any, policy: Any, sizes: dict[str, float], **arguments: Any) -> BaseAlgorithm:
    return algorithm(policy, _Env(_VECTOR, _BOX), policy_kwargs=dict(sizes), seed=0, device="cpu", **arguments)


def _extracted(algorithm: Any, sizes: dict[str, float]) -> BaseAlgorithm:
    extractor = {"features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": sizes}
    return algorithm("MlpPolicy", _Env(_VECTOR, _BOX), policy_kwargs={"net_arch": [], **extractor}, seed=0, device="cpu")


def _stock(algorithm: Any, sizes: dict[str, float]) -> BaseAlgorithm:
    kwargs, env = {"net_arch": [round(256 * sizes["width_scale"])] * 2}, _Env(_VECTOR, _NUMBER)
    return sparsify(algorithm("MlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **_OFF), sizes["sparsity"])


def _der(sizes: dict[str, float]) -> BaseAlgorithm:
    kwargs = {"net_arch": [round(512 * sizes["width_scale"])], "sparsity": sizes["sparsity"]}
    return DER("MlpPolicy", _Env(_VECTOR, _NUMBER), policy_kwargs=kwargs, seed=0, device="cpu", **_OFF)


def _drqv2(sizes: dict[str, float]) -> BaseAlgorithm:
    env = _Env(spaces.Box(0, 255, IMAGE, np.uint8), _BOX)
    return DrQv2("CnnPolicy", env, policy_kwargs={"sparsity": sizes["sparsity"]}, seed=0, device="cpu", **_OFF)


def _stream_ac(sizes: dict[str, float]) -> BaseAlgorithm:
    kwargs: Any = {"width": round(128 * sizes["width_scale"]), "sparsity": sizes["sparsity"]}
    return _ours(StreamAC, "MlpPolicy", kwargs)


# Untrained models of humanoid's sizes, of four discrete actions, or of images, from ``sparsity`` and ``width_scale``. DrQv2's
# actor has one size.
MODELS: dict[str, Callable[[dict[str, float]], BaseAlgorithm]] = {
    "SAC": lambda sizes: _ours(SAC, SparseSimBaPolicy, sizes, **_OFF),
    "TD3": lambda sizes: _ours(TD3, SparseSimBaTD3Policy, sizes, **_OFF),
    "DDPG": lambda sizes: _ours(DDPG, SparseSimBaTD3Policy, sizes, **_OFF),
    "TQC": lambda sizes: _ours(TQC, SparseSimBaTQCPolicy, sizes, **_OFF),
    "CrossQ": lambda sizes: _ours(CrossQ, SparseSimBaCrossQPolicy, sizes, **_OFF),
    "PPO": lambda sizes: _extracted(PPO, sizes),
    "A2C": lambda sizes: _extracted(A2C, sizes),
    "DQN": lambda sizes: _stock(DQN, sizes),
    "QR-DQN": lambda sizes: _stock(QRDQN, sizes),
    "DER": _der,
    "DrQv2": _drqv2,
    "StreamAC": _stream_ac,
}


def deployment_cost(
    width_scale: float = 1.0,
    sparsity: float = 0.9,
    rounds: int = 7,
    algorithms: Sequence[str] | None = None,
    seconds: float = 0.05,
) -> list[DeploymentCost]:
    """
    Export every model in every format, check every file, and time what reads it in turn, on one thread.

    :param width_scale: Times the usual width
    :param sparsity: Sparsity of what acts, in [0, 1)
    :param rounds: Timed rounds
    :param algorithms: Those of ``MODELS`` to measure; all if None
    :param seconds: Length of a round
    :raises ValueError: for an unknown algorithm.
    """
    unknown = set(algorithms or ()) - set(MODELS)
    if unknown:
        raise ValueError(f"Unknown algorithms {sorted(unknown)}: choose from {', '.join(MODELS)}.")
    prepare("cpu")
    costs, sizes = [], {"width_scale": width_scale, "sparsity": sparsity}
    for algorithm in algorithms or MODELS:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # of tiny buffers and unusual spaces
            costs += _model_costs(algorithm, sizes, Path(folder), rounds, seconds)
    return costs


def _model_costs(algorithm: str, sizes: dict[str, float], folder: Path, rounds: int, seconds: float) -> list[DeploymentCost]:
    model = MODELS[algorithm](dict(sizes))
    policy = DeterministicPolicy(model)
    batch: Any = example_observations(policy.observations, 1)
    inputs, found = policy.inputs(batch), {}
    works: dict[str, Work] = {"predict": lambda: model.predict(batch, deterministic=True)}
    for column, (format, ending) in _COLUMNS.items():
        path = folder / f"policy{ending}"
        try:
            _refuse_without_numba(column)
            written = export(model, path, format)
        except (ValueError, ImportError) as error:
            found[column] = (0, np.nan, str(error))
            continue
        found[column] = (written.bytes, max(written.largest_error, check(path)), "")
        works[column] = functools.partial(_load(column, path, model), inputs)
    times = in_turn(works, rounds, lambda work: mean_microseconds(work, seconds))
    medians = {column: statistics.median(values) for column, values in times.items()}
    us = {column: medians.get(column, math.nan) for column in found}
    case = algorithm, sizes["width_scale"], sizes["sparsity"]
    return [
        DeploymentCost(*case, column, size, us[column], medians["predict"], deviation, obstacle)
        for column, (size, deviation, obstacle) in found.items()
    ]


def _refuse_without_numba(column: str) -> None:
    if column == "sparse, numba" and not kernels_are_available():
        raise ImportError("numba is missing")


def _load(column: str, path: Path, model: BaseAlgorithm) -> Policy:
    if column == "onnx":
        return load_onnx(path)
    if column == "torchscript":
        return load_torchscript(path)
    if column == "c":
        is_box = isinstance(model.action_space, spaces.Box)
        return compiled_policy(path, path.stem, model.action_space.shape or (), np.dtype(np.float32 if is_box else np.int32))
    loaded = load_policy(path, compiled=column == "sparse, numba")
    return lambda inputs: loaded(flat(inputs)[0])


def format_deployment(costs: Sequence[DeploymentCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table; of each file its size, time and deviation, or that there is none
    """
    cases: dict[tuple[str, float, float], list[DeploymentCost]] = {}
    for cost in costs:
        cases.setdefault((cost.algorithm, cost.width_scale, cost.sparsity), []).append(cost)
    rows = [
        [algorithm, f"{width:g}", f"{sparsity:g}", f"{own[0].predict_us:.0f} us", *map(_cell, own)]
        for (algorithm, width, sparsity), own in cases.items()
    ]
    table = markdown_table(" | ".join(["algorithm", "w", "sparsity", "predict", *_COLUMNS]), rows)
    obstacles = dict.fromkeys(f"{cost.algorithm}, {cost.column}: {cost.obstacle}" for cost in costs if cost.obstacle)
    return "\n".join([table, *obstacles])


def _cell(cost: DeploymentCost) -> str:
    if cost.obstacle:
        return "-"
    return f"{cost.bytes / 1000:.0f} kB, {cost.us:.0f} us, {cost.deviation:.0e}"
