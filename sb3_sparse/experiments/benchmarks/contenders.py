"""Contenders of the benchmarks: one SAC model of humanoid's sizes per way to update it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import get_device

import sb3_sparse
from sb3_sparse.common.hyperparameters import hyperparameters
from sb3_sparse.experiments.benchmarks.plain_simba import PlainSimBaPolicy
from sb3_sparse.sac import SparseSimBaPolicy
from sb3_sparse.sparsity.allocation import check_sparsity

# Sizes of humanoid.
OBSERVATION_DIM, ACTION_DIM = 67, 21
BATCH_SIZE = 256
STOCK, EAGER, COMPILED, PEER, MLP = "SB3, plain dense", "SB3", "ours", "SBX, dense", "SB3, MlpPolicy"


class RandomEnv(gym.Env):
    """An environment that costs nothing, of humanoid's sizes."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        :param seed: Seed of the observations
        :param options: Not used
        """
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """
        :param action: Not used
        """
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.standard_normal(OBSERVATION_DIM).astype(np.float32)


@dataclass(frozen=True)
class Contender:
    """
    One way to update a network of one size.

    :param kind: ``STOCK``: SB3's SAC with a SimBa policy of torch's own layers; ``EAGER``: SB3's SAC with our policy;
        ``COMPILED``: our SAC with our policy; ``PEER``: SBX's SAC (JAX) with its own SimBa policy, which normalises no
        observations; ``MLP``: SB3's SAC with SB3's MlpPolicy, two layers of 256 whatever the width scale
    :param width_scale: Width scale w
    :param sparsity: Sparsity; None where the policy has none
    """

    kind: str
    width_scale: float
    sparsity: float | None = None

    @property
    def variant(self) -> str:
        """Its name in tables, width apart."""
        return self.kind if self.sparsity is None else f"{self.kind}, S={self.sparsity:g}"

    def build(self, env: gym.Env | None = None, device: str = "auto", **arguments: Any) -> BaseAlgorithm:
        """
        Build the model with the paper's hyperparameters and AdamW, fused on both sides.

        :param env: Environment; one of humanoid's sizes that costs nothing if None
        :param device: Device, for torch
        :param arguments: What to change of the hyperparameters
        :raises ImportError: if SBX is asked for and not installed.
        """
        env = RandomEnv() if env is None else env
        arguments = {**hyperparameters("sac", env), "seed": 0, **arguments}
        if self.kind == PEER:
            return self._build_peer(env, arguments)
        if self.kind == MLP:
            return SAC("MlpPolicy", env, device=device, **arguments)
        library = sb3_sparse.SAC if self.kind == COMPILED else SAC
        policy: Any = PlainSimBaPolicy if self.kind == STOCK else SparseSimBaPolicy
        kwargs: dict[str, Any] = {"width_scale": self.width_scale}
        if self.sparsity is not None:
            kwargs["sparsity"] = self.sparsity
        return library(policy, env, policy_kwargs=kwargs, device=device, **arguments)

    def _build_peer(self, env: gym.Env, arguments: dict[str, Any]) -> BaseAlgorithm:
        width = {"pi": [round(128 * self.width_scale)], "qf": [round(512 * self.width_scale)] * 2}
        try:
            sbx: Any = importlib.import_module("sbx")
        except ModuleNotFoundError as error:
            raise ImportError("SBX is not installed, run: pip install sbx-rl") from error
        return sbx.SAC("SimbaPolicy", env, policy_kwargs={"net_arch": width, "n_critics": 1}, **arguments)


def contenders(width_scales: Sequence[float], sparsities: Sequence[float], with_peer: bool = False) -> list[Contender]:
    """
    List what is compared.

    :param width_scales: Width scales w
    :param sparsities: Sparsities of our policy
    :param with_peer: Whether SBX takes part
    :raises ValueError: if a sparsity lies outside [0, 1).
    """
    for sparsity in sparsities:
        check_sparsity(sparsity)
    found = []
    for width in width_scales:
        found.append(Contender(STOCK, width))
        found += [Contender(kind, width, sparsity) for sparsity in sparsities for kind in (EAGER, COMPILED)]
        found += [Contender(PEER, width)] if with_peer else []
    return found


def filled(contender: Contender, device: str, transitions: int = 1_000) -> BaseAlgorithm:
    """
    Build a model and fill its replay buffer with noise.

    :param contender: What to build
    :param device: Device
    :param transitions: Number of transitions
    """
    model = contender.build(device=device, buffer_size=2 * transitions)
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(transitions):
        observation, following = rng.standard_normal((2, 1, OBSERVATION_DIM)).astype(np.float32)
        action = rng.uniform(-1.0, 1.0, (1, ACTION_DIM)).astype(np.float32)
        model.replay_buffer.add(observation, following, action, np.zeros(1), np.zeros(1), [{}])  # type: ignore[attr-defined]
    if get_device(device).type == "cpu":
        th.set_num_threads(1)
    return model
