"""Cost of learning from images beside the networks: rendering, sending observations, storing and sampling them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.arguments import check_integer
from sb3_sparse.buffers.frame_layout import FrameLayout
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.envs import env_id
from sb3_sparse.experiments.benchmarks.timing import in_turn

TASKS = (("cartpole", "swingup"), ("walker", "walk"), ("quadruped", "run"))
# DrQ-v2's, at the replay capacity of quadruped-run for the bytes, and at one that every machine has for the time.
STACK, IMAGE, BATCH_SIZE, N_STEPS = 3, (3, 84, 84), 256, 3
CAPACITY, FILLED = 100_000, 10_000
PIXELS = spaces.Box(0, 255, (STACK * IMAGE[0], *IMAGE[1:]), np.uint8)
ACTIONS = spaces.Box(-1.0, 1.0, (12,), np.float32)
# Of each kind of work, in one round.
STEPS = BATCHES = 20
TRANSFERS = 200


@dataclass(frozen=True)
class PixelCost:
    """
    One figure, of process time where it is one of time.

    :param what: What was measured
    :param variant: Of which kind
    :param unit: Unit of the values
    :param values: One of each round
    """

    what: str
    variant: str
    unit: str
    values: Sequence[float]


def pixel_cost(
    rounds: int = 5, tasks: Sequence[tuple[str, str]] = TASKS, steps: int = STEPS, filled: int = FILLED
) -> list[PixelCost]:
    """
    Measure environments, transfer and replay buffer, each kind of work in turn with the others of its kind.

    :param rounds: Timed rounds, after one that is not
    :param tasks: Domains and tasks of the Control Suite
    :param steps: Agent steps of each environment in a round
    :param filled: Transitions in the buffer that is sampled
    :return: The figures
    :raises ValueError: if a number is not positive.
    :raises sb3_sparse.envs.NoRendererError: if there is nothing to draw with.
    """
    for name, number in {"rounds": rounds, "steps": steps, "filled": filled}.items():
        check_integer(name, number)
    th.set_num_threads(1)
    return [*_environments(tasks, rounds, steps), *_transfer(rounds), *_memory(), *_buffer(rounds, filled)]


def format_pixels(costs: Sequence[PixelCost]) -> str:
    """
    :param costs: Figures
    :return: Markdown table
    """
    rows = []
    for cost in costs:
        middle, least, most = map(_readable, (statistics.median(cost.values), min(cost.values), max(cost.values)))
        others = f" ({least} to {most})" if len(cost.values) > 1 else ""
        rows.append([cost.what, cost.variant, f"{middle}{others}", cost.unit])
    return markdown_table("what | variant | median (min to max) | unit", rows)


def _readable(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _environments(tasks: Sequence[tuple[str, str]], rounds: int, steps: int) -> list[PixelCost]:
    costs = []
    for domain, task in tasks:
        works = {name: _stepping(domain, task, fast, steps) for name, fast in (("exact", False), ("fast_rendering", True))}
        for name, seconds in in_turn(works, rounds).items():
            costs.append(PixelCost(f"{domain}-{task}", name, "agent steps/s", [steps / each for each in seconds]))
    return costs


def _stepping(domain: str, task: str, fast: bool, steps: int) -> Callable[[], None]:
    env = gym.make(env_id(domain, task, pixels=True), fast_rendering=fast)
    env.action_space.seed(0)
    env.reset(seed=0)

    def work() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return work


def _transfer(rounds: int) -> list[PixelCost]:
    """What SB3's SubprocVecEnv does with an observation: pickle it, send it through a pipe, unpickle it."""
    one, other = Pipe()
    observation = np.random.default_rng(0).integers(0, 256, PIXELS.shape).astype(np.uint8)

    def work() -> None:
        for _ in range(TRANSFERS):
            one.send(observation)
            other.recv()

    seconds = in_turn({"pickled through a pipe": work}, rounds)
    return [
        PixelCost("sending an observation", name, "us", [1e6 * s / TRANSFERS for s in each]) for name, each in seconds.items()
    ]


def _memory() -> list[PixelCost]:
    ours = FrameLayout.of(CAPACITY, PIXELS, ACTIONS, frame_stack=STACK).nbytes / CAPACITY
    stock = ReplayBuffer(1, PIXELS, ACTIONS, "cpu")
    arrays = (stock.observations, stock.next_observations, stock.actions, stock.rewards, stock.dones, stock.timeouts)
    theirs = float(sum(array.nbytes for array in arrays))
    return [
        PixelCost("a transition", name, "bytes", [size])
        for name, size in (("FrameReplayBuffer", ours), ("SB3's ReplayBuffer", theirs))
    ]


def _buffer(rounds: int, filled: int) -> list[PixelCost]:
    buffer = FrameReplayBuffer(filled, PIXELS, ACTIONS, "cpu", frame_stack=STACK, n_steps=N_STEPS, partial_returns=False)
    add = _filling(buffer, filled)
    add()
    works = {"FrameReplayBuffer.sample": lambda: buffer.sample(BATCH_SIZE), "numpy.take of its frames": _taking(filled)}
    costs = []
    for name, seconds in in_turn({key: _repeated(work, BATCHES) for key, work in works.items()}, rounds).items():
        milliseconds = [1e3 * each / BATCHES for each in seconds]
        gigabytes = 2 * BATCH_SIZE * np.prod(PIXELS.shape) / 1e9
        costs.append(PixelCost(f"a batch of {BATCH_SIZE}", name, "ms", milliseconds))
        costs.append(PixelCost(f"a batch of {BATCH_SIZE}", name, "GB/s", [1e3 * gigabytes / ms for ms in milliseconds]))
    (adding,) = in_turn({"": add}, rounds).values()
    return [*costs, PixelCost("a transition", "FrameReplayBuffer.add", "us", [1e6 * each / filled for each in adding])]


def _repeated(work: Callable[[], Any], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            work()

    return repeated


def _filling(buffer: FrameReplayBuffer, count: int, episode: int = 500) -> Callable[[], None]:
    """Episodes of the suite's length; frames come from a few, as drawing random ones takes longer than storing them."""
    frames = np.random.default_rng(0).integers(0, 256, (61, *IMAGE)).astype(np.uint8)
    stacks = [np.concatenate([frames[(i + j) % len(frames)] for j in range(STACK)])[None] for i in range(len(frames))]
    action, reward = np.zeros((1, *(ACTIONS.shape or ()))), np.ones(1)

    def work() -> None:
        for step in range(count):
            done = step % episode == episode - 1
            following = stacks[(step + 1) % len(stacks)]
            infos = [{"TimeLimit.truncated": done, "discount": 1.0}]
            buffer.add(stacks[step % len(stacks)], following, action, reward, np.array([done]), infos)

    return work


def _taking(filled: int) -> Callable[[], Any]:
    """The least that a batch can cost: its frames copied to memory that is there already."""
    store = np.ones((filled, *IMAGE), np.uint8)
    batch = np.empty((2 * BATCH_SIZE * STACK, *IMAGE), np.uint8)
    rng = np.random.default_rng(0)
    return lambda: np.take(store, rng.integers(0, filled, len(batch)), axis=0, out=batch, mode="clip")
