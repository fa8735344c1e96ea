"""Norms of gradients, averaged over updates."""

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn


class GradientMeans:
    """
    Mean norms of the gradients of a compiled model's updates, of a network's whole gradient and of each parameter's. They are
    added up on the device, so that nobody waits for a GPU.

    :param networks: Name -> network
    """

    def __init__(self, networks: Mapping[str, nn.Module]):
        self.networks = dict(networks)
        # Network -> names of parameters, sums of norms (the whole gradient's first), and number of updates.
        self._sums: dict[str, tuple[list[str], th.Tensor, int]] = {}

    @th.no_grad()
    def add(self, gradients: Mapping[th.Tensor, th.Tensor]) -> None:
        """
        Add an update.

        :param gradients: Parameter -> its gradient
        """
        for name, network in self.networks.items():
            own = {key: gradients[parameter] for key, parameter in network.named_parameters() if parameter in gradients}
            if own:
                norms = th.stack(th._foreach_norm(list(own.values()))).double()
                self._add(name, list(own), th.cat([norms.norm()[None], norms]))

    def _add(self, name: str, keys: list[str], norms: th.Tensor) -> None:
        former, total, updates = self._sums.get(name, (keys, th.zeros_like(norms), 0))
        if former != keys:  # other parameters are trained than before, so their means begin anew
            total, updates = th.zeros_like(norms), 0
        self._sums[name] = keys, total + norms, updates + 1

    def take(self) -> dict[str, dict[str, float]]:
        """
        Read the means, and begin anew.

        :return: Network -> parameter ("" for the whole gradient) -> mean norm; a network that was not updated is missing
        """
        sums, self._sums = self._sums, {}
        return {
            name: dict(zip(["", *keys], (total / updates).tolist(), strict=True))
            for name, (keys, total, updates) in sums.items()
        }

    def state(self) -> dict[str, Any]:
        """What was added up so far, for a run that goes on."""
        return {name: (keys, total.cpu(), updates) for name, (keys, total, updates) in self._sums.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        :param state: What :meth:`state` returned
        """
        devices = {name: next(network.parameters()).device for name, network in self.networks.items()}
        self._sums = {name: (keys, total.to(devices[name]), n) for name, (keys, total, n) in state.items() if name in devices}
