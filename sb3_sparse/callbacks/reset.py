"""Periodic resets: the paper's test of whether plasticity was lost."""

import warnings
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_sparse.arguments import check_choice, check_integer
from sb3_sparse.callbacks.fresh_policy import clear_moments, copy_parameters, copy_statistics, fresh_policy, recapture
from sb3_sparse.callbacks.measured_networks import measured_networks, run
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch
from sb3_sparse.common.pruned_policy import TARGETS, PrunedPolicy

PARTS = ("agent", "critic", "last_layers")
_CRITICS = ("critic", "q_net", "quantile_net")


class ResetCallback(BaseCallback):
    """
    Draws networks anew every so often and keeps the replay buffer (Nikishin et al., 2022, "The Primacy Bias in Deep
    Reinforcement Learning"). If that helps, plasticity had been lost (paper, section 4.2 and figure 6).

    With ``part="agent"`` everything that learns is as in a new model: actor, critics, target networks, optimizers, and SAC's
    temperature. Running statistics of observations are kept, as they describe the replay buffer, which is kept as well.
    Parameters are overwritten in place. There is no reset at the last step of training.

    :param reset_freq: Agent steps between two resets. The paper does not say how many; 100 000 (200 000 environment steps at
        an action repeat of 2) is what Nikishin et al. use on DeepMind Control
    :param part: "agent", "critic" (with its targets and moments; a features extractor that the actor shares stays), or
        "last_layers": the output layers of all networks
    :param redraw_topology: Draw new masks as well, of the same numbers of weights; otherwise masks stay
    :param verbose: 1 tells of every reset
    :raises ValueError: if an argument is out of range, or the model has no replay buffer.
    """

    def __init__(self, reset_freq: int = 100_000, part: str = "agent", redraw_topology: bool = False, verbose: int = 0):
        super().__init__(verbose)
        self.reset_freq, self.part = check_integer("reset_freq", reset_freq), check_choice("part", part, PARTS)
        self.redraw_topology = redraw_topology
        # State: agent steps at the last reset (at the start before the first), and how many there were.
        self.last_step = 0
        self.resets = 0

    def _init_callback(self) -> None:
        replay_buffer_of(self.model, type(self).__name__)

    def _on_training_start(self) -> None:
        self.last_step = self.num_timesteps
        end = self.model._total_timesteps
        if self.num_timesteps // self.reset_freq == (end - 1) // self.reset_freq:
            warnings.warn(f"ResetCallback: no reset happens before {end} agent steps with reset_freq={self.reset_freq}.")

    def _on_step(self) -> bool:
        is_due = self.num_timesteps // self.reset_freq > self.last_step // self.reset_freq
        if is_due and self.num_timesteps < self.model._total_timesteps:
            self.reset()
            self.last_step = self.num_timesteps
        return True

    def reset(self) -> None:
        """Draw the chosen part anew, now."""
        names = self._parts()
        fresh = fresh_policy(self.model, self.redraw_topology)
        policy = self.model.policy
        for name in names:
            part, source = (policy.get_submodule(name), fresh.get_submodule(name))
            copy_parameters(source, part)
            clear_moments(self.model, part)
        if self.part == "agent":
            if self.redraw_topology and isinstance(policy, PrunedPolicy) and isinstance(fresh, PrunedPolicy):
                policy.seed_of_masks.fill_(fresh.mask_seed)
            _reset_temperature(self.model)
        for online, target in TARGETS.items():
            if target in policy._modules:
                copy_statistics(policy.get_submodule(online), policy.get_submodule(target))
        recapture(self.model)
        self.resets += 1
        self.logger.record("reset/count", self.resets)
        if self.verbose:
            print(f"Reset {self.resets} ({self.part}) after {self.num_timesteps} agent steps")

    def _parts(self) -> list[str]:
        """Names of the policy's parts that are drawn anew."""
        policy = self.model.policy
        if self.part == "agent":
            return [name for name, _ in policy.named_children() if any(True for _ in policy.get_submodule(name).parameters())]
        if self.part == "last_layers":
            return self._last_layers()
        actor: nn.Module | None = policy._modules.get("actor")
        shared = set() if actor is None else set(actor.modules())
        names = []
        for online in (name for name in _CRITICS if name in policy._modules):
            # A target follows what its online network has of its own.
            own = [child for child, module in policy.get_submodule(online).named_children() if module not in shared]
            roots = [root for root in (online, TARGETS[online]) if root in policy._modules]
            names += [f"{root}.{child}" for root in roots for child in own]
        return names

    def _last_layers(self) -> list[str]:
        if not can_sample(self.model, 2):
            raise ValueError("The last layers are found by running the networks on a batch: the replay buffer is empty.")
        names: list[str] = []
        with private_randomness(self.model, self.num_timesteps):
            batch = sample_batch(self.model, 2)
            for network in measured_networks(self.model).values():
                heads = run(network, batch).output_layers
                online = next(key for key, module in self.model.policy.named_modules() if module is network.module)
                roots = [root for root in (online, f"{online}_target") if root in self.model.policy._modules]
                names += [f"{root}.{head}" for root in roots or [online] for head in heads]
        return names


@th.no_grad()
def _reset_temperature(model: Any) -> None:
    """As SB3's ``_setup_model`` of SAC and TQC sets it."""
    if not isinstance(model, SAC | TQC | CrossQ) or model.ent_coef_optimizer is None:
        return
    name = str(model.ent_coef)
    assert model.log_ent_coef is not None
    model.log_ent_coef.fill_(float(np.log(float(name.split("_")[1]))) if "_" in name else 0.0)
    for state in model.ent_coef_optimizer.state.values():
        for value in state.values():
            if isinstance(value, th.Tensor):
                value.zero_()
