"""Sizes and sparsities of an agent's networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from sb3_sparse.arguments import check_choice, check_number
from sb3_sparse.networks import BroNetEncoder, SimBaEncoder
from sb3_sparse.networks.bronet import GAIN as BRONET_GAIN
from sb3_sparse.networks.initializers import orthogonal_linear
from sb3_sparse.sparsity.allocation import check_sparsity, get_distribution
from sb3_sparse.sparsity.pruning_plan import check_budget


@dataclass(frozen=True)
class NetworkKind:
    """
    What belongs to a kind of network.

    :param encoder: Class of the encoder: (input size, hidden size, number of blocks)
    :param actor_hidden_dim: Width of the actor's residual stream at ``width_scale=1``
    :param critic_hidden_dim: Width of the critic's
    :param head_gain: Gain of the orthogonal initialisation of its linear heads
    :param normalizes: Whether its reference normalises observations
    :param weight_decay: Of AdamW, in its reference
    """

    encoder: Callable[[int, int, int], nn.Module]
    actor_hidden_dim: int
    critic_hidden_dim: int
    head_gain: float
    normalizes: bool
    weight_decay: float


NETWORKS = {
    # Paper, Tables 2 and 3: the critic is four times as wide and twice as deep as the actor.
    "simba": NetworkKind(SimBaEncoder, 128, 512, 1.0, True, 1e-2),
    # BRO (Nauman et al., 2024) and its code.
    "bronet": NetworkKind(BroNetEncoder, 256, 512, BRONET_GAIN, False, 1e-4),
}
ACTOR_BLOCKS, CRITIC_BLOCKS = 1, 2  # of both


@dataclass(frozen=True)
class SimBaSize:
    """
    Size of one network, and its kind.

    :param hidden_dim: Width of the residual stream
    :param num_blocks: Number of residual blocks
    :param network: "simba" or "bronet"
    """

    hidden_dim: int
    num_blocks: int
    network: str = "simba"

    def encoder(self, input_dim: int) -> nn.Module:
        """
        Build the encoder.

        :param input_dim: Size of the input
        """
        return NETWORKS[self.network].encoder(input_dim, self.hidden_dim, self.num_blocks)

    def head(self, output_dim: int) -> nn.Linear:
        """
        Build a linear output layer.

        :param output_dim: Size of the output
        """
        head = nn.Linear(self.hidden_dim, output_dim)
        orthogonal_linear(head, NETWORKS[self.network].head_gain)
        return head


def network_kind(network: str) -> NetworkKind:
    """
    Find a kind of network.

    :param network: Its name
    :raises ValueError: if there is none of this name.
    """
    return NETWORKS[check_choice("network", network, NETWORKS)]


def simba_sizes(width_scale: float, depth_scale: float, network: str = "simba") -> tuple[SimBaSize, SimBaSize]:
    """
    Sizes of actor and critic at a scale (paper, section 3: both networks scale together).

    :param width_scale: Multiplies the hidden dimensions, 128 and 512 (BroNet: 256 and 512); fractions allowed, rounded to
        whole units
    :param depth_scale: Multiplies the numbers of blocks 1 and 2; fractions allowed, rounded, at least one block each
    :param network: Kind of network
    :return: Sizes of actor and critic
    :raises ValueError: if a scale is not positive or the actor would have no unit.
    """
    for name, scale in {"width_scale": width_scale, "depth_scale": depth_scale}.items():
        check_number(name, scale, is_positive=True, hint="1.0 is the paper's default size")
    kind = network_kind(network)
    if round(width_scale * kind.actor_hidden_dim) < 1:
        raise ValueError(
            f"width_scale={width_scale} leaves the actor without units: give at least {1 / kind.actor_hidden_dim}."
        )
    return (
        SimBaSize(round(width_scale * kind.actor_hidden_dim), max(1, round(depth_scale * ACTOR_BLOCKS)), network),
        SimBaSize(round(width_scale * kind.critic_hidden_dim), max(1, round(depth_scale * CRITIC_BLOCKS)), network),
    )


@dataclass(frozen=True)
class PruningConfig:
    """
    How the networks of an agent are pruned. Each network is pruned by itself: the actor, and each critic of several.

    :param actor: Sparsity of the actor, in [0, 1)
    :param critic: Sparsity of each critic, in [0, 1)
    :param distribution: Layer-wise allocation, "erdos_renyi" or "uniform"
    :param budget: What the sparsity is a fraction of: "all" parameters of a network or its "weights"
    :param active_weights: Layer of the policy -> number of its active weights, if these do not follow from the sparsity
    """

    actor: float
    critic: float
    distribution: str
    budget: str
    active_weights: Mapping[str, int] | None = None

    def planned(self, role: str) -> float | None:
        """
        What a network's plan is made with: its sparsity, or None if numbers are given.

        :param role: "actor" or "critic"
        """
        sparsity: float = getattr(self, role)
        return sparsity if self.active_weights is None else None

    @classmethod
    def create(
        cls,
        sparsity: float | Mapping[str, float],
        distribution: str,
        budget: str,
        active_weights: Mapping[str, int] | None = None,
    ) -> "PruningConfig":
        """
        Validate what a user gave.

        :param sparsity: One sparsity for all networks, or a mapping with the keys "actor" and "critic"
        :param distribution: See the class
        :param budget: See the class
        :param active_weights: See the class
        :raises TypeError: if a sparsity is not a number.
        :raises ValueError: if a value is out of range or unknown.
        """
        get_distribution(distribution)
        check_budget(budget)
        if not isinstance(sparsity, Mapping):
            sparsity = check_sparsity(sparsity)
            return cls(sparsity, sparsity, distribution, budget, active_weights)
        if set(sparsity) != {"actor", "critic"}:
            raise ValueError(
                f'sparsity by network needs the keys "actor" and "critic" (0.0 for dense), got {dict(sparsity)!r}.'
            )
        actor = check_sparsity(sparsity["actor"], 'sparsity["actor"]')
        critic = check_sparsity(sparsity["critic"], 'sparsity["critic"]')
        return cls(actor, critic, distribution, budget, active_weights)
