"""Sizes and sparsities of an agent's networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from sb3_sparse.sparsity.allocation import check_sparsity, get_distribution
from sb3_sparse.sparsity.pruning_plan import check_budget

# Default size of the paper (Tables 2 and 3): the critic is four times as wide and twice as deep as the actor.
ACTOR_HIDDEN_DIM, ACTOR_BLOCKS = 128, 1
CRITIC_HIDDEN_DIM, CRITIC_BLOCKS = 512, 2


@dataclass(frozen=True)
class SimBaSize:
    """
    Size of one SimBa network.

    :param hidden_dim: Width of the residual stream
    :param num_blocks: Number of residual blocks
    """

    hidden_dim: int
    num_blocks: int


def simba_sizes(width_scale: float, depth_scale: float) -> tuple[SimBaSize, SimBaSize]:
    """
    Sizes of actor and critic at a scale (paper, section 3: both networks scale together).

    :param width_scale: Multiplies the hidden dimensions 128 and 512; fractions allowed, rounded to whole units
    :param depth_scale: Multiplies the numbers of blocks 1 and 2; fractions allowed, rounded, at least one block each
    :return: Sizes of actor and critic
    :raises ValueError: if a scale is not positive or the actor would have no unit.
    """
    for name, scale in {"width_scale": width_scale, "depth_scale": depth_scale}.items():
        if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < float(scale) < float("inf"):
            raise ValueError(f"{name} must be a positive number (1.0 is the paper's default size), got {scale!r}.")
    if round(width_scale * ACTOR_HIDDEN_DIM) < 1:
        raise ValueError(f"width_scale={width_scale} leaves the actor without units: give at least {1 / ACTOR_HIDDEN_DIM}.")
    return (
        SimBaSize(round(width_scale * ACTOR_HIDDEN_DIM), max(1, round(depth_scale * ACTOR_BLOCKS))),
        SimBaSize(round(width_scale * CRITIC_HIDDEN_DIM), max(1, round(depth_scale * CRITIC_BLOCKS))),
    )


@dataclass(frozen=True)
class PruningConfig:
    """
    How the networks of an agent are pruned. Each network is pruned by itself: the actor, and each critic of several.

    :param actor: Sparsity of the actor, in [0, 1)
    :param critic: Sparsity of each critic, in [0, 1)
    :param distribution: Layer-wise allocation, "erdos_renyi" or "uniform"
    :param budget: What the sparsity is a fraction of: "all" parameters of a network or its "weights"
    """

    actor: float
    critic: float
    distribution: str
    budget: str

    @classmethod
    def create(cls, sparsity: float | Mapping[str, float], distribution: str, budget: str) -> "PruningConfig":
        """
        Validate what a user gave.

        :param sparsity: One sparsity for all networks, or a mapping with the keys "actor" and "critic"
        :param distribution: See the class
        :param budget: See the class
        :raises TypeError: if a sparsity is not a number.
        :raises ValueError: if a value is out of range or unknown.
        """
        get_distribution(distribution)
        check_budget(budget)
        if not isinstance(sparsity, Mapping):
            sparsity = check_sparsity(sparsity)
            return cls(sparsity, sparsity, distribution, budget)
        if set(sparsity) != {"actor", "critic"}:
            raise ValueError(
                f'sparsity by network needs the keys "actor" and "critic" (0.0 for dense), got {dict(sparsity)!r}.'
            )
        actor = check_sparsity(sparsity["actor"], 'sparsity["actor"]')
        critic = check_sparsity(sparsity["critic"], 'sparsity["critic"]')
        return cls(actor, critic, distribution, budget)
