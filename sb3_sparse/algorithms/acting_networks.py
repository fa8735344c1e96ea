"""The part of a model that acts, of every algorithm of SB3 and sb3-contrib."""

import copy
from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import nn

from sb3_sparse.sparsity import to_dense


# What is said of whatever cannot be written down as steps on one vector.
ONLY_DENSE = 'That cannot be exported as active weights (formats "sparse" and "c"): use "onnx" or "torchscript".'


class ActingNetwork(nn.Module):
    """
    The part of a model that acts, as a copy without masks on the CPU: observations in; out come actions in [-1, 1], actions
    that are to be clipped, or a score of every action.

    :param model: Model that acts
    """

    # Whether the output lies in [-1, 1].
    is_squashed = False
    # Why there are no parts.
    obstacle = ""

    def __init__(self, model: Any):
        super().__init__()

    def parts(self) -> list[nn.Module]:
        """
        The modules one after the other.

        :raises ValueError: if there is more to it than that.
        """
        raise ValueError(f"{self.obstacle} {ONLY_DENSE}")


class SquashedMean(ActingNetwork):
    """The mean of a squashed normal distribution, as SAC, TQC and CrossQ have."""

    is_squashed = True

    def __init__(self, model: Any):
        super().__init__(model)
        self.actor = plain(model.actor)

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
        super().__init__(model)
        self.actor = plain(model.actor)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.actor(observation)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [*_first_parts(self.actor), self.actor.mu]


class ActorCriticMean(ActingNetwork):
    """The mean, or the logits, of the actor-critic policies of PPO, A2C and TRPO."""

    def __init__(self, model: Any):
        super().__init__(model)
        # gSDE may do so.
        self.is_squashed = model.policy.squash_output
        self.features = Features(model.policy, model.policy.pi_features_extractor)
        self.layers, self.head = plain(model.policy.mlp_extractor.policy_net), plain(model.policy.action_net)

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
        super().__init__(model)
        self.q_net = plain(model.policy.q_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.q_net(observation)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`."""
        return [self.q_net.features_extractor, self.q_net.q_net]


class MeanQuantiles(ActingNetwork):
    """The mean quantiles of all actions, as QR-DQN has them."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.quantile_net = plain(model.policy.quantile_net)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """See :class:`ActingNetwork`."""
        return self.quantile_net(observation).mean(dim=1)

    def parts(self) -> list[nn.Module]:
        """See :class:`ActingNetwork`. Means of what a linear layer returns are what the mean of its rows returns."""
        *hidden, last = self.quantile_net.quantile_net
        mean = nn.Linear(last.in_features, last.out_features // self.quantile_net.n_quantiles)
        with th.no_grad():
            for target, source in zip(mean.parameters(), (last.weight, last.bias), strict=True):
                target.copy_(source.view(self.quantile_net.n_quantiles, *target.shape).mean(dim=0))
        return [self.quantile_net.features_extractor, *hidden, mean]


class Features(nn.Module):
    """
    A features extractor with what SB3 does to observations before it.

    :param policy: Policy
    :param extractor: Its extractor, of which a copy is taken
    """

    def __init__(self, policy: Any, extractor: nn.Module):
        super().__init__()
        self.extractor, self._space, self._normalizes = plain(extractor), policy.observation_space, policy.normalize_images

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        :param observation: (batch, *shape) raw observations
        :return: (batch, features_dim)
        """
        return self.extractor(preprocess_obs(observation, self._space, normalize_images=self._normalizes))


def plain(module: nn.Module) -> Any:
    """
    :param module: Network
    :return: A dense copy on the CPU, without what only training needs; the noise of gSDE could not be copied after an update
    """
    left_out = {name: vars(module)[name] for name in ("optimizer", "action_dist") if name in vars(module)}
    copied = copy.deepcopy(module, {id(part): part for part in left_out.values()})
    for name in left_out:
        setattr(copied, name, None)
    return to_dense(copied).cpu().eval()


def _first_parts(actor: nn.Module) -> list[nn.Module]:
    children = dict(actor.named_children())
    return [children[name] for name in ("normalizer", "features_extractor") if name in children]
