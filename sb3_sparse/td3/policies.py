"""Sparse SimBa policy for TD3 and DDPG."""

from collections import OrderedDict
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.networks import SimBaActorBase, linear_head
from sb3_sparse.common.observations import ObservationNormalizer
from sb3_sparse.common.simba_policy import SimBaPolicy
from sb3_sparse.networks import SimBaEncoder


class SimBaDeterministicActor(SimBaActorBase, Actor):
    """
    Deterministic actor of TD3 and DDPG: a SimBa encoder and one linear head, squashed by tanh.

    :param observation_space: Observation space
    :param action_space: Action space
    :param features_extractor: Flattens observations
    :param features_dim: Size of the flattened observation
    :param normalizer: Statistics shared by all networks of the policy
    :param size: Size of the network
    :param normalize_images: As in SB3; observations here are vectors
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        normalizer: ObservationNormalizer,
        size: SimBaSize,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch=[],
            features_extractor=features_extractor,
            features_dim=features_dim,
            normalize_images=normalize_images,
        )
        self.normalizer, self.size = normalizer, size
        encoder = SimBaEncoder(features_dim, size.hidden_dim, size.num_blocks)
        head = linear_head(size.hidden_dim, get_action_dim(action_space))
        self.mu = nn.Sequential(OrderedDict(encoder=encoder, head=head, squash=nn.Tanh()))


class SparseSimBaTD3Policy(SimBaPolicy, TD3Policy):
    """
    Policy for TD3 and DDPG with statically sparse SimBa networks ("Network Sparsity Unlocks the Scaling Potential of Deep
    Reinforcement Learning", Ma et al., ICML 2025): each network is pruned at random once, before training, and only active
    weights are parameters.

    Defaults are the paper's: AdamW with weight decay 0.01 on all parameters. TD3 has two critics; for DDPG, SB3 asks for one.
    Learning rate and update ratio belong to the algorithm: see :func:`sb3_sparse.hyperparameters`.

    :param observation_space: Observation space: a Box of vectors, or a Dict
    :param action_space: Action space: a Box
    :param lr_schedule: Learning rate schedule
    :param sparsity: Fraction of each network's parameters to remove, in [0, 1), or a mapping with the keys "actor", "critic"
    :param distribution: Layer-wise allocation, "erdos_renyi" or "uniform"
    :param budget: What the sparsity is a fraction of: "all" parameters of each network, as in the paper's code, or its
        "weights"
    :param width_scale: Multiplies the hidden dimensions, 128 (actor) and 512 (critic)
    :param depth_scale: Multiplies the numbers of residual blocks, 1 (actor) and 2 (critic)
    :param normalize_observations: Whether to standardise observations with running statistics
    :param mask_seed: Seed of the masks; drawn from the model's seed if None
    :param n_critics: Number of critics
    :param features_extractor_class: What makes a vector of the normalised observation; flattens it if None
    :param features_extractor_kwargs: Its keyword arguments
    :param share_features_extractor: Whether actor and critic share it
    :param normalize_images: As in SB3; observations here are vectors
    :param optimizer_class: Optimizer
    :param optimizer_kwargs: Its keyword arguments, excluding the learning rate
    :param unused: Arguments of SB3's ``TD3Policy`` that SimBa has no use for; refused with a reason
    """

    algorithm_class = TD3

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        sparsity: float | dict[str, float] = 0.0,
        distribution: str = "erdos_renyi",
        budget: str = "all",
        width_scale: float = 1.0,
        depth_scale: float = 1.0,
        normalize_observations: bool = True,
        mask_seed: int | None = None,
        n_critics: int = 2,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = False,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **unused: Any,
    ):
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            width_scale,
            depth_scale,
            normalize_observations,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class,
            optimizer_kwargs,
            sparsity=sparsity,
            distribution=distribution,
            budget=budget,
            mask_seed=mask_seed,
            n_critics=n_critics,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            **unused,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimBaDeterministicActor:
        """
        Build the actor, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return SimBaDeterministicActor(**self._network_kwargs(features_extractor), size=self.actor_size).to(self.device)
