"""A dense SimBa policy written with nothing but torch and SB3: what sparse layers are measured against."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn


class NormalizingExtractor(BaseFeaturesExtractor):
    """
    Standardise flat observations with constant statistics.

    :param observation_space: Observation space
    """

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, observation_space.shape[0])
        self.mean = nn.Buffer(th.zeros(self.features_dim))
        self.var = nn.Buffer(th.ones(self.features_dim))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (batch, dim)
        :return: (batch, dim)
        """
        return (observations - self.mean) / th.sqrt(self.var + 1e-8)


class PlainBlock(nn.Module):
    """
    Residual block of SimBa.

    :param hidden_dim: Width
    """

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.expand = nn.Linear(hidden_dim, 4 * hidden_dim)
        self.contract = nn.Linear(4 * hidden_dim, hidden_dim)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch, hidden_dim)
        :return: (batch, hidden_dim)
        """
        return x + self.contract(th.relu(self.expand(self.norm(x))))


class PlainSimBaPolicy(SACPolicy):
    """
    SAC policy with dense SimBa networks.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param width_scale: Multiplies the hidden dimensions, 128 (actor) and 512 (critic)
    :param use_sde: As in SB3
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        width_scale: float = 1.0,
        use_sde: bool = False,
    ):
        self.width_scale = width_scale
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            use_sde=use_sde,
            n_critics=1,
            features_extractor_class=NormalizingExtractor,
            optimizer_class=th.optim.AdamW,
            optimizer_kwargs={"weight_decay": 1e-2, "fused": True},
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """
        :param features_extractor: Extractor to share; a new one if None
        """
        actor = super().make_actor(features_extractor)
        hidden_dim = round(128 * self.width_scale)
        actor.latent_pi = _encoder(actor.features_dim, hidden_dim, 1)
        actor.mu = nn.Linear(hidden_dim, get_action_dim(self.action_space))
        actor.log_std = nn.Linear(hidden_dim, get_action_dim(self.action_space))  # type: ignore[assignment]
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        :param features_extractor: Extractor to share; a new one if None
        """
        critic = super().make_critic(features_extractor)
        hidden_dim = round(512 * self.width_scale)
        input_dim = critic.features_extractor.features_dim + get_action_dim(self.action_space)
        critic.qf0 = nn.Sequential(*_encoder(input_dim, hidden_dim, 2), nn.Linear(hidden_dim, 1))
        critic.q_networks = [critic.qf0]
        return critic


def _encoder(input_dim: int, hidden_dim: int, num_blocks: int) -> nn.Sequential:
    blocks = [PlainBlock(hidden_dim) for _ in range(num_blocks)]
    return nn.Sequential(nn.Linear(input_dim, hidden_dim), *blocks, nn.LayerNorm(hidden_dim, eps=1e-6))
