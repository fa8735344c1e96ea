"""Policy of DrQ-v2."""

import copy
from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_sparse.arguments import check_action_bounds, check_choice, check_integer, check_number
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.diagnostics.measured_network import MeasuredNetwork, mean_value
from sb3_sparse.drqv2.networks import DrQv2Actor, DrQv2Critic, PixelExtractor, noisy_actions

# What is pruned as one network.
PRUNE_MODULES = {"critic": ("trunk", "qf0", "qf1"), "q_heads": ("qf0", "qf1")}
# Arguments that a saved policy is built with again, beside those of its spaces and its pruning.
_SAVED = (
    *("feature_dim", "hidden_dim", "width_scale", "prune_modules", "features_extractor_class", "features_extractor_kwargs"),
    *("optimizer_class", "optimizer_kwargs"),
)


class _DenseDrQv2Policy(BasePolicy):
    """What :class:`DrQv2Policy` is before it is pruned."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        feature_dim: int,
        hidden_dim: int,
        width_scale: float,
        features_extractor_class: type[BaseFeaturesExtractor],
        features_extractor_kwargs: dict[str, Any] | None,
        optimizer_class: type[th.optim.Optimizer],
        optimizer_kwargs: dict[str, Any],
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self.feature_dim, self.hidden_dim, self.width_scale = feature_dim, hidden_dim, width_scale
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        self.encoder = self.make_features_extractor()
        sizes = self.encoder.features_dim, get_action_dim(self.action_space), self.feature_dim  # type: ignore[arg-type]
        self.actor = DrQv2Actor(*sizes, self.hidden_dim)
        self.critic = DrQv2Critic(*sizes, round(self.width_scale * self.hidden_dim))
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        for network in (self.encoder, self.actor, self.critic):
            network.optimizer = self.optimizer_class(  # type: ignore[assignment]
                network.parameters(),
                lr=lr_schedule(1.0),  # type: ignore[call-arg]
                **self.optimizer_kwargs,
            )


class DrQv2Policy(PrunedPolicy, _DenseDrQv2Policy):
    """
    Networks of DrQ-v2 (Yarats et al., 2022, "Mastering Visual Continuous Control"): one encoder, and actor and critic on its
    features, of which the critic can be wide and is pruned at random once, before training ("Network Sparsity Unlocks the
    Scaling Potential of Deep Reinforcement Learning", Ma et al., ICML 2025, section 5). Encoder and actor stay dense, and
    the actor's width stays as it is. The target critic has a trunk of its own and shares the critic's masks; there is no
    target encoder.

    What the paper prunes is not stated for the trunk (39,200 x 50 weights), which is part of the reference's critic. By
    default trunk and both Q-functions are one network with one budget, as everywhere in the paper's code; with
    ``prune_modules="q_heads"`` both Q-functions are, and the trunk stays dense. At x4 and 80 % the two agree on the trunk.

    :param observation_space: Channel-first images, uint8, at least 15x15
    :param action_space: A Box
    :param lr_schedule: Learning rate schedule
    :param feature_dim: Size of the trunks' outputs
    :param hidden_dim: Width of the hidden layers
    :param width_scale: Multiplies the critic's hidden width; the paper goes up to 4 (4096 units)
    :param prune_modules: "critic": the whole critic is pruned as one network; "q_heads": its two Q-functions are
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, of the critic, or a mapping with the keys "actor" (0) and
        "critic"
    :param features_extractor_class: The encoder
    :param features_extractor_kwargs: Its keyword arguments, e.g. ``channels``, 32 in the reference
    :param optimizer_class: Optimizer, one each for encoder, actor and critic
    :param optimizer_kwargs: Its keyword arguments, excluding the learning rate; for Adam by default the fused implementation
    :param pruning: ``distribution``, ``budget``, ``mask_seed``, ``skip``, see :class:`PrunedPolicy`
    :raises TypeError: for an unknown argument.
    :raises ValueError: for observations that are no channel-first images of bytes or too small ones, actions that are no Box,
        sizes that are not positive, an unknown ``prune_modules``, a sparse actor, and whatever
        :func:`sb3_sparse.sparsity.prune` refuses.
    """

    # Set by the dense policy.
    actor: DrQv2Actor
    critic: DrQv2Critic

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        width_scale: float = 1.0,
        prune_modules: str = "critic",
        sparsity: float | Mapping[str, float] = 0.0,
        features_extractor_class: type[BaseFeaturesExtractor] = PixelExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **pruning: Any,
    ):
        check_spaces(observation_space, action_space)
        _refuse_unknown(pruning)
        feature_dim, hidden_dim = check_integer("feature_dim", feature_dim), check_integer("hidden_dim", hidden_dim)
        _check_scale(width_scale, hidden_dim)
        self.prune_modules = check_choice("prune_modules", prune_modules, PRUNE_MODULES)
        sparsity = _sparsity_of_critic(sparsity)
        if optimizer_kwargs is None:
            optimizer_kwargs = {"fused": True} if optimizer_class is th.optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            width_scale=width_scale,
            sparsity=sparsity,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs),
            **pruning,
        )

    def pruned_networks(self) -> list[tuple[str, nn.Module]]:
        """What is pruned as one network each, with its role."""
        parts = {name: self.critic.get_submodule(name) for name in PRUNE_MODULES[self.prune_modules]}
        return [("critic", nn.ModuleDict(parts))]

    def encode(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: (batch, channels, height, width) bytes
        :return: (batch, features_dim) features of actor and critic
        """
        return self.extract_features(observations, self.encoder)

    def forward(self, observations: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param observations: (batch, channels, height, width) bytes
        :param deterministic: Whether to leave out the noise
        :return: (batch, action_dim) actions in [-1, 1]
        """
        return self._predict(observations, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        mean = self.actor(self.encode(observation))
        return mean if deterministic else noisy_actions(mean, self.actor.stddev)

    def measured_networks(self) -> dict[str, MeasuredNetwork]:
        """For diagnostics: the encoder, on a batch without augmentation, and actor and critic on the features it makes."""
        return {
            "encoder": MeasuredNetwork(self.encoder, lambda batch: self.encode(batch.observations), is_encoder=True),
            "actor": MeasuredNetwork(self.actor, lambda batch: self.actor(self._encoded(batch))),
            "critic": MeasuredNetwork(
                self.critic, lambda batch: self.critic(self._encoded(batch), batch.actions), values=mean_value
            ),
        }

    @th.no_grad()
    def _encoded(self, batch: Any) -> th.Tensor:
        return self.encode(batch.observations)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.pop("normalize_images")
        data.update({name: getattr(self, name) for name in _SAVED}, lr_schedule=self._dummy_schedule)
        return data


CnnPolicy = DrQv2Policy


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse what DrQ-v2 cannot learn from.

    :param observation_space: Observation space, after SB3 has moved the channels of images to the front
    :param action_space: Action space
    :raises ValueError: for observations that are no channel-first images of bytes, and actions that are no Box or whose bounds
        cannot be scaled.
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"DrQv2 needs continuous actions (a Box), got {action_space}: for discrete ones there is DQN.")
    check_action_bounds(action_space)
    if not is_image_space(observation_space):
        raise ValueError(f"DrQv2 learns from images, got observations {observation_space}: {_remedy(observation_space)}")
    assert isinstance(observation_space, spaces.Box)
    if not is_image_space_channels_first(observation_space):
        raise ValueError(
            f"DrQv2 wants the channels of images first, got shape {observation_space.shape}: wrap the environment in "
            "stable_baselines3's VecTransposeImage, as the algorithm itself does."
        )


def _remedy(space: spaces.Space) -> str:
    if isinstance(space, spaces.Dict):
        return "take the image out of the dictionary (gymnasium.wrappers.FilterObservation and FlattenObservation)."
    if isinstance(space, spaces.Box) and len(space.shape) == 3:
        return "their type must be uint8, with numbers from 0 to 255; scaling them is up to the algorithm."
    if isinstance(space, spaces.Box) and len(space.shape) == 4:
        return "join stacked frames along the channels, as stable_baselines3's VecFrameStack does."
    return "they must have the shape (channels, height, width); sb3_sparse.envs makes tasks of pixels."


def _refuse_unknown(pruning: Mapping[str, Any]) -> None:
    for name in set(pruning) - {"distribution", "budget", "mask_seed", "skip", "active_weights"}:
        raise TypeError(
            f"DrQv2Policy got an unknown argument {name}={pruning[name]!r}: its sizes are set by hidden_dim, feature_dim, "
            "width_scale and features_extractor_kwargs."
        )


def _sparsity_of_critic(sparsity: float | Mapping[str, float]) -> float:
    if not isinstance(sparsity, Mapping):
        return sparsity
    if set(sparsity) != {"actor", "critic"} or sparsity["actor"] != 0.0:
        raise ValueError(
            f"DrQv2 prunes its critic only: give one number, or dict(actor=0.0, critic=...); got {dict(sparsity)!r}."
        )
    return sparsity["critic"]


def _check_scale(width_scale: float, hidden_dim: int) -> None:
    check_number("width_scale", width_scale, is_positive=True, hint="1.0 is the reference's size")
    if round(width_scale * hidden_dim) < 1:
        raise ValueError(f"width_scale={width_scale} leaves the critic without units: give at least {1 / hidden_dim:g}.")
