"""Simplicity bias of the networks of a run, at initialisation (paper, section 4.3 and figure 8)."""

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.common.architecture import simba_sizes
from sb3_sparse.diagnostics import simplicity_bias_score
from sb3_sparse.networks import SimBaEncoder
from sb3_sparse.sparsity import prune


def initial_simplicity(policy: Mapping[str, Any], networks: int, seed: int) -> float:
    """
    Simplicity-bias score of SimBa networks of an actor's size, with the two inputs and one output that the score is defined
    for, pruned as the run's are. Which network of an agent the paper scores it does not say; actors are the size of those in
    SimBa's own measurement.

    :param policy: Arguments of the run's policy: sizes, sparsity, distribution, budget
    :param networks: Number of random networks
    :param seed: Seed of networks and masks
    :return: Their mean score; torch's generator is left as it was
    """
    actor, _ = simba_sizes(policy.get("width_scale", 1.0), policy.get("depth_scale", 1.0))
    sparsity = policy.get("sparsity", 0.0)
    pruning = {key: policy[key] for key in ("distribution", "budget") if key in policy}
    generator = th.Generator().manual_seed(seed)

    def make() -> nn.Module:
        network = nn.Sequential(SimBaEncoder(2, actor.hidden_dim, actor.num_blocks), nn.Linear(actor.hidden_dim, 1))
        return prune(network, sparsity["actor"] if isinstance(sparsity, Mapping) else sparsity, generator=generator, **pruning)

    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        return simplicity_bias_score(make, networks, normalize=True).mean
