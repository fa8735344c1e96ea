"""The fast back end: one compiled call per action and per update, which touch active weights only."""

from typing import NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_sparse.sparsity import SparseLinear
from sb3_sparse.sparsity.products.compressed_rows import compressed_rows
from sb3_sparse.stream_ac import kernels
from sb3_sparse.stream_ac.learner import Learner, refuse_not_finite
from sb3_sparse.stream_ac.networks import StreamNetwork
from sb3_sparse.stream_ac.obgd import AdaptiveObGD, ObGD, check_finite
from sb3_sparse.stream_ac.policies import StreamACPolicy


class FlatNetwork(NamedTuple):
    """
    What the kernels take of a network; its parameters and their traces become views of the first two vectors.

    :param layers: Table of layers, see :mod:`sb3_sparse.stream_ac.kernels`
    :param params: (parameters,) float32
    :param traces: (parameters,) float32
    :param squares: (parameters,) float32, empty for plain ObGD
    :param rows: First entry of every row of the sparse layers, uint32
    :param columns: Column of every active weight of the sparse layers, uint16, or uint32 for widths beyond
    :param workspace: (workspaces, observations, width) float32
    :param scales: (observations, 2) float32
    :param heads: (observations, outputs) float32
    """

    layers: np.ndarray
    params: np.ndarray
    traces: np.ndarray
    squares: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    workspace: np.ndarray
    scales: np.ndarray
    heads: np.ndarray


