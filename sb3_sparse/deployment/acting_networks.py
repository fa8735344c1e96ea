"""What each algorithm's deterministic action is made of: a network, and what its output says about the action."""

import copy
from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import nn

from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sparsity import to_dense
from sb3_sparse.stream_ac import StreamAC


class ActingNetwork(nn.Module):
    """
    The part of a model that acts, as a copy without masks on the CPU: observations in; out come actions in [-1, 1], actions
    that are to be clipped, or a score of every action.
    """

    # Whether the output lies in [-1, 1].
    is_squashed = False
    # Why there are no parts.
    obstacle = ""

    def parts(self) -> list[nn.Module]:
        """
        The modules one after the other.

        :raises ValueError: if there is more to it than that.
        """
        raise ValueError(f'{self.obstacle} It cannot be exported in the format "sparse"; use "onnx".')


class SquashedMean(ActingNetwork):
    """The mean of a squashed normal distribution, as SAC, TQC and CrossQ have."""

    is_squashed = True

    def __init__(self, model: Any):
        super().__init__()
        self.actor = _plain(model.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return th.tanh(self.actor.get_action_dist_params(observation)[0])

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [*_first_parts(self.actor), self.actor.latent_pi, self.actor.mu, nn.Tanh()]


class DeterministicActor(ActingNetwork):
    """An actor that ends in a tanh, as TD3 and DDPG have."""

    is_squashed = True

    def __init__(self, model: Any):
        super().__init__()
        self.actor = _plain(model.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(observation)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [*_first_parts(self.actor), self.actor.mu]


class PixelActor(ActingNetwork):
    """The actor of DrQ-v2 on its encoder."""

    is_squashed = True
    obstacle = "DrQ-v2 looks at images."

    def __init__(self, model: Any):
        super().__init__()
        self.encoder, self.actor = _Features(model.policy, model.policy.encoder), _plain(model.policy.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(self.encoder(observation))


class StreamMean(ActingNetwork):
    """The mean of Stream AC's normal distribution, or the logits of its actions."""

    def __init__(self, model: Any):
        super().__init__()
        self.normalizer, self.actor = _plain(model.policy.normalizer), _plain(model.policy.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(self.normalizer(observation))[0]

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [self.normalizer, self.actor.trunk, self.actor.get_submodule(self.actor.heads[0])]


class ActorCriticMean(ActingNetwork):
    """The mean, or the logits, of the actor-critic policies of PPO, A2C and TRPO."""

    def __init__(self, model: Any):
        super().__init__()
        # gSDE may do so.
        self.is_squashed = model.policy.squash_output
        self.features = _Features(model.policy, model.policy.pi_features_extractor)
        self.layers, self.head = _plain(model.policy.mlp_extractor.policy_net), _plain(model.policy.action_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        output = self.head(self.layers(self.features(observation)))
        return th.tanh(output) if self.is_squashed else output

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [self.features.extractor, self.layers, self.head, *([nn.Tanh()] if self.is_squashed else [])]


class ActionValues(ActingNetwork):
    """The values of all actions, as DQN has them."""

    def __init__(self, model: Any):
        super().__init__()
        self.q_net = _plain(model.policy.q_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.q_net(observation)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [self.q_net.features_extractor, self.q_net.q_net]


class RainbowValues(ActingNetwork):
    """The expected values of all actions, as DER has them."""

    obstacle = "DER takes expectations of distributions."

    def __init__(self, model: Any):
        super().__init__()
        self.q_net = _plain(model.policy.q_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.q_net.q_values(observation)


class MeanQuantiles(ActingNetwork):
    """The mean quantiles of all actions, as QR-DQN has them."""

    obstacle = "QR-DQN takes means of quantiles."

    def __init__(self, model: Any):
        super().__init__()
        self.quantile_net = _plain(model.policy.quantile_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.quantile_net(observation).mean(dim=1)


class _Features(nn.Module):
    """A features extractor with what SB3 does to observations before it."""

    def __init__(self, policy: Any, extractor: nn.Module):
        super().__init__()
        self.extractor, self._space, self._normalizes = _plain(extractor), policy.observation_space, policy.normalize_images

    def forward(self, observation: th.Tensor) -> th.Tensor:
        return self.extractor(preprocess_obs(observation, self._space, normalize_images=self._normalizes))


# Subclasses come first.
_NETWORKS: dict[type[BaseAlgorithm], Callable[[Any], ActingNetwork]] = {
    SAC: SquashedMean,
    TQC: SquashedMean,
    CrossQ: SquashedMean,
    TD3: DeterministicActor,
    DrQv2: PixelActor,
    StreamAC: StreamMean,
    DER: RainbowValues,
    QRDQN: MeanQuantiles,
    DQN: ActionValues,
    PPO: ActorCriticMean,
    A2C: ActorCriticMean,
    TRPO: ActorCriticMean,
}


def acting_network(model: BaseAlgorithm) -> ActingNetwork:
    """
    :param model: Model of an algorithm in ``_NETWORKS``
    :return: The part that acts
    :raises ValueError: for other algorithms.
    """
    for algorithm, network in _NETWORKS.items():
        if isinstance(model, algorithm):
            return network(model)
    known = ", ".join(sorted({*(kind.__name__ for kind in _NETWORKS), "DDPG"}))
    raise ValueError(f"A policy of {type(model).__name__} cannot be exported; those of these can: {known}.")


class Rescaled(nn.Module):
    """
    Actions in [-1, 1] brought to the bounds of the space.

    :param space: Action space
    """

    def __init__(self, space: spaces.Box):
        super().__init__()
        self.low, self.high = (nn.Buffer(th.tensor(bound, device="cpu")) for bound in (space.low, space.high))

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, action_dim) of the network
        :return: (batch, *action_shape)
        """
        return self.low + 0.5 * (output.reshape(-1, *self.low.shape) + 1.0) * (self.high - self.low)


class Clipped(Rescaled):
    """
    Actions clipped to the bounds of the space.

    :param space: Action space
    """

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, action_dim) of the network
        :return: (batch, *action_shape)
        """
        return th.clamp(output.reshape(-1, *self.low.shape), self.low, self.high)


class BestAction(nn.Module):
    """The action of the highest score."""

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, n_actions) of the network
        :return: (batch,) int64
        """
        return output.argmax(dim=1)


class BestOfEach(nn.Module):
    """
    The best of each of several discrete actions.

    :param space: Action space
    """

    def __init__(self, space: spaces.MultiDiscrete):
        super().__init__()
        self.sizes, self.shape = [int(size) for size in space.nvec.ravel()], space.shape

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, sum of the numbers of actions) of the network
        :return: (batch, *action_shape) int64
        """
        return th.stack([part.argmax(dim=1) for part in output.split(self.sizes, dim=1)], dim=1).reshape(-1, *self.shape)


class PositiveLogits(nn.Module):
    """
    Binary actions whose probability is more than a half.

    :param space: Action space
    """

    def __init__(self, space: spaces.MultiBinary):
        super().__init__()
        self.shape = space.shape

    def forward(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, size) of the network
        :return: (batch, *action_shape) float32, 0 or 1
        """
        return (output > 0).float().reshape(-1, *self.shape)


def choice_of(space: spaces.Space, is_squashed: bool) -> nn.Module:
    """
    :param space: Action space
    :param is_squashed: Whether the network's output lies in [-1, 1]
    :return: What makes actions of the network's output
    """
    if isinstance(space, spaces.Box):
        return (Rescaled if is_squashed else Clipped)(space)
    if isinstance(space, spaces.Discrete):
        return BestAction()
    if isinstance(space, spaces.MultiDiscrete):
        return BestOfEach(space)
    assert isinstance(space, spaces.MultiBinary)  # SB3 knows no other
    return PositiveLogits(space)


def _plain(module: nn.Module) -> Any:
    """A dense copy on the CPU, without what only training needs; the noise of gSDE could not be copied after an update."""
    left_out = {name: vars(module)[name] for name in ("optimizer", "action_dist") if name in vars(module)}
    copied = copy.deepcopy(module, {id(part): part for part in left_out.values()})
    for name in left_out:
        setattr(copied, name, None)
    return to_dense(copied).cpu().eval()


def _first_parts(actor: Any) -> list[nn.Module]:
    return [actor.normalizer, actor.features_extractor] if hasattr(actor, "normalizer") else [actor.features_extractor]
