"""Interface of Stream AC's back ends."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from sb3_sparse.stream_ac.obgd import ObGD
from sb3_sparse.stream_ac.policies import StreamACPolicy


@dataclass
class Means:
    """Running means of what the logger gets, since they were last taken."""

    names: tuple[str, ...]
    sums: np.ndarray = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.sums = np.zeros(len(self.names))

    def add(self, *values: float) -> None:
        """
        :param values: One value per name
        """
        self.sums += values
        self.count += 1

    def take(self) -> dict[str, float]:
        """Return the means and start anew; nothing if nothing was added."""
        means = (
            {name: value / self.count for name, value in zip(self.names, self.sums.tolist(), strict=True)}
            if self.count
            else {}
        )
        self.sums[:] = 0.0
        self.count = 0
        return means


METRICS = (
    "td_error",
    "entropy",
    "actor_step_size",
    "critic_step_size",
    "actor_trace_norm",
    "critic_trace_norm",
)


class Learner(ABC):
    """
    Acts and learns with a policy, in place: after every call the policy's parameters, its observation statistics and its
    optimizers' traces are what they should be.

    :param policy: Policy with its optimizers
    :param gamma: Discount factor
    :param ent_coef: Weight of the entropy
    """

    def __init__(self, policy: StreamACPolicy, gamma: float, ent_coef: float):
        self.policy, self.gamma, self.ent_coef = policy, gamma, ent_coef
        self.means = Means(METRICS)

    @property
    def optimizers(self) -> tuple[ObGD, ObGD]:
        """Those of actor and critic."""
        return self.policy.actor.optimizer, self.policy.critic.optimizer  # type: ignore[return-value]

    def bind(self) -> None:  # noqa: B027, what a back end may need
        """Take note of parameters, masks or traces that were replaced, rather than written in place, since the last call."""

    def reset_traces(self) -> None:
        """Zero the traces of both networks, at the start of an episode that does not follow the end of another."""
        for optimizer in self.optimizers:
            optimizer.reset()

    def forget(self) -> None:
        """Zero all that the optimizers keep, after it has become something that is no number."""
        for optimizer in self.optimizers:
            optimizer.forget()

    def set_learning_rate(self, learning_rate: float) -> None:
        """
        :param learning_rate: Largest step size of both networks
        """
        for optimizer in self.optimizers:
            optimizer.group["lr"] = learning_rate

    @abstractmethod
    def observe(self, observation: np.ndarray) -> np.ndarray:
        """
        Count an observation in the statistics, then normalise it.

        :param observation: (dim,)
        :return: (dim,) float32
        :raises ValueError: if it is not finite; the statistics have not moved then.
        """

    @abstractmethod
    def act(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """
        Choose an action.

        :param features: (dim,) float32, normalised
        :param noise: float32, what chance contributes: standard normal (action size,), or (1,) uniform in [0, 1) for discrete
            actions
        :return: float32, (action size,) not clipped, or (1,) the number of a discrete action
        """

    @abstractmethod
    def learn(
        self,
        features: np.ndarray,
        action: np.ndarray,
        reward: float,
        next_features: np.ndarray,
        bootstrap: bool,
        done: bool,
    ) -> None:
        """
        Update both networks with one transition, in the reference's order: TD error and gradients with the weights as they
        are, then the actor's step, the critic's, and at the end of an episode the traces.

        :param features: (dim,) float32, what :meth:`act` was last called with; it may be reused
        :param action: What :meth:`act` returned
        :param reward: Scaled reward
        :param next_features: (dim,) float32
        :param bootstrap: Whether the value of what follows counts
        :param done: Whether the episode is over
        :raises FloatingPointError: if the update is not finite; the networks have not changed then.
        """


def refuse_not_finite(observation: np.ndarray) -> None:
    """
    Refuse an observation with entries that are no number.

    :param observation: (dim,)
    :raises ValueError: if there are any; the message names them.
    """
    wrong = [i for i, value in enumerate(np.asarray(observation).tolist()) if not math.isfinite(value)]
    if wrong:
        raise ValueError(
            f"The environment returned an observation that is not finite, in entries {wrong[:10]} of {len(observation)}. "
            "Neither statistics nor networks have seen it; the model can be saved."
        )
