"""Hashes of everything that training leaves behind: they show whether two states of the code compute the same."""

import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3 as sb3
import torch as th
from catch_env import Catch
from dot_env import DotEnv
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

import sb3_sparse as ours

# Logged, and different in every run.
_TIMES = ("time/fps", "time/time_elapsed")


def models() -> dict[str, Callable[[], tuple[BaseAlgorithm, Any]]]:
    """
    What is trained.

    :return: Name -> function that makes a model and its callback
    """
    off = {"learning_starts": 40, "batch_size": 16, "buffer_size": 500}
    small = {"width_scale": 0.125, "sparsity": 0.6}
    encoder = {"features_extractor_class": ours.SparseSimBaExtractor, "features_extractor_kwargs": small, "net_arch": []}
    pixels = {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}, "sparsity": 0.6}
    atoms = {"net_arch": [32], "n_atoms": 11, "v_max": 100.0, "sparsity": 0.6}

    def any_of(algorithm: Any, policy: Any, env: Any, callback: Any = None, **kwargs: Any) -> Any:
        def make() -> tuple[BaseAlgorithm, Any]:
            # Algorithms write into what they are given.
            arguments = copy.deepcopy(kwargs)
            made = env() if isinstance(env, type) else env
            return algorithm(policy, made, seed=0, device="cpu", **arguments), callback and callback()

        return make

    def continuous(algorithm: Any, policy: Any, callback: Any = None, **kwargs: Any) -> Any:
        return any_of(algorithm, policy, "Pendulum-v1", callback, **{"policy_kwargs": small, **off, **kwargs})

    def pruned(algorithm: Any, env: Any, callback: Any = None, **kwargs: Any) -> Any:
        def make() -> tuple[BaseAlgorithm, Any]:
            model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [32, 32]}, **kwargs)
            return ours.sparsify(model, 0.6, mask_seed=0), callback and callback()

        return make

    def topology(method: str, **kwargs: Any) -> Any:
        return lambda: ours.SparseTopologyCallback(method, update_freq=60, **kwargs)

    sac, td3 = ours.SparseSimBaPolicy, ours.SparseSimBaTD3Policy
    return {
        "SAC": continuous(ours.SAC, sac),
        "SAC, dense": continuous(ours.SAC, sac, policy_kwargs={"width_scale": 0.125}),
        "SAC, paper": continuous(ours.SAC, sac, update_rule="paper", gradient_steps=2),
        "SAC, two critics": continuous(ours.SAC, sac, policy_kwargs={**small, "n_critics": 2}),
        "SAC, n-step": continuous(ours.SAC, sac, n_steps=3),
        "SAC, MlpPolicy": continuous(ours.SAC, "MlpPolicy", policy_kwargs={"net_arch": [32, 32]}),
        "SAC, SET": continuous(ours.SAC, sac, topology("set")),
        "SAC, RigL": continuous(ours.SAC, sac, topology("rigl", batch_size=32)),
        "SAC, pruning": continuous(
            ours.SAC, sac, topology("pruning", final_sparsity=0.8), policy_kwargs={"width_scale": 0.125}
        ),
        "SAC, ReDo": continuous(ours.SAC, sac, lambda: ours.ReDoCallback(redo_freq=60, tau=0.025)),
        "SAC, reset": continuous(ours.SAC, sac, lambda: ours.ResetCallback(reset_freq=60)),
        "SAC, plasticity": continuous(
            ours.SAC, sac, lambda: ours.PlasticityCallback(log_freq=50, batch_size=32, covariance_freq=100)
        ),
        "SB3 SAC": continuous(sb3.SAC, sac),
        "DDPG": continuous(ours.DDPG, td3),
        "DDPG, paper": continuous(ours.DDPG, td3, update_rule="paper"),
        "SB3 DDPG": continuous(sb3.DDPG, td3),
        "TD3": continuous(ours.TD3, td3),
        "TD3, RigL": continuous(ours.TD3, td3, topology("rigl", batch_size=32)),
        "SB3 TD3": continuous(sb3.TD3, td3),
        "TQC": continuous(TQC, ours.SparseSimBaTQCPolicy),
        "TQC, RigL": continuous(TQC, ours.SparseSimBaTQCPolicy, topology("rigl", batch_size=32)),
        "SAC, sparsify": pruned(sb3.SAC, "Pendulum-v1", **off),
        "SAC, sparsify, RigL": pruned(sb3.SAC, "Pendulum-v1", topology("rigl", batch_size=32), **off),
        "CrossQ, sparsify": pruned(CrossQ, "Pendulum-v1", **off),
        "DQN, sparsify, RigL": pruned(sb3.DQN, "CartPole-v1", topology("rigl", batch_size=32), **off),
        "QR-DQN, sparsify": pruned(QRDQN, "CartPole-v1", **off),
        "PPO, sparsify": pruned(sb3.PPO, "CartPole-v1", n_steps=32, batch_size=16, n_epochs=2),
        "PPO, extractor": any_of(sb3.PPO, "MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, policy_kwargs=encoder),
        "A2C, extractor": any_of(sb3.A2C, "MlpPolicy", "CartPole-v1", policy_kwargs=encoder),
        "StreamAC, dense": any_of(ours.StreamAC, "MlpPolicy", "Pendulum-v1", policy_kwargs={"width": 32, "init": "dense"}),
        "StreamAC, SparseInit": any_of(ours.StreamAC, "MlpPolicy", "Pendulum-v1", policy_kwargs={"width": 32}),
        "StreamAC, static": any_of(ours.StreamAC, "MlpPolicy", "Pendulum-v1", policy_kwargs={"width": 32, "sparsity": 0.8}),
        "DrQv2": any_of(ours.DrQv2, "CnnPolicy", DotEnv, policy_kwargs=pixels, **{**off, "batch_size": 8}),
        "DER": any_of(ours.DER, "MlpPolicy", "CartPole-v1", policy_kwargs=atoms, **{**off, "batch_size": 8}),
        "DER, pixels": any_of(
            ours.DER, "CnnPolicy", Catch, policy_kwargs={**atoms, "width_scale": 0.25}, **{**off, "batch_size": 8}
        ),
    }


def fingerprint(model: BaseAlgorithm, callback: Any, steps: int = 240) -> dict[str, str]:
    """
    Train a model and hash what comes of it.

    :param model: Model
    :param callback: Callback of its training
    :param steps: Agent steps
    :return: What -> hash: weights (masks and statistics included), optimizer moments, logged values, an evaluation
    """
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["csv"]))
        model.learn(steps, callback=callback, log_interval=1)
        logged = _logged(Path(folder) / "progress.csv")
    optimizers = {name: value for name, value in model.get_parameters().items() if name.endswith("optimizer")}
    returns = evaluate_policy(model, model.get_env(), n_eval_episodes=2, return_episode_rewards=True, warn=False)[0]
    return {
        "weights": _hash(sorted(model.policy.state_dict().items())),
        "moments": _hash(sorted(optimizers.items())),
        "log": _hash(logged),
        "evaluation": _hash(returns),
    }


def _logged(path: Path) -> list[str]:
    if not path.exists():
        return []
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    order = sorted((name, column) for column, name in enumerate(header) if name not in _TIMES)
    return [",".join(row[column] for _, column in order if column < len(row)) for row in rows]


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, th.Tensor):
        yield str(value.dtype).encode() + value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield str(key).encode()
            yield from _parts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _parts(entry)
    else:
        yield repr(float(value) if isinstance(value, np.floating) else value).encode()


def fingerprints() -> dict[str, dict[str, str]]:
    """
    :return: Model -> what :func:`fingerprint` says
    """
    return {name: fingerprint(*make()) for name, make in models().items()}


if __name__ == "__main__":
    th.set_num_threads(1)
    json.dump(fingerprints(), sys.stdout, indent=1)
