"""What one update and one action of SAC cost in stock SB3: plain dense SimBa against ours, dense and sparse, in one run."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
PREDICTIONS = 100
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
    Cost of one variant, in process time.

    :param width_scale: Width scale w
    :param variant: "plain dense", or the sparsity
    :param update_ms: Milliseconds of one update in each round
    :param update_ratio: Median over rounds of this variant's time divided by that of the plain dense network
    :param predict_ms: Milliseconds of one action for one observation in each round
    :param predict_ratio: The same ratio for actions
    """

    width_scale: float
    variant: str
    update_ms: Sequence[float]
    update_ratio: float
    predict_ms: Sequence[float]
    predict_ratio: float


def update_cost(width_scale: float, sparsities: Sequence[float], rounds: int = 7, updates: int = 5) -> list[UpdateCost]:
    """
    Time ``train()`` and ``predict()`` of all variants in turn, round by round, so that a machine whose speed drifts is fair to
    all.

    :param width_scale: Width scale w
    :param sparsities: Sparsities of the variants with this package's policy
    :param rounds: Timed rounds, after one that is not
    :param updates: Updates per round
    :return: Costs, the plain dense network first
    """
    models = {PLAIN: _model(PlainSimBaPolicy, width_scale)}
    models.update({f"S={s:g}": _model(SparseSimBaPolicy, width_scale, sparsity=s) for s in sparsities})
    update_ms: dict[str, list[float]] = {name: [] for name in models}
    predict_ms: dict[str, list[float]] = {name: [] for name in models}
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    for timed_round in range(rounds + 1):
        for name, model in models.items():
            update = _milliseconds(lambda model=model: model.train(updates, BATCH_SIZE)) / updates  # type: ignore[misc]
            actions = _milliseconds(lambda model=model: [model.predict(observation) for _ in range(PREDICTIONS)])  # type: ignore[misc]
            if timed_round > 0:
                update_ms[name].append(update)
                predict_ms[name].append(actions / PREDICTIONS)
    return [
        UpdateCost(width_scale, name, update_ms[name], _ratio(update_ms, name), predict_ms[name], _ratio(predict_ms, name))
        for name in models
    ]


def format_table(costs: Sequence[UpdateCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    lines = [
        "| w | variant | ms per update: median (min to max) | ratio | ms per action | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for cost in costs:
        update = f"{statistics.median(cost.update_ms):.1f} ({min(cost.update_ms):.1f} to {max(cost.update_ms):.1f})"
        action = f"{statistics.median(cost.predict_ms):.2f}"
        ratios = f"{cost.update_ratio:.2f}", f"{cost.predict_ratio:.2f}"
        lines.append(f"| {cost.width_scale:g} | {cost.variant} | {update} | {ratios[0]} | {action} | {ratios[1]} |")
    return "\n".join(lines)


def _milliseconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e3


def _ratio(times: Mapping[str, list[float]], name: str) -> float:
    return statistics.median(time / plain for time, plain in zip(times[name], times[PLAIN], strict=True))


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
