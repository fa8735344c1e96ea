"""Rainbow's value network."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_sparse.networks import ImpalaEncoder, NatureEncoder, NoisyLinear
from sb3_sparse.networks.noisy_linear import set_noise

ENCODERS: dict[str, Callable[[int, float], nn.Module]] = {"impala": ImpalaEncoder, "nature": NatureEncoder}


class ImageExtractor(BaseFeaturesExtractor):
    """
    Convolutional features of an image whose channels come first, flattened; without a linear layer, as that is noisy.

    :param observation_space: Images
    :param encoder: "impala" or "nature"
    :param width_scale: Multiplies the encoder's channels
    :param normalized_image: Whether images are divided by 255 already, so that type and bounds are not checked
    :raises ValueError: for observations that are no images, or are too small, and for an unknown encoder.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        encoder: str = "impala",
        width_scale: float = 1.0,
        normalized_image: bool = False,
    ):
        if encoder not in ENCODERS:
            raise ValueError(f"Unknown encoder {encoder!r}: choose one of {', '.join(map(repr, ENCODERS))}.")
        if not is_image_space(observation_space, check_channels=False, normalized_image=normalized_image):
            raise ValueError(
                f'"CnnPolicy" takes images (uint8 in [0, 255], channels first or last), got {observation_space}: use '
                '"MlpPolicy" for vectors, or normalize_images=False for images that are normalised already.'
            )
        network = ENCODERS[encoder](observation_space.shape[0], width_scale)
        super().__init__(observation_space, _count_features(network, observation_space.shape, encoder))
        self.encoder = network

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (batch, channels, height, width) in [0, 1]
        :return: (batch, features_dim)
        """
        return self.encoder(observations)


@th.no_grad()
def _count_features(network: nn.Module, shape: tuple[int, ...], encoder: str) -> int:
    try:
        return network(th.zeros(1, *shape)).shape[1]
    except RuntimeError as error:
        raise ValueError(f"Images of {shape[1:]} pixels are too small for encoder={encoder!r}: use 'impala'.") from error


class RainbowHead(nn.Module):
    """
    What follows the features: hidden layers, then values of every action, or logits of their distributions.

    :param features_dim: Size of the features
    :param n_actions: Number of actions
    :param n_atoms: Numbers per action: atoms of a distribution, or 1
    :param net_arch: Units of the hidden layers
    :param activation_fn: Activation module after each of them
    :param dueling: Whether value and advantage are separate (Wang et al., 2016, equation 9)
    :param linear: Makes a layer of (in_features, out_features)
    """

    def __init__(
        self,
        features_dim: int,
        n_actions: int,
        n_atoms: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module],
        dueling: bool,
        linear: Callable[[int, int], nn.Module],
    ):
        super().__init__()
        self.n_actions, self.n_atoms = n_actions, n_atoms
        sizes = [features_dim, *net_arch]
        layers = [module for i, o in itertools.pairwise(sizes) for module in (linear(i, o), activation_fn())]
        self.hidden = nn.Sequential(*layers)
        self.advantage = linear(sizes[-1], n_actions * n_atoms)
        self.value = linear(sizes[-1], n_atoms) if dueling else None

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (batch, features_dim)
        :return: (batch, n_actions, n_atoms)
        """
        hidden = self.hidden(features)
        advantage = self.advantage(hidden).view(-1, self.n_actions, self.n_atoms)
        if self.value is None:
            return advantage
        return self.value(hidden).unsqueeze(1) + advantage - advantage.mean(dim=1, keepdim=True)


class Rainbow(NamedTuple):
    """
    Parts of Rainbow that a network has.

    :param distributional: Whether values have a distribution; otherwise one number per action
    :param n_atoms: Atoms of a distribution
    :param v_min: Smallest value of a distribution
    :param v_max: Largest value of a distribution
    :param dueling: Whether value and advantage are separate
    :param noisy: Whether hidden layers and heads are noisy
    :param sigma_0: Initial standard deviation of their noise, times the square root of the layer's inputs
    """

    distributional: bool
    n_atoms: int
    v_min: float
    v_max: float
    dueling: bool
    noisy: bool
    sigma_0: float


class RainbowNetwork(BasePolicy):
    """
    Values of all actions: features, noisy hidden layers, dueling heads, a categorical distribution per action.

    :param observation_space: Observation space
    :param action_space: Discrete action space
    :param features_extractor: Makes features of observations
    :param features_dim: Size of the features
    :param net_arch: Units of the hidden layers
    :param activation_fn: Activation module after each of them
    :param normalize_images: Whether images are divided by 255
    :param parts: Those of :class:`Rainbow`
    """

    action_space: spaces.Discrete
    support: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module],
        normalize_images: bool,
        **parts: Any,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        sizes = {"features_dim": features_dim, "net_arch": list(net_arch), "activation_fn": activation_fn}
        self.arguments: dict[str, Any] = {**sizes, **parts}
        rainbow = Rainbow(**parts)
        self.distributional, self.noisy = rainbow.distributional, rainbow.noisy
        linear = partial(NoisyLinear, sigma_0=rainbow.sigma_0) if rainbow.noisy else nn.Linear
        numbers = rainbow.n_atoms if rainbow.distributional else 1
        self.head = RainbowHead(features_dim, int(action_space.n), numbers, net_arch, activation_fn, rainbow.dueling, linear)
        self.register_buffer("support", th.linspace(rainbow.v_min, rainbow.v_max, rainbow.n_atoms))

    def forward(self, obs: PyTorchObs, noisy: bool = False) -> th.Tensor:
        """
        :param obs: (batch, *shape) observations
        :param noisy: Whether noisy layers draw noise, once for the whole batch
        :return: (batch, n_actions, n_atoms) logits, or (batch, n_actions, 1) values
        """
        set_noise(self.head, noisy)
        return self.head(self.extract_features(obs, self.features_extractor))

    def q_values(self, obs: PyTorchObs, noisy: bool = False) -> th.Tensor:
        """
        Expected values of all actions.

        :param obs: (batch, *shape) observations
        :param noisy: Whether noisy layers draw noise
        :return: (batch, n_actions)
        """
        return self.expectation(self(obs, noisy))

    def expectation(self, output: th.Tensor) -> th.Tensor:
        """
        :param output: (batch, n_actions, n_atoms) what the network returned
        :return: (batch, n_actions) expected values
        """
        return th.softmax(output, dim=2) @ self.support if self.distributional else output.squeeze(2)

    def initialize_layer(self, layer: nn.Module) -> None:
        """
        Draw the parameters of a layer as this network's are drawn when it is built; ReDo does so with recycled units.

        :param layer: Layer like one of this network that feeds an activation
        """
        if isinstance(layer, nn.Conv2d) and isinstance(self.features_extractor, ImageExtractor):
            self.features_extractor.encoder.initialize_layer(layer)  # type: ignore[operator]
        else:
            layer.reset_parameters()  # type: ignore[operator]

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.q_values(observation, noisy=self.noisy and not deterministic).argmax(dim=1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(self.arguments, features_extractor=self.features_extractor)
        return data
