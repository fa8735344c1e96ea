"""Cost of one update of DrQ-v2: plain torch against ours, dense and sparse, narrow and wide, in one run."""

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import get_device

from sb3_sparse.experiments.markdown_table import markdown_table, spread
from sb3_sparse.arguments import check_integer
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.experiments.benchmarks.plain_drqv2 import PlainBatch, PlainDrQv2
from sb3_sparse.experiments.benchmarks.timing import in_turn, median_ratio, prepare, seconds
from sb3_sparse.training.held_objects import all_optimizers
from sb3_sparse.training.programs import WARM_UPS

PLAIN = "plain torch, dense"
# Of quadruped's pixels.
IMAGE, ACTION_DIM = (9, 84, 84), 12
FRAMES, STDDEV = 3, 0.5
EPISODE, EPISODES = 100, 5


class StillEnv(gym.Env):
    """Images and actions of quadruped's shapes, at no cost."""

    frame_stack = FRAMES
    observation_space = spaces.Box(0, 255, IMAGE, np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """
        :param seed: Not used
        :param options: Not used
        """
        return np.zeros(IMAGE, np.uint8), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """
        :param action: Not used
        """
        return np.zeros(IMAGE, np.uint8), 0.0, False, False, {}


@dataclass(frozen=True)
class DrQv2Cost:
    """
    Cost of one variant: process time on a CPU, time until the GPU is done on a GPU; sampling included.

    :param width_scale: Width scale of the critic
    :param variant: "plain torch, dense", or how ours is run and its sparsity
    :param device: Name of the device
    :param batch_size: Transitions in a batch
    :param parameters: Trainable parameters
    :param update_ms: Milliseconds of one update in each round
    :param speedup: Median over rounds of the plain variant's time at this width divided by this one's
    """

    width_scale: float
    variant: str
    device: str
    batch_size: int
    parameters: int
    update_ms: Sequence[float]
    speedup: float


@dataclass(frozen=True)
class _Contender:
    width_scale: float
    variant: str
    parameters: int
    work: Callable[[int], Any]


def drqv2_cost(
    width_scales: Sequence[float],
    sparsities: Sequence[float],
    rounds: int = 5,
    updates: int = 1,
    batch_size: int = 256,
    device: str = "auto",
) -> list[DrQv2Cost]:
    """
    Time all variants in turn, round by round, so that a machine whose speed drifts is fair to all. On a GPU, torch's matrix
    products use TF32, those of the plain variant as well.

    :param width_scales: Width scales of the critic
    :param sparsities: Sparsities of ours
    :param rounds: Timed rounds, after one that is not
    :param updates: Updates per round
    :param batch_size: Transitions in a batch
    :param device: Device
    :return: Costs, of each width the plain variant first
    :raises ValueError: if a number is not positive.
    """
    for name, number in {"rounds": rounds, "updates": updates, "batch_size": batch_size}.items():
        check_integer(name, number)
    name = prepare(device)
    contenders = [c for width in width_scales for c in _contenders(width, sparsities, batch_size, device)]
    for contender in contenders:
        contender.work(1 if name == "CPU" else 2 * WARM_UPS + 2)
    works = {contender: functools.partial(contender.work, updates) for contender in contenders}
    times = in_turn(works, rounds, lambda work: 1e3 * seconds(work, device) / updates)
    plain = {c.width_scale: own for c, own in times.items() if c.variant == PLAIN}
    return [
        DrQv2Cost(c.width_scale, c.variant, name, batch_size, c.parameters, own, median_ratio(plain[c.width_scale], own))
        for c, own in times.items()
    ]


def format_drqv2_table(costs: Sequence[DrQv2Cost]) -> str:
    """
    :param costs: Measured costs
    :return: Markdown table
    """
    titles = "critic's width | variant | trainable parameters | ms per update: median (min to max) | updates/s | plain / this"
    return markdown_table(titles, map(_cells, costs))


def _cells(cost: DrQv2Cost) -> list[str]:
    per_second = f"{1e3 / statistics.median(cost.update_ms):.2f}"
    middle = [f"{cost.parameters:,}", spread(cost.update_ms, ".1f"), per_second]
    return [f"x{cost.width_scale:g}", cost.variant, *middle, f"{cost.speedup:.2f}"]


class _EagerDrQv2(DrQv2):
    """Ours without CUDA graphs."""

    def _uses_graphs(self) -> bool:
        return False


def _contenders(width: float, sparsities: Sequence[float], batch_size: int, device: str) -> list[_Contender]:
    # The policy's checks come before the plain variant, which has none.
    ours = [c for sparsity in sparsities for c in _ours(width, sparsity, batch_size, device)]
    return [_plain(width, batch_size, device), *ours]


def _ours(width: float, sparsity: float, batch_size: int, device: str) -> list[_Contender]:
    ways: dict[str, type[DrQv2]] = {"ours": DrQv2}
    if get_device(device).type == "cuda":
        ways = {"ours, kernel by kernel": _EagerDrQv2, "ours, compiled": DrQv2}
    policy_kwargs = {"width_scale": width, "sparsity": sparsity, "mask_seed": 0}
    found = []
    for way, model_class in ways.items():
        model = _model(model_class, device, policy_kwargs)
        count = sum(p.numel() for o in all_optimizers(model) for group in o.param_groups for p in group["params"])
        work = functools.partial(model.train, batch_size=batch_size)
        found.append(_Contender(width, f"{way}, S={sparsity:g}", count, work))
    return found


def _model(model_class: type[DrQv2], device: str, policy_kwargs: dict[str, Any]) -> DrQv2:
    """A model with a filled replay buffer."""
    model = model_class("CnnPolicy", StillEnv(), buffer_size=1_000, policy_kwargs=policy_kwargs, seed=0, device=device)
    model.set_logger(configure(None, []))
    _fill(model)
    return model


def _fill(model: DrQv2) -> None:
    """Store episodes of noise, of which each frame is another."""
    rng = np.random.default_rng(0)
    colours, height, width = IMAGE[0] // FRAMES, *IMAGE[1:]
    for _ in range(EPISODES):
        frames = rng.integers(0, 256, (EPISODE + FRAMES, colours, height, width), np.uint8)
        for i in range(EPISODE):
            stack, following = (np.concatenate(frames[j : j + FRAMES])[None] for j in (i, i + 1))
            action = rng.uniform(-1.0, 1.0, (1, ACTION_DIM)).astype(np.float32)
            last = np.array([i == EPISODE - 1])
            info = {"TimeLimit.truncated": bool(last[0])}
            model.replay_buffer.add(stack, following, action, rng.random(1), last, [info])  # type: ignore[union-attr]


def _plain(width: float, batch_size: int, device: str) -> _Contender:
    small = {"hidden_dim": 1, "features_extractor_kwargs": {"channels": 1}}
    buffer: Any = _model(DrQv2, device, small).replay_buffer
    agent = PlainDrQv2(critic_width=round(1024 * width), device=get_device(device))
    count = sum(p.numel() for optimizer in agent.optimizers for group in optimizer.param_groups for p in group["params"])

    def work(updates: int) -> None:
        for _ in range(updates):
            sample = buffer.sample(batch_size)
            discounts = sample.discounts * (1 - sample.dones)
            batch = PlainBatch(sample.observations, sample.actions, sample.rewards, discounts, sample.next_observations)
            agent.update(batch, STDDEV)

    return _Contender(width, PLAIN, count, work)
