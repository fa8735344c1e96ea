"""The episode that ended last in training, and what it says about a critic."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import obs_as_tensor

from sb3_sparse.algorithms.own_algorithm import known_algorithm
from sb3_sparse.diagnostics import discounted_returns, q_value_bias
from sb3_sparse.diagnostics.measured_network import MeasuredNetwork
from sb3_sparse.algorithms.losses import temperature

# What the rewards after a time limit, which nobody sees, may weigh in a return.
UNSEEN_WEIGHT = 0.1


@dataclass
class Episode:
    """
    Steps of one environment.

    :param observations: What the policy was given, each (1, *shape), or a mapping of such
    :param actions: As the replay buffer holds them, each (1, action_dim)
    :param rewards: As the critic learns them
    :param is_terminal: Whether it ended by itself, not by a time limit
    """

    observations: list[Any] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    is_terminal: bool = False


class LatestEpisode:
    """Follows the first environment of a model that collects, and keeps the episode that ended last."""

    def __init__(self) -> None:
        self._running = Episode()
        self.finished: Episode | None = None

    def follow(self, model: BaseAlgorithm, collected: dict[str, Any]) -> None:
        """
        Take in a step; random ones, before learning starts, are left out.

        :param model: Model whose rollout it is
        :param collected: Local variables of SB3's ``collect_rollouts`` when it calls callbacks
        """
        if model.num_timesteps <= model.learning_starts:  # type: ignore[attr-defined]
            return
        observation: Any = model._last_obs
        first = {k: v[:1].copy() for k, v in observation.items()} if isinstance(observation, dict) else observation[:1].copy()
        self._running.observations.append(first)
        self._running.actions.append(np.array(collected["buffer_actions"][:1]).reshape(1, -1))
        self._running.rewards.append(float(collected["rewards"][0]))
        if collected["dones"][0]:
            self._running.is_terminal = not collected["infos"][0].get("TimeLimit.truncated", False)
            self.finished, self._running = self._running, Episode()

    def state(self) -> Any:
        """What a run that goes on needs."""
        return self._running, self.finished

    def restore(self, state: Any) -> None:
        """
        :param state: What :meth:`state` returned
        """
        self._running, self.finished = state


def known_returns(episode: Episode, gamma: float) -> int:
    """
    Count the first steps of an episode whose return is known: all after a natural end; with a time limit those so far from
    it that the rewards beyond weigh at most a tenth.

    :param episode: Finished episode
    :param gamma: Discount factor
    """
    steps = len(episode.rewards)
    if episode.is_terminal:
        return steps
    left = gamma ** np.arange(steps, 0, -1)
    return int((left <= UNSEEN_WEIGHT).sum())


@th.no_grad()
def value_bias(model: Any, network: MeasuredNetwork, episode: Episode) -> float:
    """
    Measure the Q-value bias over an episode of the policy that acted: mean of its critics' values less the discounted
    returns that followed, with the entropy bonuses that soft critics (SAC, TQC, CrossQ) are to foresee.

    :param model: Model, whose networks may have moved on since
    :param network: Its critic or Q-network, which has ``values``
    :param episode: Finished episode with known returns
    :return: Bias, in units of returns; positive means overestimation
    """
    assert network.values is not None
    keys = episode.observations[0].keys() if isinstance(episode.observations[0], dict) else None
    stacked: Any = (
        np.concatenate(episode.observations)
        if keys is None
        else {key: np.concatenate([observation[key] for observation in episode.observations]) for key in keys}
    )
    observations = obs_as_tensor(stacked, model.device)
    actions = th.as_tensor(np.concatenate(episode.actions), device=model.device)
    batch = SimpleNamespace(observations=observations, actions=actions)
    values = network.values(network.forward(batch), batch).double().cpu()
    rewards = th.tensor(episode.rewards, dtype=th.float64)
    bonuses = _entropy_bonuses(model, observations, actions).double().cpu()
    # The value of an action counts its own reward, and the bonuses of later ones.
    returns = discounted_returns(rewards + bonuses, model.gamma) - bonuses
    known = known_returns(episode, model.gamma)
    return q_value_bias(values[:known], returns[:known])


def _entropy_bonuses(model: Any, observations: Any, actions: th.Tensor) -> th.Tensor:
    row = known_algorithm(model)
    if row is None or row.exploration != "entropy":
        return th.zeros(len(actions))
    mean, log_std, arguments = model.actor.get_action_dist_params(observations)
    distribution = model.actor.action_dist.proba_distribution(mean, log_std, **arguments)
    return -temperature(model) * distribution.log_prob(actions)
