"""Sparse SimBa policy for CrossQ."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import CrossQCritic, CrossQPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.gaussian_actor import SimBaActor
from sb3_sparse.common.networks import SimBaCriticBase
from sb3_sparse.common.simba_policy import OPTIMIZER_KWARGS, SimBaPolicy
from sb3_sparse.crossq.batch_renorm import SafeBatchRenorm1d
from sb3_sparse.crossq.encoder import RenormEncoder
from sb3_sparse.crossq.live_steps import encode, renormalize


class _TrainsNormalisation(nn.Module):
    """Mixin for what CrossQ asks of its networks."""

    def set_bn_training_mode(self, mode: bool) -> None:
        """
        Have batch normalisation use, and move, statistics of the batch, or the running ones.

        :param mode: Whether those of the batch
        """
        for module in self.modules():
            if isinstance(module, BatchRenorm1d):
                module.train(mode)


class SimBaCrossQActor(_TrainsNormalisation, SimBaActor):
    """
    Stochastic actor of CrossQ: :class:`SimBaActor` with batch renormalisation.

    :param renorm: Arguments of the batch renormalisation: ``momentum``, ``eps``, ``warmup_steps``
    :param kwargs: Those of :class:`~sb3_sparse.common.networks.SimBaNetwork`
    """

    acting_rules: ClassVar = {RenormEncoder: encode, SafeBatchRenorm1d: renormalize}

    def __init__(self, *, renorm: dict[str, Any], **kwargs: Any):
        self.renorm = renorm
        super().__init__(**kwargs)

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        super()._replace_networks(features_dim, action_dim)
        self.latent_pi = _encoder(features_dim, self.size, self.renorm)  # type: ignore[assignment]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "renorm": self.renorm}


class SimBaCrossQCritic(_TrainsNormalisation, SimBaCriticBase, CrossQCritic):
    """
    Q-functions of CrossQ: SimBa encoders with batch renormalisation on observation and action, each with a linear head.

    :param renorm: Arguments of the batch renormalisation: ``momentum``, ``eps``, ``warmup_steps``
    :param kwargs: Those of :class:`~sb3_sparse.common.networks.SimBaNetwork`
    """

    def __init__(self, *, renorm: dict[str, Any], **kwargs: Any):
        self.renorm = renorm
        super().__init__(batch_norm=False, **kwargs)

    def _replace_networks(self, features_dim: int, action_dim: int) -> None:
        super()._replace_networks(features_dim, action_dim)
        for q_network in self.q_networks:
            q_network.encoder = _encoder(features_dim + action_dim, self.size, self.renorm)


def _encoder(input_dim: int, size: SimBaSize, renorm: dict[str, Any]) -> RenormEncoder:
    return RenormEncoder(input_dim, size.hidden_dim, size.num_blocks, renorm)


class SparseSimBaCrossQPolicy(SimBaPolicy, CrossQPolicy):
    """
    Statically sparse SimBa policy for sb3-contrib's CrossQ (Bhatt et al., 2024); arguments and sources: :class:`SimBaPolicy`,
    and those of sb3-contrib's policy, ``batch_norm_momentum`` (0.01), ``batch_norm_eps`` (1e-3), ``renorm_warmup_steps``
    (100,000).

    The paper does not use CrossQ. Batch renormalisation takes the place of SimBa's layer normalisations and of the
    observations' normaliser (``normalize_observations=False`` by default); units that are constant over a batch, as units
    without inputs are, get no gradient from it, where sb3-contrib's layer gives NaN. Two critics; AdamW has CrossQ's betas,
    0.5 and 0.999.
    """

    algorithm_class = CrossQ
    actor_class = SimBaCrossQActor
    critic_class = SimBaCrossQCritic
    default_n_critics = 2
    own_arguments: ClassVar[tuple[str, ...]] = ("batch_norm_momentum", "batch_norm_eps", "renorm_warmup_steps")
    # Set by sb3-contrib's policy.
    batch_norm_params: dict[str, Any]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        normalize_observations: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                "CrossQ concatenates observations, which a Dict cannot take: wrap the environment in gymnasium's "
                "FlattenObservation."
            )
        if kwargs.get("network", "simba") != "simba":
            raise ValueError(f"CrossQ's normalisation is built into SimBa encoders only, got network={kwargs['network']!r}.")
        if optimizer_kwargs is None and optimizer_class is th.optim.AdamW:
            optimizer_kwargs = {**OPTIMIZER_KWARGS, "betas": (0.5, 0.999)}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            normalize_observations=normalize_observations,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )

    def _renorm(self) -> dict[str, Any]:
        names = {"momentum": "batch_norm_momentum", "eps": "batch_norm_eps", "warmup_steps": "renorm_warmup_steps"}
        return {ours: self.batch_norm_params[theirs] for ours, theirs in names.items()}

    def _actor_kwargs(self) -> dict[str, Any]:
        return {**super()._actor_kwargs(), "renorm": self._renorm()}

    def _critic_kwargs(self) -> dict[str, Any]:
        return {**super()._critic_kwargs(), "renorm": self._renorm()}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["batch_norm"]  # without it this would be no CrossQ
        return data
