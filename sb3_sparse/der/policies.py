"""Policies of Data-Efficient Rainbow."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.der.networks import ImageExtractor, Rainbow, RainbowNetwork

# Table 5 of the paper.
HIDDEN_UNITS = 512
ADAM_EPS = 1.5e-4


class _DenseDERPolicy(DQNPolicy):
    """What :class:`DERPolicy` is before it is pruned: SB3's DQN policy with Rainbow's networks."""

    q_net: RainbowNetwork  # type: ignore[assignment]
    q_net_target: RainbowNetwork  # type: ignore[assignment]

    def __init__(self, *args: Any, rainbow: dict[str, Any], **kwargs: Any):
        # DQNPolicy's constructor builds the networks, so all this must be known before it runs.
        self.rainbow = rainbow
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> RainbowNetwork:  # type: ignore[override]
        """Build one network with a features extractor of its own."""
        arguments = self._update_features_extractor({**self.net_args, **self.rainbow}, features_extractor=None)
        return RainbowNetwork(**arguments).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.rainbow}


class DERPolicy(PrunedPolicy, _DenseDERPolicy):
    """
    Rainbow's value network and its target network, pruned at random once, before training, if asked for (Ma et al., ICML
    2025, appendix C.3). Encoder, hidden layers and heads are pruned as one network; means and standard deviations of a noisy
    layer are under one mask.

    :param observation_space: Vectors (a Box or what SB3 flattens)
    :param action_space: Discrete actions
    :param lr_schedule: Learning rate schedule
    :param net_arch: Units of the hidden layers, [512] if None
    :param activation_fn: Activation module after each of them
    :param distributional: Whether the values of actions have a categorical distribution (C51); otherwise one number each
    :param n_atoms: Atoms of a distribution
    :param v_min: Smallest value of a distribution
    :param v_max: Largest value of a distribution; returns should lie between the two
    :param dueling: Whether value and advantage are separate
    :param noisy: Whether hidden layers and heads explore by noise on their weights; otherwise the algorithm explores by
        random actions
    :param sigma_0: Initial standard deviation of that noise, times the square root of the layer's inputs. 0.5 is the paper's
        Table 5 and Fortunato et al.'s, 0.1 is in Dopamine's code
    :param features_extractor_class: As in SB3
    :param features_extractor_kwargs: As in SB3
    :param normalize_images: As in SB3
    :param optimizer_class: As in SB3
    :param optimizer_kwargs: As in SB3; Adam with ``eps=1.5e-4`` if None
    :param pruning: ``sparsity`` (fraction of the network's parameters to remove, in [0, 1)), ``distribution``, ``budget``,
        ``mask_seed``, ``skip``: see :class:`~sb3_sparse.common.pruned_policy.PrunedPolicy`
    :raises TypeError: if a number is none.
    :raises ValueError: for actions that are not discrete, an impossible support, and whatever
        :func:`sb3_sparse.sparsity.prune` refuses.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: Sequence[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        distributional: bool = True,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = True,
        noisy: bool = True,
        sigma_0: float = 0.5,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **pruning: Any,
    ):
        check_actions(action_space)
        check_support(n_atoms, v_min, v_max)
        if isinstance(pruning.get("sparsity"), Mapping):
            raise ValueError(f"DER has one network, so sparsity is one number, got {pruning['sparsity']!r}.")
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": ADAM_EPS} if optimizer_class is th.optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[HIDDEN_UNITS] if net_arch is None else list(net_arch),
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            rainbow=Rainbow(distributional, n_atoms, v_min, v_max, dueling, noisy, sigma_0)._asdict(),
            **pruning,
        )


MlpPolicy = DERPolicy


class CnnPolicy(DERPolicy):
    """
    The same for images, whose channels hold all stacked frames (4x84x84 for Atari), with a convolutional encoder before the
    hidden layers. ``width_scale`` widens the encoder only: the hidden layer keeps its 512 units (paper, appendix C.3).

    :param observation_space: Images
    :param action_space: Discrete actions
    :param lr_schedule: Learning rate schedule
    :param encoder: "impala" (the paper's) or "nature" (the convolutions of DQN, which DER began with)
    :param width_scale: Multiplies the encoder's channels; fractions allowed
    :param features_extractor_class: Another extractor in place of the encoder
    :param features_extractor_kwargs: Its further arguments
    :param kwargs: See :class:`DERPolicy`
    :raises ValueError: for observations that are no images, and what :class:`DERPolicy` refuses.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        encoder: str = "impala",
        width_scale: float = 1.0,
        features_extractor_class: type[BaseFeaturesExtractor] = ImageExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.encoder, self.width_scale = encoder, width_scale
        self.given_extractor_kwargs = features_extractor_kwargs
        extractor_kwargs = dict(features_extractor_kwargs or {})
        if issubclass(features_extractor_class, ImageExtractor):
            extractor_kwargs.update(encoder=encoder, width_scale=width_scale)
            if kwargs.get("normalize_images") is False:
                extractor_kwargs["normalized_image"] = True
        elif encoder != "impala" or width_scale != 1.0:
            raise ValueError(
                "encoder and width_scale are options of ImageExtractor: give one's own extractor its arguments in "
                "features_extractor_kwargs."
            )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=extractor_kwargs,
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(encoder=self.encoder, width_scale=self.width_scale, features_extractor_kwargs=self.given_extractor_kwargs)
        return data


def check_actions(action_space: spaces.Space) -> None:
    """
    Refuse what the networks cannot take.

    :param action_space: Action space
    :raises ValueError: for actions that are not numbered from 0.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(f"DER takes discrete actions, got {action_space}: use SAC or DrQv2 for continuous ones.")
    if action_space.start != 0:
        raise ValueError(f"DER numbers actions from 0, got {action_space}: shift them in a wrapper.")


def check_support(n_atoms: int, v_min: float, v_max: float) -> None:
    """
    Refuse an impossible support.

    :param n_atoms: Number of atoms
    :param v_min: Smallest value
    :param v_max: Largest value
    :raises ValueError: if there are fewer than two atoms, or the values do not increase.
    """
    check_integer("n_atoms", n_atoms, 2, hint="51 in C51")
    are_numbers = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in (v_min, v_max))
    if not are_numbers or v_min >= v_max:
        raise ValueError(f"v_min must be less than v_max, and returns lie between them; got {v_min!r} and {v_max!r}.")
