"""Stream AC(lambda) written with nothing but torch and gymnasium: what ours is measured against."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium.utils import RecordConstructorArgs
from torch import nn
from torch.distributions import Normal


class PlainNetwork(nn.Module):
    """
    Two hidden layers with LayerNorm of the pre-activation and LeakyReLU, and linear heads.

    :param sizes: Inputs and hidden units
    :param heads: Size of each head
    """

    def __init__(self, sizes: tuple[int, int], heads: Sequence[int]):
        super().__init__()
        inputs, width = sizes
        self.layers = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width), *(nn.Linear(width, n) for n in heads)])
        self.masks: list[th.Tensor | None] = [None] * len(self.layers)

    def forward(self, x: th.Tensor) -> list[th.Tensor]:
        """
        :param x: (inputs,)
        :return: Output of each head
        """
        for i in (0, 1):
            x = self._linear(i, x)
            x = F.leaky_relu(F.layer_norm(x, x.shape))
        return [self._linear(i, x) for i in range(2, len(self.layers))]

    def _linear(self, i: int, x: th.Tensor) -> th.Tensor:
        layer, mask = self.layers[i], self.masks[i]
        assert isinstance(layer, nn.Linear)
        return F.linear(x, layer.weight if mask is None else layer.weight * mask, layer.bias)


class PlainObGD(th.optim.Optimizer):
    """
    Overshooting-bounded gradient descent, parameter by parameter.

    :param params: Parameters
    :param lr: Largest step size
    :param decay: Discount factor times lambda
    :param kappa: Bound of the step
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float, kappa: float):
        super().__init__(params, {"lr": lr, "decay": decay, "kappa": kappa})

    def step(self, delta: float, reset: bool) -> None:  # type: ignore[override]
        """
        :param delta: TD error
        :param reset: Whether the episode is over
        """
        norm = 0.0
        (group,) = self.param_groups
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state["trace"] = th.zeros_like(p.data)
            state["trace"].mul_(group["decay"]).add_(p.grad)
            norm += state["trace"].abs().sum().item()
        bound = max(abs(delta), 1.0) * norm * group["lr"] * group["kappa"]
        step_size = group["lr"] / bound if bound > 1 else group["lr"]
        for p in group["params"]:
            trace = self.state[p]["trace"]
            p.data.add_(delta * trace, alpha=-step_size)
            if reset:
                trace.zero_()


