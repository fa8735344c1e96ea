"""Policy of Stream AC."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch.distributions import Distribution

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.mask_loading import guard_parts
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.stream_ac.initializers import FROZEN, INITIALIZERS
from sb3_sparse.stream_ac.networks import StreamActor, StreamCritic
from sb3_sparse.stream_ac.obgd import OPTIMIZERS
from sb3_sparse.stream_ac.observation_statistics import ObservationStatistics


class _DenseStreamPolicy(BasePolicy):
    """What :class:`StreamACPolicy` is before it is pruned."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        width: int,
        init: str,
        time_feature: bool,
        optimizer: str,
    ):
        super().__init__(observation_space, action_space)
        self.width, self.init, self.time_feature, self.optimizer_name = width, init, time_feature, optimizer
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        dim = self.observation_space.shape[0]  # type: ignore[index]
        self.normalizer = ObservationStatistics(dim, dim - int(self.time_feature))
        self.actor = StreamActor(dim, self.action_space, self.width, self.init)
        self.critic = StreamCritic(dim, self.width, self.init)
        for network in (self.actor, self.critic):
            network.optimizer = OPTIMIZERS[self.optimizer_name](network.parameters(), lr=lr_schedule(1.0))


class StreamACPolicy(PrunedPolicy, _DenseStreamPolicy):
    """
    Actor and critic of Stream AC(lambda) (Elsayed et al., 2024), each with two hidden layers of its own, LayerNorm of the
    pre-activations and LeakyReLU, pruned at random once, before training, if asked for (Ma et al., ICML 2025, section 5).

    Width, initialisation and sparsity are independent of each other. The arms of the paper's figure 13 are ``init="dense"``,
    ``init="sparse"`` (SparseInit), and ``init="dense", sparsity=0.9`` (static). The paper does not say which mask its static
    arm has; ``init="frozen_sparse"`` is another candidate, SparseInit whose zeros stay: a tenth of the inputs of every unit,
    those of the output layers included, from the same weights as ``init="sparse"`` with the same seed.

    :param observation_space: A Box of vectors, as :class:`~sb3_sparse.stream_ac.StreamWrapper` makes them
    :param action_space: A Box or Discrete space
    :param lr_schedule: Learning rate schedule
    :param width: Units of each hidden layer, of actor and critic
    :param init: "sparse" (SparseInit: nine tenths of each unit's weights begin at zero, and are trained), "frozen_sparse"
        (they stay zero: a mask by itself, so without ``sparsity`` and ``skip``) or "dense"
    :param sparsity: As for :class:`~sb3_sparse.SparseSimBaPolicy`, and so are the next three
    :param distribution: Layer-wise allocation
    :param budget: What the sparsity is a fraction of
    :param mask_seed: Seed of the masks; drawn from the model's seed if None
    :param skip: Names of submodules that stay dense, e.g. "actor.mu"
    :param time_feature: Whether the last entry of the observation is the time in the episode, which is not normalised; set by
        the algorithm
    :param optimizer: "obgd" or "adaptive_obgd"; set by the algorithm
    :raises ValueError: for observations that are no vectors, actions that are neither, an unknown ``init``, one that cannot be
        had with what else is asked for, and whatever :func:`sb3_sparse.sparsity.prune` refuses.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        width: int = 128,
        init: str = "sparse",
        time_feature: bool = True,
        optimizer: str = "obgd",
        **pruning: Any,
    ):
        check_spaces(observation_space, action_space)
        if init not in INITIALIZERS:
            raise ValueError(f"Unknown init {init!r}: choose one of {', '.join(map(repr, INITIALIZERS))}.")
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            width=check_integer("width", width, 2, hint="the paper's default is 128"),
            init=init,
            time_feature=time_feature,
            optimizer=optimizer,
            **pruning,
        )

    def _prune(self) -> None:
        if self.init != FROZEN:
            super()._prune()
            return
        if (self.pruning.actor, self.pruning.critic, self.skip) != (0.0, 0.0, ()):
            raise ValueError(
                f"init={FROZEN!r} is a mask of its own, got sparsity={self.sparsity} and skip={self.skip} besides: leave them "
                "out, or give another init."
            )
        guard_parts(self)

    def distribution(self, observations: th.Tensor) -> Distribution:
        """
        Distribution of actions, before clipping.

        :param observations: (batch, dim), not normalised
        """
        return self.actor.distribution(self.normalizer(observations))

    def predict_values(self, observations: th.Tensor) -> th.Tensor:
        """
        State values in units of the scaled reward.

        :param observations: (batch, dim), not normalised
        :return: (batch, 1)
        """
        return self.critic(self.normalizer(observations))[:, None]

    def hidden_activations(self, observations: th.Tensor) -> dict[str, list[th.Tensor]]:
        """
        Activations of the hidden layers, for diagnostics such as the dormant ratio.

        :param observations: (batch, dim), not normalised
        :return: "actor", "critic" -> (batch, width) of each hidden layer
        """
        features = self.normalizer(observations)
        return {
            "actor": self.actor.hidden_activations(features),
            "critic": self.critic.vf.hidden_activations(features),
        }

    def forward(self, observations: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """
        :param observations: (batch, dim), not normalised
        :param deterministic: Whether to take the most likely action
        :return: (batch, *action shape), not clipped
        """
        return self._predict(observations, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        assert isinstance(observation, th.Tensor)
        distribution = self.distribution(observation)
        return distribution.mode if deterministic else distribution.sample()

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        Convert observations, with a hint where their size shows that the environment lacks the wrapper.

        :param observation: (dim,) or (batch, dim)
        :return: (batch, dim) and whether there was a batch dimension
        :raises ValueError: for observations of another shape.
        """
        dim = self.observation_space.shape[0]  # type: ignore[index]
        if isinstance(observation, dict) or np.shape(observation)[-1:] != (dim,):
            given = "a dictionary" if isinstance(observation, dict) else f"shape {np.shape(observation)}"
            raise ValueError(
                f"StreamAC was trained on vectors of {dim} entries{', the last one the time' if self.time_feature else ''}, "
                f"got {given}: wrap the environment in sb3_sparse.stream_ac.StreamWrapper, as training does."
            )
        return super().obs_to_tensor(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.pop("normalize_images")
        data.update(
            lr_schedule=self._dummy_schedule,
            width=self.width,
            init=self.init,
            time_feature=self.time_feature,
            optimizer=self.optimizer_name,
        )
        return data


MlpPolicy = StreamACPolicy


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse what the networks cannot take.

    :param observation_space: Observation space
    :param action_space: Action space
    :raises ValueError: for observations that are no vectors and actions that are neither a Box nor Discrete from 0.
    """
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"StreamAC takes vectors, got observations {observation_space}: wrap the environment in "
            "sb3_sparse.stream_ac.StreamWrapper, which flattens what can be flattened."
        )
    if isinstance(action_space, spaces.Discrete):
        if action_space.start != 0:
            raise ValueError(f"StreamAC numbers discrete actions from 0, got {action_space}: shift them in a wrapper.")
    elif not isinstance(action_space, spaces.Box):
        raise ValueError(f"StreamAC takes actions from a Box or a Discrete space, got {action_space}.")
