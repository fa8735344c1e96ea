"""Linear layers that explore by noise on their weights (noisy networks), dense and sparse."""

import math
from typing import ClassVar

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_sparse.arguments import check_integer, check_number
from sb3_sparse.sparsity import SparseLayer, register_sparse_layer
from sb3_sparse.sparsity.products.choice import sparse_linear


class NoisyLinear(nn.Module):
    """
    Linear layer whose weights are normally distributed, with factorised noise (Fortunato et al., 2018, "Noisy Networks for
    Exploration", section 3.1): ``weight_mu + weight_sigma * outer(f(e_out), f(e_in))`` with standard normal ``e`` and
    ``f(e) = sign(e) sqrt(|e|)``, and ``bias_mu + bias_sigma * f(e_out)``.

    While ``noisy`` is set, every forward pass draws noise anew from torch's generator, once for the whole batch; otherwise the
    means alone count.

    Means are drawn from U(-1, 1) / sqrt(in_features). Standard deviations begin at ``sigma_0 / sqrt(in_features)``, those of
    the bias too, as in Dopamine; the paper has ``out_features`` there.

    :param in_features: Size of the input
    :param out_features: Size of the output
    :param sigma_0: Initial standard deviation times ``sqrt(in_features)``; 0.5 in the paper, 0.1 in Dopamine's Rainbow
    :raises ValueError: if a size or ``sigma_0`` is not positive.
    """

    def __init__(self, in_features: int, out_features: int, sigma_0: float = 0.5):
        super().__init__()
        check_number("sigma_0", sigma_0, is_positive=True)
        self.in_features = check_integer("in_features", in_features)
        self.out_features = check_integer("out_features", out_features)
        self.sigma_0 = sigma_0
        self.noisy = True
        self.weight_mu = nn.Parameter(th.empty(out_features, in_features))
        self.weight_sigma = nn.Parameter(th.empty(out_features, in_features))
        self.bias_mu = nn.Parameter(th.empty(out_features))
        self.bias_sigma = nn.Parameter(th.empty(out_features))
        self.reset_parameters()

    @th.no_grad()
    def reset_parameters(self) -> None:
        """Draw the means anew and set the standard deviations back."""
        bound = 1.0 / math.sqrt(self.in_features)
        for mean in (self.weight_mu, self.bias_mu):
            mean.uniform_(-bound, bound)
        for deviation in (self.weight_sigma, self.bias_sigma):
            deviation.fill_(self.sigma_0 * bound)

    def forward(self, input: th.Tensor) -> th.Tensor:
        """
        :param input: (..., in_features)
        :return: (..., out_features)
        """
        if not self.noisy:
            return F.linear(input, self.weight_mu, self.bias_mu)
        noise_in, noise_out = draw_noise(self, self.weight_mu)
        weight = self.weight_mu + self.weight_sigma * (noise_out[:, None] * noise_in)
        return F.linear(input, weight, self.bias_mu + self.bias_sigma * noise_out)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, sigma_0={self.sigma_0}"


class SparseNoisyLinear(SparseLayer):
    """
    Noisy layer with a fixed set of active weights, made from :class:`NoisyLinear`: means and standard deviations are under one
    mask, so an inactive weight is 0 and stays silent.

    On a CPU it multiplies active weights only where that is faster than rebuilding the dense matrix.
    """

    dense_type = NoisyLinear
    value_names: ClassVar = {"weight_mu": "values", "weight_sigma": "sigma_values"}
    in_features: int
    out_features: int
    noisy: bool
    sigma_values: nn.Parameter
    bias_mu: nn.Parameter
    bias_sigma: nn.Parameter

    def forward(self, input: th.Tensor) -> th.Tensor:
        """
        :param input: (..., in_features)
        :return: (..., out_features)
        """
        values: th.Tensor = self.values
        bias: th.Tensor = self.bias_mu
        if self.noisy:
            noise_in, noise_out = draw_noise(self, values)
            rows, columns = self.topology.coordinates()
            values = values + self.sigma_values * (noise_out[rows] * noise_in[columns])
            bias = bias + self.bias_sigma * noise_out
        if not self._records_dense_gradient:
            output = sparse_linear(input, values, bias, self.topology)
            if output is not None:
                return output
        return F.linear(input, self.scatter(values), bias)


def draw_noise(layer: NoisyLinear | SparseNoisyLinear, like: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Draw the two factors of a layer's noise.

    :param layer: Noisy layer
    :param like: Tensor of the wanted type and device
    :return: (in_features,) and (out_features,)
    """
    normal = th.randn(layer.in_features + layer.out_features, dtype=like.dtype, device=like.device)
    scaled = normal.sign() * normal.abs().sqrt()
    return scaled[: layer.in_features], scaled[layer.in_features :]


def set_noise(module: nn.Module, noisy: bool) -> None:
    """
    Switch the noise of all noisy layers of a module on or off.

    :param module: Any module
    :param noisy: Whether forward passes draw noise
    """
    for layer in module.modules():
        if isinstance(layer, NoisyLinear | SparseNoisyLinear):
            layer.noisy = noisy


register_sparse_layer(SparseNoisyLinear)