class NumbaLearner(Learner):
    """
    Compiled by numba, on the CPU.

    :param policy: Policy with its optimizers, in float32 on the CPU
    :param gamma: Discount factor
    :param ent_coef: Weight of the entropy
    """

    def __init__(self, policy: StreamACPolicy, gamma: float, ent_coef: float):
        super().__init__(policy, gamma, ent_coef)
        self._discrete = policy.actor.is_discrete
        self._options = np.zeros(kernels.OPTIONS)
        self._dim = policy.normalizer.dim
        self.bind()

    def bind(self) -> None:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        actor, critic = self.optimizers
        self._actor = flatten(self.policy.actor, actor, observations=1)
        self._critic = flatten(self.policy.critic.vf, critic, observations=2)
        statistics = self.policy.normalizer
        self._mean, self._squares = statistics.mean.numpy(), statistics.squares.numpy()
        self._count = statistics.count.numpy()
        self._arrays = (*self._actor, *self._critic)
        self._adaptive = isinstance(actor, AdaptiveObGD)
        self._set_options(actor.group, critic.group)

    def set_learning_rate(self, learning_rate: float) -> None:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        # Called before every update, which it must not slow down: most schedules are constants.
        if learning_rate != self._options[kernels.LR]:
            super().set_learning_rate(learning_rate)
            self._options[kernels.LR] = learning_rate

    def observe(self, observation: np.ndarray) -> np.ndarray:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        features = np.empty(self._dim, np.float32)
        if not kernels.observe(observation, self._mean, self._squares, self._count, features):
            refuse_not_finite(observation)
        return features

    def act(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        layers, params, _, _, rows, columns, workspace, scales, heads = self._actor
        return kernels.act(layers, params, rows, columns, features, workspace, scales, heads, noise, self._discrete)

    def learn(
        self,
        features: np.ndarray,
        action: np.ndarray,
        reward: float,
        next_features: np.ndarray,
        bootstrap: bool,
        done: bool,
    ) -> None:
        """See :class:`~sb3_sparse.stream_ac.learner.Learner`."""
        correction = self._count_step() if self._adaptive else 1.0
        finite = kernels.learn(  # type: ignore[call-arg]
            *self._arrays,
            features,
            next_features,
            action,
            reward,
            bootstrap,
            done,
            self._discrete,
            correction,
            self._options,
            self.means.sums,
        )
        if not finite:
            self._refuse(reward)
        self.means.count += 1

    def _count_step(self) -> float:
        for optimizer in self.optimizers:
            optimizer.group["steps"] += 1
        return self.optimizers[0].correction  # type: ignore[attr-defined]

    def _refuse(self, reward: float) -> None:
        norms = [float(np.abs(network.traces).sum()) for network in (self._actor, self._critic)]
        self.forget()
        check_finite(reward, sum(norms))
        check_finite(float("nan"), sum(norms))

    def _set_options(self, actor: dict[str, float], critic: dict[str, float]) -> None:
        options = self._options
        options[kernels.GAMMA], options[kernels.ENT_COEF], options[kernels.LR] = self.gamma, self.ent_coef, actor["lr"]
        options[kernels.ACTOR_DECAY] = actor["gamma"] * actor["trace_lambda"]
        options[kernels.CRITIC_DECAY] = critic["gamma"] * critic["trace_lambda"]
        options[kernels.KAPPA_ACTOR], options[kernels.KAPPA_CRITIC] = actor["kappa"], critic["kappa"]
        options[kernels.BETA2], options[kernels.EPS] = AdaptiveObGD.beta2, AdaptiveObGD.eps


def flatten(network: StreamNetwork, optimizer: ObGD, observations: int) -> FlatNetwork:
    """
    Lay out a network for the kernels. Its parameters and what the optimizer keeps for them become views.

    :param network: Actor or critic
    :param optimizer: Its optimizer
    :param observations: Number of observations of a forward pass
    """
    optimizer.initialize_state()
    layers = network.linear_layers()
    parameters = [parameter for layer in layers for parameter in (_weight(layer), _bias(layer))]
    flat = {"params": _share([parameter.data for parameter in parameters])}
    for parameter, view in zip(parameters, flat["params"][1], strict=True):
        parameter.data = view
    for name in optimizer.state_names:
        flat[name] = _share([optimizer.state[parameter][name] for parameter in parameters])
        for parameter, view in zip(parameters, flat[name][1], strict=True):
            optimizer.state[parameter][name] = view
    table, rows, columns = _tables(layers)
    width, outputs = _shape(layers[0])[0], sum(_shape(layer)[0] for layer in layers[2:])
    return FlatNetwork(
        layers=table,
        params=flat["params"][0],
        traces=flat["trace"][0],
        squares=flat["square"][0] if "square" in flat else np.zeros(0, np.float32),
        rows=rows,
        columns=columns,
        workspace=np.zeros((kernels.WORKSPACES, observations, width), np.float32),
        scales=np.zeros((observations, 2), np.float32),
        heads=np.zeros((observations, outputs), np.float32),
    )


def _weight(layer: nn.Linear | SparseLinear) -> nn.Parameter:
    if isinstance(layer, SparseLinear):
        return layer.values
    assert isinstance(layer.weight, nn.Parameter)
    return layer.weight


def _bias(layer: nn.Linear | SparseLinear) -> nn.Parameter:
    assert isinstance(layer.bias, nn.Parameter)
    return layer.bias


def _shape(layer: nn.Linear | SparseLinear) -> tuple[int, int]:
    outputs, inputs = layer.topology.shape if isinstance(layer, SparseLinear) else layer.weight.shape
    return outputs, inputs


def _share(tensors: list[th.Tensor]) -> tuple[np.ndarray, list[th.Tensor]]:
    """Copy tensors into one vector; return it and the views of it that they correspond to."""
    vector = th.cat([tensor.reshape(-1) for tensor in tensors])
    views = [part.view(tensor.shape) for part, tensor in zip(vector.split([t.numel() for t in tensors]), tensors, strict=True)]
    return vector.numpy(), views


def _tables(layers: list[nn.Linear | SparseLinear]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.full((len(layers), kernels.TABLE_COLUMNS), -1, np.int64)
    narrow = max(_shape(layer)[1] for layer in layers) <= np.iinfo(np.uint16).max
    rows, columns = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint16 if narrow else np.uint32)]
    position = first_output = 0
    for line, layer in zip(table, layers, strict=True):
        weights, (outputs, inputs) = _weight(layer).numel(), _shape(layer)
        line[[kernels.WEIGHTS, kernels.BIAS]] = position, position + weights
        line[[kernels.INPUTS, kernels.OUTPUTS]] = inputs, outputs
        if isinstance(layer, SparseLinear):
            compressed = layer.topology.derive(compressed_rows)
            line[[kernels.ROWS, kernels.COLUMNS]] = sum(map(len, rows)), sum(map(len, columns))
            rows.append(compressed.row_starts.numpy().astype(rows[0].dtype))
            columns.append(compressed.columns.numpy().astype(columns[0].dtype))
        # Hidden layers write to the start of their workspace, heads side by side.
        line[kernels.FIRST_OUTPUT] = first_output if layer in layers[2:] else 0
        first_output += outputs if layer in layers[2:] else 0
        position += weights + outputs
    return table, np.concatenate(rows), np.concatenate(columns)
