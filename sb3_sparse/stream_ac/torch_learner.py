"""The back end that says in torch what Stream AC does; the other one is tested against it."""

import numpy as np
import torch as th
from torch.distributions import Categorical

from sb3_sparse.stream_ac.learner import Learner, refuse_not_finite


class TorchLearner(Learner):
    """Gradients by automatic differentiation, on any device."""

    def observe(self, observation: np.ndarray) -> np.ndarray:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        refuse_not_finite(observation)
        return self.policy.normalizer.observe(observation)

    @th.no_grad()
    def act(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        actor, chance = self.policy.actor, self._tensor(noise)
        distribution = actor.distribution(self._tensor(features)[None])
        if isinstance(distribution, Categorical):
            below = distribution.probs[0].cumsum(0)
            action = (below <= chance).sum().clamp(max=len(below) - 1)[None].float()
        else:
            action = distribution.mean[0] + distribution.stddev[0] * chance
        return action.cpu().numpy()

    def learn(
        self,
        features: np.ndarray,
        action: np.ndarray,
        reward: float,
        next_features: np.ndarray,
        bootstrap: bool,
        done: bool,
    ) -> None:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        actor, critic = self.policy.actor, self.policy.critic
        values = critic(self._tensor(np.stack([features, next_features])))
        delta = (np.float32(reward) + self.gamma * bootstrap * values[1] - values[0]).detach()
        distribution = actor.distribution(self._tensor(features)[None])
        taken = self._tensor(action)[None]
        log_prob = distribution.log_prob(taken[:, 0] if actor.is_discrete else taken).sum()
        entropy = distribution.entropy().sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        (-log_prob - self.ent_coef * delta.sign() * entropy - values[0]).backward()
        self._step(delta.item(), entropy.item(), done)

    def _step(self, delta: float, entropy: float, done: bool) -> None:
        try:
            for optimizer in self.optimizers:
                optimizer.accumulate(delta)
        except FloatingPointError:
            self.forget()
            raise
        for optimizer in self.optimizers:
            optimizer.descend(delta)
        if done:
            self.reset_traces()
        actor, critic = self.optimizers
        self.means.add(abs(delta), entropy, actor.step_size, critic.step_size, actor.trace_norm, critic.trace_norm)

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array, dtype=th.float32, device=self.policy.device)
