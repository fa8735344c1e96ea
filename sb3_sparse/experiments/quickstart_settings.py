"""Settings of the quickstart. Imports nothing that takes time, as the command line's help shows them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quickstart:
    """
    Settings of the quickstart. SAC's deviate from the paper's (which take hours on a CPU) towards a quick start: a small
    network, a higher learning rate, smaller batches, fewer random steps, one update per agent step. Stream AC's are its own
    defaults.

    :param task: Environment id, of SAC
    :param sparsity: Sparsity of SAC's sparse agent
    :param width_scale: Width scale of both of SAC's agents
    :param agent_steps: Length of SAC's runs
    :param streaming_steps: Length of Stream AC's runs, 0 for none
    :param seed: Seed of all runs
    :param folder: Where everything is written
    """

    task: str = "dm_control/walker-walk-v0"
    sparsity: float = 0.5
    width_scale: float = 0.125
    agent_steps: int = 15_000
    streaming_steps: int = 75_000
    seed: int = 0
    folder: Path = Path("runs/quickstart")
