"""What one SAC update costs in stock SB3: plain dense SimBa against ours, dense and sparse, in one run."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from sb3_sparse.common.hyperparameters import hyperparameters
from sb3_sparse.experiments.plain_simba import PlainSimBaPolicy
from sb3_sparse.sac import SparseSimBaPolicy

# Sizes of humanoid.
OBSERVATION_DIM, ACTION_DIM = 67, 21
BATCH_SIZE = 256
PLAIN = "plain dense"


class _RandomEnv(gym.Env):
    """An environment that costs nothing, of humanoid's sizes."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.standard_normal(OBSERVATION_DIM).astype(np.float32)


@dataclass(frozen=True)
class UpdateCost:
    """
    Cost of one variant.

    :param width_scale: Width scale w
    :param variant: "plain dense", or the sparsity
    :param milliseconds: Process time of one update in each round
    :param ratio: Median over rounds of this variant's time divided by that of the plain dense network
    """

    width_scale: float
    variant: str
    milliseconds: Sequence[float]
    ratio: float

    @property
    def median(self) -> float:
        """Median milliseconds of process time per update."""
        return statistics.median(self.milliseconds)


def update_cost(width_scale: float, sparsities: Sequence[float], rounds: int = 7, updates: int = 5) -> list[UpdateCost]:
    """
    Time ``train()`` of all variants in turn, round by round, so that a machine whose speed drifts is fair to all.

    :param width_scale: Width scale w
    :param sparsities: Sparsities of the variants with this package's policy
    :param rounds: Timed rounds, after one that is not
    :param updates: Updates per round
    :return: Costs, the plain dense network first
    """
    models = {PLAIN: _model(PlainSimBaPolicy, width_scale)}
    models.update({f"S={s:g}": _model(SparseSimBaPolicy, width_scale, sparsity=s) for s in sparsities})
    times: dict[str, list[float]] = {name: [] for name in models}
    for timed_round in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model.train(updates, BATCH_SIZE)
            if timed_round > 0:
                times[name].append((time.process_time() - start) / updates * 1e3)
    ratios = {name: [t / p for t, p in zip(times[name], times[PLAIN], strict=True)] for name in models}
    return [UpdateCost(width_scale, name, times[name], statistics.median(ratios[name])) for name in models]


def format_table(costs: Sequence[UpdateCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    lines = ["| w | variant | ms per update: median (min to max) | ratio to plain dense |", "|---|---|---|---|"]
    for cost in costs:
        spread = f"{cost.median:.1f} ({min(cost.milliseconds):.1f} to {max(cost.milliseconds):.1f})"
        lines.append(f"| {cost.width_scale:g} | {cost.variant} | {spread} | {cost.ratio:.2f} |")
    return "\n".join(lines)


def _model(policy: type, width_scale: float, **policy_kwargs: Any) -> SAC:
    env = _RandomEnv()
    arguments = {**hyperparameters("sac", env), "buffer_size": 2_000}
    model = SAC(policy, env, policy_kwargs={"width_scale": width_scale, **policy_kwargs}, seed=0, device="cpu", **arguments)
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(1_000):
        observation, following = rng.standard_normal((2, 1, OBSERVATION_DIM))
        action = rng.uniform(-1.0, 1.0, (1, ACTION_DIM))
        model.replay_buffer.add(observation, following, action, np.zeros(1), np.zeros(1), [{}])  # type: ignore[union-attr]
    th.set_num_threads(1)
    return model
