"""Environment steps per second of whole training loops, environment included."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device

import sb3_sparse.envs  # noqa: F401, registers the DeepMind Control Suite
from sb3_sparse.experiments.markdown_table import markdown_table
from sb3_sparse.arguments import check_continuous
from sb3_sparse.experiments.benchmarks.contenders import Contender
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.experiments.benchmarks.timing import prepare

WARM_UP = 150


@dataclass(frozen=True)
class LoopCost:
    """
    Speed of one contender's training loop.

    :param width_scale: Width scale w
    :param variant: Name of the contender
    :param env_id: Id of the environment
    :param updates: Updates per agent step
    :param steps_per_second: Environment steps (frames) per second of process time on a CPU, of time on a GPU
    """

    width_scale: float
    variant: str
    env_id: str
    updates: int
    steps_per_second: float


class _Clock(BaseCallback):
    """Takes the time from the step on at which updates are warm."""

    def __init__(self, device: str):
        super().__init__()
        self.clock = time.perf_counter if device == "cuda" else time.process_time
        self.start = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps == WARM_UP:
            self.start = self.clock()
        return True


def check_loop(env_id: str) -> None:
    """
    Refuse an environment before anything is measured.

    :param env_id: Id of the environment
    :raises gymnasium.error.Error: if there is none of this id.
    :raises ValueError: if its actions are not continuous.
    """
    env = gym.make(env_id)
    check_continuous(env.action_space, f"--loop {env_id}: SAC needs")
    env.close()


def loop_cost(contender: Contender, env_id: str, agent_steps: int, device: str = "auto", updates: int = 2) -> LoopCost:
    """
    Train and take the time of the last part.

    :param contender: What to train
    :param env_id: Id of the environment
    :param agent_steps: Agent steps that are timed, after 150 that are not
    :param device: Device
    :param updates: Updates per agent step
    """
    env = gym.make(env_id)
    prepare(device)
    sizes = {"learning_starts": WARM_UP - 50, "buffer_size": WARM_UP + agent_steps, "gradient_steps": updates}
    model = contender.build(env, device, **sizes)
    clock = _Clock(get_device(device).type)
    model.learn(WARM_UP + agent_steps, callback=clock)
    seconds = clock.clock() - clock.start
    env.close()
    frames = agent_steps * action_repeat(env_id)
    return LoopCost(contender.width_scale, contender.variant, env_id, updates, frames / seconds)


def format_loops(costs: Sequence[LoopCost]) -> str:
    """
    :param costs: Measured speeds, stock SB3 first for every width
    :return: Markdown table
    """
    rows: list[list[str]] = []
    base: dict[float, float] = {}
    for cost in costs:
        base.setdefault(cost.width_scale, cost.steps_per_second)
        ratio = cost.steps_per_second / base[cost.width_scale]
        speed = f"{cost.steps_per_second:.0f}"
        rows.append([f"{cost.width_scale:g}", cost.variant, cost.env_id, str(cost.updates), speed, f"{ratio:.2f}"])
    return markdown_table("w | variant | environment | updates per agent step | environment steps/s | this / SB3", rows)