class PlainStreamAC(nn.Module):
    """
    The agent for continuous actions.

    :param observation_dim: Size of the observation
    :param action_dim: Size of the action
    :param width: Hidden units
    """

    gamma, decay, kappa_policy, kappa_value, ent_coef = 0.99, 0.99 * 0.8, 3.0, 2.0, 0.01

    def __init__(self, observation_dim: int, action_dim: int, width: int = 128):
        super().__init__()
        self.policy = PlainNetwork((observation_dim, width), (action_dim, action_dim))
        self.value = PlainNetwork((observation_dim, width), (1,))
        self.policy_optimizer = PlainObGD(self.policy.parameters(), 1.0, self.decay, self.kappa_policy)
        self.value_optimizer = PlainObGD(self.value.parameters(), 1.0, self.decay, self.kappa_value)

    def pi(self, x: th.Tensor) -> Normal:
        """
        :param x: (observation_dim,)
        """
        mu, pre_std = self.policy(x)
        return Normal(mu, F.softplus(pre_std))

    def act(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: (observation_dim,), normalised
        """
        return self.pi(th.from_numpy(observation).float()).sample().numpy()

    def learn(self, observation: np.ndarray, action: np.ndarray, reward: float, following: np.ndarray, done: bool) -> None:
        """
        :param observation: (observation_dim,), normalised
        :param action: (action_dim,), not clipped
        :param reward: Scaled reward
        :param following: (observation_dim,), the next observation
        :param done: Whether the episode is over
        """
        values = (observation, action, reward, following, not done)
        s, a, r, s2, mask = (th.tensor(np.array(value), dtype=th.float) for value in values)
        (v,), (v2,) = self.value(s), self.value(s2)
        delta = r + self.gamma * v2 * mask - v
        pi = self.pi(s)
        entropy = self.ent_coef * pi.entropy().sum() * th.sign(delta).item()
        self.policy_optimizer.zero_grad()
        self.value_optimizer.zero_grad()
        (-v).backward()
        (-pi.log_prob(a).sum() - entropy).backward()
        self.policy_optimizer.step(delta.item(), done)
        self.value_optimizer.step(delta.item(), done)


class _Moments:
    """Welford's running moments."""

    def __init__(self, shape: tuple[int, ...]):
        self.mean, self.p, self.n = np.zeros(shape), np.zeros(shape), 0

    def update(self, x: Any) -> None:
        self.n += 1
        mean = self.mean + (x - self.mean) / self.n
        self.p = self.p + (x - self.mean) * (x - mean)
        self.mean = mean

    @property
    def var(self) -> np.ndarray:
        return self.p / (self.n - 1) if self.n > 1 else np.ones_like(self.p)


class PlainScaleReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    :param env: Environment
    :param gamma: Discount factor
    """

    def __init__(self, env: gym.Env, gamma: float):
        RecordConstructorArgs.__init__(self, gamma=gamma)
        super().__init__(env)
        self.gamma, self.u, self.moments = gamma, np.zeros(()), _Moments(())

    def step(self, action: Any) -> Any:
        """
        :param action: Action
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.u = self.u * self.gamma * (1 - (terminated or truncated)) + float(reward)
        self.moments.update(self.u)
        return observation, float(reward) / np.sqrt(self.moments.var + 1e-8), terminated, truncated, info


class PlainNormalizeObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    :param env: Environment with vectors as observations
    """

    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        assert env.observation_space.shape is not None
        self.moments = _Moments(env.observation_space.shape)

    def step(self, action: Any) -> Any:
        """
        :param action: Action
        """
        observation, *rest = self.env.step(action)
        return self._normalize(observation), *rest

    def reset(self, **kwargs: Any) -> Any:
        """
        :param kwargs: As in gymnasium
        """
        observation, info = self.env.reset(**kwargs)
        return self._normalize(observation), info

    def _normalize(self, observation: np.ndarray) -> np.ndarray:
        self.moments.update(observation)
        return (observation - self.moments.mean) / np.sqrt(self.moments.var + 1e-8)


class PlainTime(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    :param env: Environment
    :param limit: Steps of an episode
    """

    def __init__(self, env: gym.Env, limit: int):
        RecordConstructorArgs.__init__(self, limit=limit)
        super().__init__(env)
        self.limit, self.k = limit, 0

    def step(self, action: Any) -> Any:
        """
        :param action: Action
        """
        observation, *rest = self.env.step(action)
        observation = np.append(observation, -0.5 + self.k / self.limit)
        self.k += 1
        return observation, *rest

    def reset(self, **kwargs: Any) -> Any:
        """
        :param kwargs: As in gymnasium
        """
        observation, info = self.env.reset(**kwargs)
        self.k = 0
        return np.append(observation, -0.5), info


def plain_environment(env: gym.Env, gamma: float = PlainStreamAC.gamma) -> gym.Env:
    """
    The chain of wrappers, from the inside out.

    :param env: Environment with vectors as observations and a time limit
    :param gamma: Discount factor
    """
    assert env.spec is not None and env.spec.max_episode_steps is not None
    limit = env.spec.max_episode_steps
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(env))
    env = PlainScaleReward(gym.wrappers.ClipAction(env), gamma)
    return PlainTime(PlainNormalizeObservation(env), limit)


def plain_training(env: gym.Env, agent: PlainStreamAC, steps: int, seed: int | None = None) -> None:
    """
    Train.

    :param env: What :func:`plain_environment` made
    :param agent: Agent
    :param steps: Environment steps
    :param seed: Seed of the first reset
    """
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        action = agent.act(observation)
        following, reward, terminated, truncated, _ = env.step(action)
        agent.learn(observation, action, float(reward), following, terminated or truncated)
        observation = following
        if terminated or truncated:
            observation, _ = env.reset()
