"""Recycling of dormant units (ReDo)."""

import copy
import warnings

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_sparse.arguments import check_integer
from sb3_sparse.callbacks.measured_networks import MeasuredNetwork, measured_networks, run
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.diagnostics import dormancy_scores
from sb3_sparse.diagnostics.recording import Chain
from sb3_sparse.networks import SimBaBlock
from sb3_sparse.networks.initializers import DrawsLayers, he_normal_linear
from sb3_sparse.sparsity import SparseLayer
from sb3_sparse.sparsity.convolutions import SparseConvolution


class ReDoCallback(BaseCallback):
    """
    Recycles dormant units every so often (Sokar et al., 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning"):
    a unit whose :func:`~sb3_sparse.diagnostics.dormancy_scores` is at most ``tau`` gets new incoming weights and a new bias
    from its layer's initialisation, its outgoing weights become 0, and so do the optimizer's moments of all of these. The
    network then computes what it did before (but for what a unit that was not entirely silent had contributed).

    In a sparse layer only active weights are drawn and zeroed; masks stay. Target networks are left alone. All is written in
    place, which captured updates (CUDA graphs) see as they are.

    Recycled are units of a linear or convolutional layer that feeds one activation module, which only linear or convolutional
    layers take: in SimBa the inner units of every block, in stock policies all hidden layers. Units whose consumers are not
    known (the last layer of a features extractor or encoder) are left alone. Output layers have no units.

    Of two published implementations, Adam's step count is kept as in the authors', where the other one
    (timoklein/redo) sets it to 0: ``reset_step_count``.

    :param redo_freq: Agent steps between two recyclings
    :param tau: Threshold of the dormancy score; published are 0.1 and 0.025
    :param batch_size: Transitions to compute scores of
    :param reset_step_count: Also set the optimizer's step count of touched parameters to 0
    :param seed: Seed of the batches; new weights come from torch's generator, which SB3 seeds with the model's seed
    :param verbose: 1 tells how many units were recycled
    :raises ValueError: if an argument is out of range, or the model has no replay buffer.
    """

    def __init__(
        self,
        redo_freq: int = 1_000,
        tau: float = 0.025,
        batch_size: int = 64,
        reset_step_count: bool = False,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if not tau >= 0.0:
            raise ValueError(f"tau must be at least 0, got {tau!r}.")
        self.redo_freq, self.batch_size = check_integer("redo_freq", redo_freq), check_integer("batch_size", batch_size)
        self.tau = tau
        self.reset_step_count, self.seed = reset_step_count, seed
        # State: agent steps at the last recycling, and units recycled so far by network.
        self.last_step = 0
        self.recycled: dict[str, int] = {}
        self.said_nothing_to_recycle = False

    def _init_callback(self) -> None:
        replay_buffer_of(self.model, type(self).__name__)
        measured_networks(self.model)

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps

    def _on_step(self) -> bool:
        is_due = self.num_timesteps // self.redo_freq > self.last_step // self.redo_freq
        has_learned = self.model._n_updates > 0  # type: ignore[attr-defined]
        if is_due and has_learned and can_sample(self.model, self.batch_size):
            self.recycle()
            self.last_step = self.num_timesteps
        return True

    def recycle(self) -> dict[str, int]:
        """
        Recycle dormant units, now.

        :return: Network -> number of units recycled
        """
        with private_randomness(self.model, self.seed, self.num_timesteps):
            batch = sample_batch(self.model, self.batch_size)
            dormant = {name: self._dormant(network, batch) for name, network in measured_networks(self.model).items()}
        counts: dict[str, int] = {}
        for name, network in measured_networks(self.model).items():
            counts[name] = sum(int(units.sum()) for _, units in dormant[name])
            self.recycled[name] = self.recycled.get(name, 0) + counts[name]
            for chain, units in dormant[name]:
                self._renew_inputs(network.module, chain, units)
            # Afterwards: a recycled unit may feed one whose inputs were drawn anew.
            for chain, units in dormant[name]:
                self._silence_outputs(network.module, chain, units)
            self.logger.record(f"redo/{name}", counts[name])
        if self.verbose:
            print(f"ReDo recycled {counts} units after {self.num_timesteps} agent steps")
        return counts

    def _dormant(self, network: MeasuredNetwork, batch: object) -> list[tuple[Chain, th.Tensor]]:
        recording = run(network, batch)
        if not recording.chains and not self.said_nothing_to_recycle:
            self.said_nothing_to_recycle = True
            warnings.warn("ReDoCallback: a network has no units whose weights in and out are known; it is left alone.")
        found = []
        for chain in recording.chains:
            consumers = [network.module.get_submodule(name) for name in chain.consumers]
            units = dormancy_scores(recording.post[chain.activation]) <= self.tau
            if not any(map(_is_grouped, consumers)) and bool(units.any()):
                found.append((chain, units))
        return found

    @th.no_grad()
    def _renew_inputs(self, network: nn.Module, chain: Chain, units: th.Tensor) -> None:
        producer = network.get_submodule(chain.producer)
        fresh = _fresh_layer(network, chain.producer)
        for name, parameter, positions, inputs in _weights(producer):
            chosen = units[positions // inputs]
            new = fresh.get_parameter(name).reshape(-1)[positions].view_as(parameter)
            parameter.copy_(th.where(chosen.view_as(parameter), new, parameter))
            self._forget(parameter, chosen.view_as(parameter))
        for name in _unit_parameters(producer):
            parameter = producer.get_parameter(name)
            parameter.copy_(th.where(units, fresh.get_parameter(name), parameter))
            self._forget(parameter, units)

    @th.no_grad()
    def _silence_outputs(self, network: nn.Module, chain: Chain, units: th.Tensor) -> None:
        for consumer in chain.consumers:
            for _, parameter, positions, inputs in _weights(network.get_submodule(consumer)):
                place = positions % inputs
                unit = place // (inputs // len(units)) if chain.is_convolution else place % len(units)
                chosen = units[unit].view_as(parameter)
                parameter.masked_fill_(chosen, 0.0)
                self._forget(parameter, chosen)

    def _forget(self, parameter: nn.Parameter, chosen: th.Tensor) -> None:
        forget_entries(self.model, parameter, chosen)
        if self.reset_step_count:
            for optimizer in optimizers_of(self.model.policy):
                step = optimizer.state.get(parameter, {}).get("step")
                if isinstance(step, th.Tensor):
                    step.zero_()


def forget_entries(model: BaseAlgorithm, parameter: nn.Parameter, chosen: th.Tensor) -> None:
    """
    Set an optimizer's moments of some entries of a parameter to 0.

    :param model: Model
    :param parameter: One of its parameters
    :param chosen: Boolean mask of the parameter's shape
    """
    for optimizer in optimizers_of(model.policy):
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                value.masked_fill_(chosen, 0.0)


def _weights(layer: nn.Module) -> list[tuple[str, nn.Parameter, th.Tensor, int]]:
    """Name in the dense layer, parameter, flat positions of its entries in the dense weight, and weights per unit."""
    if isinstance(layer, SparseLayer):
        inputs = layer.topology.numel // layer.topology.shape[0]
        positions = layer.topology.long_indices()
        return [(weight, layer.get_parameter(values), positions, inputs) for weight, values in layer.value_names.items()]
    found = [(name, parameter) for name, parameter in layer.named_parameters(recurse=False) if parameter.ndim >= 2]
    return [(n, p, th.arange(p.numel(), device=p.device), p.numel() // p.shape[0]) for n, p in found]


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | SparseConvolution) and bool(layer.groups != 1)


def _unit_parameters(layer: nn.Module) -> list[str]:
    values = layer.weight_names() if isinstance(layer, SparseLayer) else {}
    return [name for name, p in layer.named_parameters(recurse=False) if p.ndim == 1 and name not in values]


def _fresh_layer(network: nn.Module, name: str) -> nn.Module:
    """A dense copy of a layer with the parameters that its network initialises it with."""
    twin = copy.deepcopy(network.get_submodule(name))
    if isinstance(twin, SparseLayer):
        twin.densify()
    path = name.split(".")[:-1]
    owners = [network.get_submodule(".".join(path[:length])) for length in range(len(path), -1, -1)]  # the innermost first
    if isinstance(owners[0], SimBaBlock):
        he_normal_linear(twin)
    elif drawing := [owner for owner in owners if isinstance(owner, DrawsLayers)]:
        drawing[0].initialize_layer(twin)
    else:
        twin.reset_parameters()  # type: ignore[operator]
    return twin
