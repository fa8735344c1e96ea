"""Cost of one update of Data-Efficient Rainbow: a plain dense network beside ours, dense and sparse, in one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import get_device

from sb3_sparse.experiments.markdown_table import markdown_table, spread
from sb3_sparse.arguments import check_integer
from sb3_sparse.der import DER
from sb3_sparse.experiments.benchmarks.plain_rainbow import PlainBatch, PlainRainbow
from sb3_sparse.experiments.benchmarks.timing import in_turn, median_ratio, prepare, seconds
from sb3_sparse.sparsity.allocation import check_sparsity
from sb3_sparse.training.programs import WARM_UPS

PLAIN = "plain torch, dense"
BATCH_SIZE, ACTIONS, FRAMES = 32, 6, 4
# In the replay buffer.
_TRANSITIONS = 500


@dataclass(frozen=True)
class DerCost:
    """
    Cost of one contender: process time on a CPU, time until the GPU is done on a GPU.

    :param width_scale: Width scale of the IMPALA encoder
    :param variant: "plain torch, dense", or our sparsity
    :param device: Name of the device
    :param parameters: Trainable parameters
    :param update_ms: Milliseconds of one update in each round, batch included
    :param speedup: Median over rounds of the plain network's time divided by this one's
    """

    width_scale: float
    variant: str
    device: str
    parameters: int
    update_ms: Sequence[float]
    speedup: float


class RandomFrames(gym.Env):
    """Frames of noise, of the size of Atari's, four of them stacked."""

    observation_space = spaces.Box(0, 255, (FRAMES, 84, 84), np.uint8)
    action_space = spaces.Discrete(ACTIONS)
    frame_stack = FRAMES

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        :param seed: Seed of the frames
        :param options: Not used
        """
        super().reset(seed=seed)
        self._frames = np.zeros((FRAMES, 84, 84), np.uint8)
        return self._next(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """
        :param action: Not used
        """
        return self._next(), float(self.np_random.integers(-1, 2)), False, bool(self.np_random.random() < 0.01), {}

    def _next(self) -> np.ndarray:
        new = self.np_random.integers(0, 256, (1, 84, 84), np.uint8)
        self._frames = np.concatenate([self._frames[1:], new])
        return self._frames


def der_cost(
    width_scales: Sequence[float],
    sparsities: Sequence[float],
    rounds: int = 5,
    updates: int = 2,
    device: str = "auto",
) -> list[DerCost]:
    """
    Time the updates of all contenders in turn, round by round, so that a machine whose speed drifts is fair to all. A CPU is
    used by one thread.

    :param width_scales: Width scales of the encoder
    :param sparsities: Sparsities of our network
    :param rounds: Timed rounds, after one that is not
    :param updates: Updates per round
    :param device: Device
    :raises ValueError: if a number is out of range.
    """
    check_integer("rounds", rounds)
    check_integer("updates", updates)
    for sparsity in sparsities:
        check_sparsity(sparsity)
    name = prepare(device)
    return [cost for width in width_scales for cost in _costs_of_width(width, sparsities, rounds, updates, device, name)]


def format_der_table(costs: Sequence[DerCost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    return markdown_table(
        "width | variant | parameters | ms per update: median (min to max) | plain / this",
        (
            [f"x{c.width_scale:g}", c.variant, f"{c.parameters:,}", spread(c.update_ms, ".1f"), f"{c.speedup:.2f}"]
            for c in costs
        ),
    )


def _costs_of_width(
    width: float, sparsities: Sequence[float], rounds: int, updates: int, device: str, device_name: str
) -> list[DerCost]:
    variants = {PLAIN: _plain(width, updates, device)}
    variants |= {f"DER, S={sparsity:g}": _ours(width, sparsity, updates, device) for sparsity in sparsities}
    works = {name: update for name, (update, _) in variants.items()}
    times = in_turn(works, rounds, lambda work: 1e3 * seconds(work, device) / updates)
    return [
        DerCost(width, name, device_name, variants[name][1], own, median_ratio(times[PLAIN], own))
        for name, own in times.items()
    ]


def _plain(width: float, updates: int, device: str) -> tuple[Callable[[], Any], int]:
    agent, kind = PlainRainbow(ACTIONS, width, device=get_device(device)), get_device(device)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (_TRANSITIONS, FRAMES, 84, 84), np.uint8)

    def update() -> None:
        for _ in range(updates):
            now, later = rng.integers(_TRANSITIONS, size=(2, BATCH_SIZE))
            observations, following = (th.from_numpy(frames[chosen]).to(kind) for chosen in (now, later))
            actions = th.from_numpy(rng.integers(ACTIONS, size=BATCH_SIZE)).to(kind)
            ones = th.ones(BATCH_SIZE, device=kind)
            agent.update(PlainBatch(observations, actions, following, ones, 0.9 * ones, ones))

    return update, sum(parameter.numel() for parameter in agent.online.parameters())


def _ours(width: float, sparsity: float, updates: int, device: str) -> tuple[Callable[[], Any], int]:
    kwargs = {"width_scale": width, "sparsity": sparsity}
    model = DER("CnnPolicy", RandomFrames(), buffer_size=_TRANSITIONS, policy_kwargs=kwargs, seed=0, device=device)
    model.learning_starts = _TRANSITIONS
    model.set_logger(configure(None, []))
    model.learn(_TRANSITIONS)  # fills the buffer
    if model.device.type == "cuda":
        for _ in range(2):  # at first the optimizer's state is made, whereupon the update is captured anew
            model.train(WARM_UPS + 1, BATCH_SIZE)
    return lambda: model.train(updates, BATCH_SIZE), sum(parameter.numel() for parameter in model.q_net.parameters())
