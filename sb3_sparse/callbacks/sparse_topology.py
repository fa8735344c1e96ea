"""Dynamic sparsity: SET, RigL and gradual magnitude pruning on the layers of this package."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.callbacks.fresh_policy import recapture
from sb3_sparse.callbacks.measured_networks import MeasuredNetwork, all_optimizers, measured_networks
from sb3_sparse.callbacks.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch, seed_from
from sb3_sparse.common.architecture import PruningConfig
from sb3_sparse.common.magnitude_pruning import prune_by_magnitude
from sb3_sparse.common.pruned_policy import TARGETS, PrunedPolicy
from sb3_sparse.common.sparsify import sparsify
from sb3_sparse.diagnostics.recording import evaluation_mode
from sb3_sparse.sparsity import SparseLayer, Topology, sparse_layers
from sb3_sparse.sparsity.moving import drop_and_grow, remap
from sb3_sparse.training.sample_losses import knows_sample_losses, sample_losses

METHODS = ("set", "rigl", "pruning")
SCHEDULES = ("cosine", "constant")


class SparseTopologyCallback(BaseCallback):
    """
    Changes which weights exist while a model trains; without this callback masks are static, which is the paper's method.

    - ``"set"`` (Mocanu et al., 2018): drop the active weights of smallest magnitude, grow as many at random positions
    - ``"rigl"`` (Evci et al., 2020): the same, but grow where the gradient of the loss is largest. The gradient is that of a
      batch of the replay buffer, drawn for it; the loss must be known (SAC, TD3, DDPG, TQC, DQN)
    - ``"pruning"``: gradual magnitude pruning (Zhu and Gupta, 2017; in RL Graesser et al., 2022) from dense, or from the
      sparsity that the model has, to ``final_sparsity`` by the cubic schedule ``S_f + (S_i - S_f) (1 - t)^3``

    "set" and "rigl" need a sparse model (a stock one after ``sparsify(model, sparsity)``) and conserve the number of active
    weights of every layer exactly; what grows starts at 0, and so do the optimizer's moments of it. "pruning" takes any model;
    at every moment its layers have as many weights as a model that is built with the sparsity of that moment, so that it saves
    and loads as one. Target networks move along: kept weights keep their values there, too.

    :param method: One of the above
    :param update_freq: Agent steps between two changes
    :param drop_fraction: "set", "rigl": fraction of a layer's active weights that are dropped at first, in (0, 1)
    :param schedule: "set", "rigl": "cosine" lets the fraction fall to 0 at ``end``, "constant" keeps it
    :param start: Fraction of training before which nothing changes; not before the first update either
    :param end: Fraction of training after which nothing changes
    :param final_sparsity: "pruning": sparsity at the end, as for ``sparsify``
    :param batch_size: "rigl": transitions for the gradient
    :param seed: Seed of what grows at random and of the batches
    :param verbose: 1 tells of every change
    :raises ValueError: if an argument is out of range, or the model does not fit the method.
    """

    def __init__(
        self,
        method: str = "set",
        update_freq: int = 1_000,
        drop_fraction: float = 0.3,
        schedule: str = "cosine",
        start: float = 0.0,
        end: float = 0.8,
        final_sparsity: float | Mapping[str, float] | None = None,
        batch_size: int = 256,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        _check(method, drop_fraction, schedule, start, end, final_sparsity)
        self.method, self.update_freq = method, check_integer("update_freq", update_freq)
        self.drop_fraction, self.schedule = drop_fraction, schedule
        self.start, self.end, self.final_sparsity = start, end, final_sparsity
        self.batch_size, self.seed = batch_size, seed
        # State: agent steps at the last change, changes so far, and the sparsity that pruning began with.
        self.last_step = 0
        self.changes = 0
        self.initial_sparsity: float | Mapping[str, float] | None = None

    def _init_callback(self) -> None:
        if self.method == "pruning":
            if not isinstance(self.model.policy, PrunedPolicy):
                sparsify(self.model, 0.0)  # prunes nothing yet, but lets the policy say how sparse it is
            return
        if not any(True for _ in sparse_layers(self.model.policy)):
            raise ValueError(
                f"{self.method!r} moves active weights, but no layer of this model is sparse: build it with sparsity > 0, or "
                "call sparsify(model, sparsity) first."
            )
        if self.method == "rigl":
            replay_buffer_of(self.model, "RigL")
            for name in self._sparse_networks():
                if not knows_sample_losses(self.model, name):
                    raise ValueError(f'The loss of {type(self.model).__name__}\'s {name} is not known: use method="set".')

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps
        if self.method == "pruning" and self.initial_sparsity is None:
            self.initial_sparsity = self._sparsity_at_start()
        if self.model._total_timesteps * (self.end - self.start) < self.update_freq:
            warnings.warn(
                f"SparseTopologyCallback: update_freq={self.update_freq} is longer than the time for changes, "
                f"{self.model._total_timesteps * (self.end - self.start):g} agent steps."
            )

    def _on_step(self) -> bool:
        is_due = self.num_timesteps // self.update_freq > self.last_step // self.update_freq
        total = self.model._total_timesteps
        has_begun = self.num_timesteps >= self.start * total and self.model._n_updates > 0  # type: ignore[attr-defined]
        # The first change after the end completes the schedule.
        ended_before = self.last_step >= self.end * total
        if is_due and has_begun and not ended_before:
            self._change(self._progress())
        if is_due:
            self.last_step = self.num_timesteps
        return True

    def _on_training_end(self) -> None:
        # A schedule that ends between two changes, or with training.
        is_over = self.num_timesteps >= self.end * self.model._total_timesteps
        if self.method == "pruning" and is_over and _by_role(self.model.policy.sparsity) != _by_role(self.final_sparsity):  # type: ignore[arg-type]
            self._change(1.0)

    def _progress(self) -> float:
        """Share of the schedule that is over, clipped to [0, 1]."""
        share = self.num_timesteps / self.model._total_timesteps
        return min(1.0, max(0.0, (share - self.start) / (self.end - self.start)))

    def _change(self, progress: float) -> None:
        if self.method == "pruning":
            sparsity = self._pruning_schedule(progress)
            prune_by_magnitude(self.model, sparsity)
            self._log_sparsity(sparsity)
        else:
            fraction = self.drop_fraction * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)
            self._move(fraction)
            self.logger.record("topology/drop_fraction", fraction)
        self.changes += 1
        active = self._active_parameters()
        self.logger.record("topology/active_parameters", active)
        recapture(self.model)
        if self.verbose:
            print(f"{self.method}: change {self.changes} after {self.num_timesteps} agent steps, {active:,} active parameters")

    def _pruning_schedule(self, progress: float) -> float | dict[str, float]:
        initial, final = _by_role(self.initial_sparsity), _by_role(self.final_sparsity)
        left = (1.0 - progress) ** 3
        sparsity = {role: final[role] + (initial[role] - final[role]) * left for role in final}
        return sparsity["actor"] if sparsity["actor"] == sparsity["critic"] else sparsity

    def _sparsity_at_start(self) -> float | dict[str, float]:
        """What the schedule started from; a model that goes on within it has come some of the way already."""
        present, final = _by_role(self.model.policy.sparsity), _by_role(self.final_sparsity)  # type: ignore[arg-type]
        left = (1.0 - self._progress()) ** 3
        if self.num_timesteps == 0 or left == 0.0:
            return present
        return {role: final[role] + (present[role] - final[role]) / left for role in final}

    def _log_sparsity(self, sparsity: float | Mapping[str, float]) -> None:
        for role, value in _by_role(sparsity).items():
            self.logger.record(f"topology/{role}_sparsity", value)

    def _active_parameters(self) -> int:
        """Number of parameters that optimizers train."""
        groups = [group for optimizer in all_optimizers(self.model) for group in optimizer.param_groups]
        return sum({id(p): p.numel() for group in groups for p in group["params"]}.values())

    def _topologies(self) -> dict[Topology, list[SparseLayer]]:
        """Topologies of the online networks, with the layers that move with them: online first, then in target networks."""
        layers = dict(sparse_layers(self.model.policy))
        found: dict[Topology, list[SparseLayer]] = {}
        for name, layer in layers.items():
            root, _, path = name.partition(".")
            if root in TARGETS.values():
                continue
            # A target's topology is the same one, or (in a features extractor) has the same indices.
            twin = layers.get(f"{TARGETS.get(root)}.{path}")
            found.setdefault(layer.topology, []).extend([layer] if twin is None or twin is layer else [layer, twin])
        return found

    def _move(self, fraction: float) -> None:
        generator = th.Generator().manual_seed(seed_from(self.seed, self.num_timesteps))
        scores = self._gradients() if self.method == "rigl" else {}
        for topology, layers in self._topologies().items():
            if topology in scores:
                score = scores[topology].abs()
            elif self.method == "set":
                score = th.rand(topology.numel, generator=generator, device="cpu").to(topology.indices.device)
            else:
                continue  # no gradient reaches it
            count = int(fraction * topology.active)
            indices, sources = drop_and_grow(topology, layers[0].values.detach().abs(), score, count)
            self._move_layers(layers, indices, sources)

    @th.no_grad()
    def _move_layers(self, layers: list[SparseLayer], indices: th.Tensor, sources: th.Tensor) -> None:
        values = [[remap(layer.get_parameter(name), sources) for name in layer.value_names.values()] for layer in layers]
        parameters = {layer.get_parameter(name) for layer in layers for name in layer.value_names.values()}
        for layer, moved in zip(layers, values, strict=True):
            layer.set_topology(indices, *moved)
        for optimizer in all_optimizers(self.model):
            for parameter in parameters & set(optimizer.state):
                parameter.grad = None  # it belongs to the old positions
                for value in optimizer.state[parameter].values():
                    if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                        value.copy_(remap(value, sources))

    def _sparse_networks(self) -> dict[str, MeasuredNetwork]:
        networks = measured_networks(self.model).items()
        return {name: network for name, network in networks if any(True for _ in sparse_layers(network.module))}

    def _gradients(self) -> dict[Topology, th.Tensor]:
        """Gradients of all weights, inactive ones included, of a batch; those of the run are left alone."""
        if not can_sample(self.model, self.batch_size):
            warnings.warn(f"RigL: the replay buffer does not hold {self.batch_size} transitions yet, nothing moves.")
            return {}
        found: dict[Topology, th.Tensor] = {}
        with private_randomness(self.model, self.seed, self.num_timesteps), evaluation_mode(self.model.policy):
            batch = sample_batch(self.model, self.batch_size)
            for name, network in self._sparse_networks().items():
                losses = sample_losses(self.model, name, batch)
                assert losses is not None
                found.update(_dense_gradients(network.module, losses))
        return found


def _dense_gradients(network: nn.Module, losses: Any) -> dict[Topology, th.Tensor]:
    layers = [layer for _, layer in sparse_layers(network)]
    for layer in layers:
        layer.record_dense_gradient()
    try:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:  # frozen
            return {}
        with th.enable_grad():
            th.autograd.grad(losses().mean(), parameters, allow_unused=True)
        return {layer.topology: layer.dense_gradient for layer in layers if layer.dense_gradient is not None}
    finally:
        for layer in layers:
            layer.record_dense_gradient(False)


def _by_role(sparsity: float | Mapping[str, float] | None) -> dict[str, float]:
    if isinstance(sparsity, Mapping):
        return dict(sparsity)
    assert sparsity is not None
    return {"actor": sparsity, "critic": sparsity}


def _check(
    method: str,
    drop_fraction: float,
    schedule: str,
    start: float,
    end: float,
    final_sparsity: float | Mapping[str, float] | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(map(repr, SCHEDULES))}, got {schedule!r}.")
    if not 0.0 < drop_fraction < 1.0:
        raise ValueError(f"drop_fraction must lie in (0, 1), got {drop_fraction!r}.")
    if not 0.0 <= start < end <= 1.0:
        raise ValueError(f"start and end must satisfy 0 <= start < end <= 1, got {start!r} and {end!r}.")
    if (final_sparsity is None) == (method == "pruning"):
        raise ValueError('final_sparsity is what "pruning" ends with, and nothing that the other methods take.')
    if final_sparsity is not None:
        PruningConfig.create(final_sparsity, "erdos_renyi", "all")
