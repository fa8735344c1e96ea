"""The Q-value bias that PlasticityCallback logs, against returns worked out here."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from test_plasticity_callback import measured, watch

import sb3_sparse
from sb3_sparse import SparseSimBaPolicy

GAMMA = 0.5
SMALL: dict[str, Any] = {
    "learning_starts": 10,
    "batch_size": 16,
    "buffer_size": 500,
    "seed": 0,
    "device": "cpu",
    "gamma": GAMMA,
}
MLP = {"policy_kwargs": {"net_arch": [16]}}


class Diary(gym.Env):
    """Episodes of five steps with random observations and rewards; keeps what was seen, done and given in the last one."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, discrete: bool = False, by_time: bool = False, reward: float | None = None):
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,))
        self.by_time, self.reward = by_time, reward
        self.pages: list[tuple[np.ndarray, Any, float]] = []
        self.finished: list[tuple[np.ndarray, Any, float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.pages, self.seen = [], self._look()
        return self.seen, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self.np_random.normal()) if self.reward is None else self.reward
        self.pages.append((self.seen, action, reward))
        self.seen, over = self._look(), len(self.pages) == 5
        if over:
            self.finished = self.pages
        return self.seen, reward, over and not self.by_time, over and self.by_time, {}

    def _look(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def critic_values(model: Any, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
    if isinstance(model, DQN):
        return model.q_net(observations)[range(len(actions)), actions]
    if isinstance(model, QRDQN):
        return model.quantile_net(observations).mean(1)[range(len(actions)), actions]
    values = model.critic(observations, actions)
    return values.flatten(1).mean(1) if isinstance(model, TQC) else th.cat(values, 1).mean(1)


@pytest.mark.parametrize("by_time", [False, True], ids=["terminal", "time limit"])
@pytest.mark.parametrize(
    ("model_class", "kwargs"),
    [
        (TD3, MLP),
        (SAC, {**MLP, "ent_coef": 0.3}),
        (sb3_sparse.SAC, {"policy": SparseSimBaPolicy, "ent_coef": 0.3, "policy_kwargs": {"width_scale": 1 / 16}}),
        (TQC, {**MLP, "ent_coef": 0.3}),
        (DQN, MLP),
        (QRDQN, MLP),
    ],
)
def test_the_bias_is_values_less_discounted_returns(
    model_class: type[BaseAlgorithm], kwargs: dict[str, Any], by_time: bool, tmp_path: Path
) -> None:
    is_discrete = issubclass(model_class, DQN | QRDQN)
    env = Diary(is_discrete, by_time)
    model: Any = model_class(**copy.deepcopy({"policy": "MlpPolicy", "gamma": GAMMA, **SMALL, **kwargs}), env=env)
    model.learn(40, callback=watch(tmp_path, metrics=("value_bias",), log_freq=1_000, batch_size=8))
    observations = th.tensor(np.stack([page[0] for page in env.finished]))
    actions = th.tensor(np.stack([page[1] for page in env.finished]))
    with th.no_grad():
        values = critic_values(model, observations, actions)
        bonuses = th.zeros(5)
        if not isinstance(model, TD3) and not is_discrete:
            mean, log_std, _ = model.actor.get_action_dist_params(observations)
            bonuses = -0.3 * model.actor.action_dist.proba_distribution(mean, log_std).log_prob(actions)
    rewards = [page[2] for page in env.finished]
    later = [sum(GAMMA ** (k - t) * (rewards[k] + float(bonuses[k])) for k in range(t + 1, 5)) for t in range(5)]
    errors = [float(values[t]) - rewards[t] - later[t] for t in range(5)]
    # 0.5 ** 4 is less than a tenth, 0.5 ** 3 is more.
    expected = np.mean(errors[:2] if by_time else errors)
    network = {DQN: "q_net", QRDQN: "quantile_net"}.get(model_class, "critic")
    assert measured(tmp_path, network)[model.num_timesteps, "value_bias"] == pytest.approx(expected, abs=1e-5)


def test_it_falls_as_a_critic_learns(tmp_path: Path) -> None:
    model = TD3("MlpPolicy", Diary(reward=1.0), learning_rate=0.01, **copy.deepcopy({**SMALL, "gamma": 0.0, **MLP}))
    model.learn(400, callback=watch(tmp_path, metrics=("value_bias",), log_freq=20))
    found = [value for (_, metric), value in sorted(measured(tmp_path).items()) if metric == "value_bias"]
    assert abs(found[-1]) < 0.05 < abs(found[0])


def test_episodes_too_short_for_the_discount_are_named(tmp_path: Path) -> None:
    model = TD3("MlpPolicy", Diary(by_time=True), **copy.deepcopy({**SMALL, "gamma": 0.99, **MLP}))
    with pytest.warns(UserWarning, match=r"episodes of 5 agent steps end by time before a return is known with gamma=0\.99"):
        model.learn(30, callback=watch(tmp_path, metrics=("value_bias",)))
    assert measured(tmp_path) == {}
