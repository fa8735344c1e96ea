"""Dynamic sparsity: changes which weights exist while a model trains."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.arguments import check_choice
from sb3_sparse.callbacks.fresh_policy import recapture
from sb3_sparse.callbacks.model_part import ModelPart, by_role
from sb3_sparse.common.pruned_policy import TARGETS
from sb3_sparse.sparsity.conversion import submodule
from sb3_sparse.sparsity.methods import SET, Expansion, GradualPruning, Revival, RigL, Static, TopologyMethod
from sb3_sparse.sparsity.optimizers import optimizers_of

METHODS: dict[str, type[TopologyMethod]] = {
    method.name: method for method in (SET, RigL, GradualPruning, Expansion, Revival, Static)
}
# What a network is given: a method, its name, or (as hyperparameter files have it) {"method": name, argument: value}.
Given = TopologyMethod | str | Mapping[str, Any]
# The key of a method that works on all networks.
_ALL = ""


class SparseTopologyCallback(BaseCallback):
    """
    Changes which weights exist while a model trains; without this callback masks are static, which is the paper's method.

    - ``"set"``, :class:`SET`: drop the active weights of smallest magnitude, grow as many at random positions
    - ``"rigl"``, :class:`RigL`: the same, but grow where the gradient of the loss is largest
    - ``"pruning"``, :class:`GradualPruning`: prune by magnitude, a little at a time
    - ``"expansion"``, :class:`Expansion`: grow from sparse towards dense, pruning what feeds dormant units
    - ``"revival"``, :class:`Revival`: revive some pruned weights once

    All but "pruning", which takes any, need a sparse model (a stock one after ``sparsify(model, sparsity)``). Target
    networks move along: kept weights keep their values there, too. Where numbers of active weights change, the model saves
    them.

    :param method: One of these names; a method; or network (a part of the policy, such as "actor", "critic" or
        "critic.trunk") -> method, name, or, for hyperparameter files, ``{"method": name, argument: value}``. Networks that
        are not named stay as they are
    :param update_freq: Agent steps between two changes (1,000). This argument and those down to ``batch_size`` are for a
        method that is given by its name
    :param drop_fraction: See :class:`SET` (0.3)
    :param schedule: See :class:`SET` ("cosine")
    :param start: Fraction of training before which nothing changes (0)
    :param end: Fraction of training after which nothing changes (0.8)
    :param final_sparsity: See :class:`GradualPruning` and :class:`Expansion`
    :param batch_size: See :class:`RigL` (256)
    :param seed: Seed of what grows at random and of the batches
    :param verbose: 1 tells of every change
    :raises ValueError: if an argument is out of range or not the method's, or the model does not fit the method.
    """

    def __init__(
        self,
        method: str | TopologyMethod | Mapping[str, Given] = "set",
        update_freq: int | None = None,
        drop_fraction: float | None = None,
        schedule: str | None = None,
        start: float | None = None,
        end: float | None = None,
        final_sparsity: float | Mapping[str, float] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        options = {
            "update_freq": update_freq,
            "drop_fraction": drop_fraction,
            "schedule": schedule,
            "start": start,
            "end": end,
            "final_sparsity": final_sparsity,
            "batch_size": batch_size,
        }
        self.methods = _methods(method, {name: value for name, value in options.items() if value is not None})
        self.seed = seed
        # State: changes so far, and for each network agent steps at its last change, and what its schedule started from.
        self.changes = 0
        self.last_steps: dict[str, int] = {}
        self.initial: dict[str, Any] = {}

    def checkpoint_state(self) -> None:
        """All of the state are plain attributes."""

    def restore_checkpoint_state(self, state: None) -> None:
        """
        Take over what former versions, with one method for all networks, kept under other names.

        :param state: Nothing
        """
        former = vars(self)
        if "last_step" in former:
            self.last_steps[_ALL] = former.pop("last_step")
        if (sparsity := former.pop("initial_sparsity", None)) is not None:
            self.initial[_ALL] = by_role(sparsity)

    def _init_callback(self) -> None:
        known = {name for name, _ in self.model.policy.named_children()} - set(TARGETS.values())
        for network, method in self.methods.items():
            is_known = network.partition(".")[0] in known and submodule(self.model.policy, network) is not None
            if network != _ALL and not is_known:
                raise ValueError(
                    f"{type(self.model.policy).__name__} has no network {network!r}: name one of {sorted(known)}."
                )
            method.prepare(self._part(network))

    def _on_training_start(self) -> None:
        for network, method in self.methods.items():
            self.last_steps[network] = self.num_timesteps
            if network not in self.initial:
                self.initial[network] = method.initial(self._part(network), self._progress(method))
            time = self.model._total_timesteps * (method.end - method.start)
            if time < method.update_freq:
                warnings.warn(
                    f"SparseTopologyCallback: update_freq={method.update_freq} is longer than the time for changes, "
                    f"{time:g} agent steps."
                )

    def _on_step(self) -> bool:
        for network, method in self.methods.items():
            last_step, total = self.last_steps[network], self.model._total_timesteps
            is_due = self.num_timesteps // method.update_freq > last_step // method.update_freq
            has_begun = self.num_timesteps >= method.start * total and self.model._n_updates > 0  # type: ignore[attr-defined]
            # The first change after the end completes the schedule.
            ended_before = last_step >= method.end * total
            if is_due and has_begun and not ended_before:
                self._change(network, self._progress(method))
            if is_due:
                self.last_steps[network] = self.num_timesteps
        return True

    def _on_training_end(self) -> None:
        # A schedule that ends between two changes, or with training.
        for network, method in self.methods.items():
            is_over = self.num_timesteps >= method.end * self.model._total_timesteps
            if is_over and not method.is_complete(self._part(network), self.initial.get(network)):
                self._change(network, 1.0)

    def _change(self, network: str, progress: float) -> None:
        method = self.methods[network]
        values = method.change(self._part(network), progress, self.initial.get(network))
        if values is None:
            return
        self.changes += 1
        for name, value in values.items():
            is_told_apart = network == _ALL or name.startswith(f"{network}_")
            self.logger.record(f"topology/{name if is_told_apart else f'{network}_{name}'}", value)
        active = self._active_parameters()
        self.logger.record("topology/active_parameters", active)
        recapture(self.model)
        if self.verbose:
            what = " ".join(filter(None, (method.name, network)))
            print(f"{what}: change {self.changes} after {self.num_timesteps} agent steps, {active:,} active parameters")

    def _progress(self, method: TopologyMethod) -> float:
        return method.progress(self.num_timesteps / self.model._total_timesteps)

    def _part(self, network: str) -> ModelPart:
        others = [other for other in self.methods if other.startswith(f"{network}.")]
        # Networks draw apart, whatever order they are named in.
        return ModelPart(self.model, network or None, self.seed + sum(network.encode()), others)

    def _active_parameters(self) -> int:
        """Number of parameters that optimizers train."""
        groups = [group for optimizer in optimizers_of(self.model.policy) for group in optimizer.param_groups]
        return sum({id(p): p.numel() for group in groups for p in group["params"]}.values())


def _methods(method: str | TopologyMethod | Mapping[str, Given], options: Mapping[str, Any]) -> dict[str, TopologyMethod]:
    if isinstance(method, str):
        return {_ALL: _named(method, options)}
    if options:
        raise ValueError(f"{', '.join(options)}: give these to the method itself, they are for one that is given by its name.")
    return {name: _one(given) for name, given in (method if isinstance(method, Mapping) else {_ALL: method}).items()}


def _one(given: Any) -> TopologyMethod:
    if isinstance(given, Mapping) and "method" in given:
        return _named(given["method"], {name: value for name, value in given.items() if name != "method"})
    found = _named(given, {}) if isinstance(given, str) else given
    if not isinstance(found, TopologyMethod):
        raise ValueError(f"A method is one of {', '.join(map(repr, METHODS))} or an instance such as RigL(), got {found!r}.")
    return found


def _named(name: str, options: Mapping[str, Any]) -> TopologyMethod:
    check_choice("method", name, METHODS)
    own = [entry.name for entry in fields(METHODS[name])]
    foreign = [option for option in options if option not in own]
    if foreign or ("final_sparsity" in own and "final_sparsity" not in options):
        wrong = f"does not take {', '.join(foreign)}" if foreign else "needs final_sparsity"
        raise ValueError(f"The method {name!r} {wrong}: its arguments are {', '.join(own)}.")
    return METHODS[name](**options)
