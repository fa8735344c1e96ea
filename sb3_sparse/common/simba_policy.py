"""Base of the SimBa policies of all algorithms."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_sparse.arguments import check_action_bounds
from sb3_sparse.common.architecture import network_kind, simba_sizes
from sb3_sparse.common.compiled_actor import MOST_OBSERVATIONS, is_overridden
from sb3_sparse.common.constructing_algorithm import (
    check_algorithm,
    constructing_algorithm,
    normalizes_already,
    warn_of_single_critic,
)
from sb3_sparse.common.networks import SimBaActorBase, SimBaCritic, SimBaCriticBase
from sb3_sparse.common.observations import ObservationNormalizer, check_observation_space
from sb3_sparse.common.pruned_policy import PrunedPolicy

# Paper, Tables 2 and 3; betas (0.9, 0.999) are torch's default. The fused implementation is the fastest one on CPU and GPU.
OPTIMIZER_KWARGS: dict[str, Any] = {"weight_decay": 1e-2, "fused": True}
# Arguments of stock SB3 policies that SimBa has no use for, and what to use instead.
_NO_USE = {
    "net_arch": "SimBa's size is set by width_scale and depth_scale",
    "activation_fn": "SimBa's blocks use ReLU",
    "use_sde": "state-dependent exploration (gSDE) is not supported; leave use_sde=False",
    "log_std_init": "it belongs to gSDE, which is not supported",
    "use_expln": "it belongs to gSDE, which is not supported",
    "clip_mean": "it belongs to gSDE, which is not supported",
}


class SimBaPolicy(PrunedPolicy):
    """
    Mixin for SB3's actor-critic policies: SimBa networks (Lee et al., 2024) with running observation normalisation, pruned at
    random once, before training, so that only active weights are parameters ("Network Sparsity Unlocks the Scaling Potential
    of Deep Reinforcement Learning", Ma et al., ICML 2025).

    Defaults are the paper's: AdamW with weight decay 0.01 on all parameters, biases and normalisation included. Learning rate,
    temperature and update ratio belong to the algorithm: see :func:`sb3_sparse.hyperparameters`.

    :param observation_space: Observation space: a Box of vectors, or a Dict
    :param action_space: Action space: a Box
    :param lr_schedule: Learning rate schedule
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, of each network, or a mapping with the keys "actor", "critic"
    :param distribution: As for :func:`~sb3_sparse.sparsity.prune`
    :param budget: As for :func:`~sb3_sparse.sparsity.prune`
    :param width_scale: Multiplies the hidden dimensions, 128 (actor) and 512 (critic)
    :param depth_scale: Multiplies the numbers of residual blocks, 1 (actor) and 2 (critic)
    :param normalize_observations: Whether to standardise observations with running statistics; as the network's reference does
        if None (SimBa: yes, BroNet: no)
    :param mask_seed: Seed of the masks; drawn from the model's seed if None
    :param n_critics: Number of critics, each pruned by itself (but as one network if they share a features extractor of their
        own that has weights); the algorithm's usual number if None
    :param features_extractor_class: What makes a vector of the normalised observation; flattens it if None
    :param features_extractor_kwargs: Its keyword arguments
    :param share_features_extractor: Whether actor and critic share it
    :param normalize_images: As in SB3; observations here are vectors
    :param optimizer_class: Optimizer
    :param optimizer_kwargs: Its keyword arguments, excluding the learning rate; for AdamW by default weight decay 0.01 and
        the fused implementation
    :param network: "simba", or "bronet" (Nauman et al., 2024) for BroNet encoders: 256 (actor) and 512 (critic) hidden units,
        weight decay 1e-4 and observations as they are by default
    :param kwargs: ``skip`` (see :class:`PrunedPolicy`); arguments of the SB3 policy that SimBa has no use for are refused
        with a reason
    :raises ValueError: for image observations, actions that are no Box, gSDE, and an algorithm that the policy is not for.
    """

    algorithm_class: ClassVar[type[BaseAlgorithm]]
    actor_class: ClassVar[type[SimBaActorBase]]
    critic_class: ClassVar[type[SimBaCriticBase]] = SimBaCritic
    default_n_critics: ClassVar[int]
    # Arguments of the SB3 policy beyond those of the constructor here, passed on.
    own_arguments: ClassVar[tuple[str, ...]] = ()
    # Set by the SB3 policy.
    critic_kwargs: dict[str, Any]
    share_features_extractor: bool

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        sparsity: float | Mapping[str, float] = 0.0,
        distribution: str = "erdos_renyi",
        budget: str = "all",
        width_scale: float = 1.0,
        depth_scale: float = 1.0,
        normalize_observations: bool | None = None,
        mask_seed: int | None = None,
        n_critics: int | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = False,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        network: str = "simba",
        **kwargs: Any,
    ):
        algorithm = constructing_algorithm()
        check_algorithm(algorithm, type(self), SimBaPolicy.__subclasses__())
        check_observation_space(observation_space)
        if not isinstance(action_space, spaces.Box):
            raise ValueError(f"{type(self).__name__} needs continuous actions (a Box), got {action_space}.")
        check_action_bounds(action_space)
        _refuse_useless(type(self).__name__, kwargs, ("skip", "active_weights", *self.own_arguments))
        warn_of_single_critic(algorithm, n_critics)
        self.width_scale, self.depth_scale = width_scale, depth_scale
        self.actor_size, self.critic_size = simba_sizes(width_scale, depth_scale, network)
        kind, self.network = network_kind(network), network
        if normalize_observations is None:
            normalize_observations = kind.normalizes
        self._starts_frozen = not normalize_observations or normalizes_already(algorithm)
        if optimizer_kwargs is None:
            optimizer_kwargs = (
                {**OPTIMIZER_KWARGS, "weight_decay": kind.weight_decay} if optimizer_class is th.optim.AdamW else {}
            )
        if features_extractor_class is None:
            is_dict = isinstance(observation_space, spaces.Dict)
            features_extractor_class = CombinedExtractor if is_dict else FlattenExtractor
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            sparsity=sparsity,
            distribution=distribution,
            budget=budget,
            mask_seed=mask_seed,
            n_critics=self.default_n_critics if n_critics is None else n_critics,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs),
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.normalizer = ObservationNormalizer(self.observation_space, frozen=self._starts_frozen)
        super()._build(lr_schedule)

    @property
    def normalize_observations(self) -> bool:
        """Whether statistics move; a loaded policy does as it was trained."""
        return not self.normalizer.frozen

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in _NO_USE:
            data.pop(name, None)
        data.update(
            width_scale=self.width_scale,
            depth_scale=self.depth_scale,
            normalize_observations=self.normalize_observations,
            network=self.network,
            share_features_extractor=self.share_features_extractor,
        )
        return data

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """
        Build the actor, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return self.actor_class(**self._network_kwargs(features_extractor), **self._actor_kwargs()).to(self.device)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions as SB3's policy does, up to rounding and from the same random numbers; for a few observations on a CPU
        in one compiled pass (extra ``fast``).

        :param observation: An observation, or a batch of them
        :param state: Returned as it is
        :param episode_start: Not used
        :param deterministic: Whether to return the mode
        :return: An action of the action space, or a batch of them, and the state
        """
        actions = self._choose(observation, deterministic)
        return super().predict(observation, state, episode_start, deterministic) if actions is None else (actions, state)

    def _choose(self, observation: Any, deterministic: bool) -> np.ndarray | None:
        space = self.observation_space
        if not isinstance(space, spaces.Box) or not isinstance(observation, np.ndarray):
            return None
        is_batch = observation.ndim > len(space.shape)
        if observation.shape[is_batch:] != space.shape or is_overridden(self, "predict", ("_predict", "obs_to_tensor")):
            return None
        count = len(observation) if is_batch else 1
        if count > MOST_OBSERVATIONS:
            return None
        flat = np.ascontiguousarray(observation.reshape(count, -1), np.float32)
        actor: Any = self.actor
        if (chosen := actor.choose(flat, deterministic)) is None:
            return None
        if self.training:  # which SB3 leaves whenever it acts
            self.set_training_mode(False)
        actions = self.unscale_action(chosen.reshape(count, *self.action_space.shape))  # type: ignore[misc]
        return actions if is_batch else actions[0]

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """
        Build the critics, dense.

        :param features_extractor: Extractor to share; a new one if None
        """
        return self.critic_class(**self._network_kwargs(features_extractor), **self._critic_kwargs()).to(self.device)

    def _actor_kwargs(self) -> dict[str, Any]:
        return {"size": self.actor_size}

    def _critic_kwargs(self) -> dict[str, Any]:
        return {
            "size": self.critic_size,
            "n_critics": self.critic_kwargs["n_critics"],
            "share_features_extractor": self.share_features_extractor,
        }

    def _network_kwargs(self, features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        kwargs: dict[str, Any] = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "normalizer": self.normalizer,
            "normalize_images": self.normalize_images,
        }
        return self._update_features_extractor(kwargs, features_extractor)


def _refuse_useless(policy_name: str, kwargs: dict[str, Any], passed_on: tuple[str, ...]) -> None:
    for name in list(kwargs):
        if name in _NO_USE:
            value = kwargs.pop(name)
            # SB3 itself passes use_sde=False.
            if value is not None and not (name == "use_sde" and value is False):
                raise ValueError(f"{policy_name} got {name}={value!r}, which it has no use for: {_NO_USE[name]}.")
        elif name not in passed_on:
            known = [*inspect.signature(SimBaPolicy.__init__).parameters, *passed_on]
            similar = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {similar[0]!r}?" if similar else f"it knows {', '.join(n for n in known[4:] if n != 'kwargs')}."
            )
            raise TypeError(f"{policy_name} got an unknown argument {name}={kwargs[name]!r}: {hint}")
