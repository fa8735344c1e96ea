"""Cost of one step of Stream AC: plain autograd against our back ends, dense and sparse, in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_sparse.experiments.markdown_table import markdown_table, spread
from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.benchmarks.plain_stream_ac import PlainStreamAC, plain_environment, plain_training
from sb3_sparse.experiments.benchmarks.timing import in_turn, median_ratio
from sb3_sparse.stream_ac import StreamAC, StreamACPolicy
from sb3_sparse.stream_ac.learner import Learner
from sb3_sparse.stream_ac.torch_learner import TorchLearner

# Sizes of HalfCheetah and Walker2d, with the time feature.
OBSERVATION_DIM, ACTION_DIM = 18, 6
PLAIN = "plain autograd, dense"
# Steps of the slow variants in one round, which take about a quarter of a second at width 128.
STEPS = 300
# Compiled ones are so much faster that they are timed over more steps.
_MORE = 10


@dataclass(frozen=True)
class StreamCost:
    """
    Speed of one variant, in process time.

    :param width: Width of actor and critic
    :param what: "agent" (one action, one update) or the environment's id (training, all included)
    :param variant: "plain autograd, dense", or back end and sparsity
    :param steps_per_second: Steps per second of process time in each round
    :param speedup: Median over rounds of this speed divided by that of the plain agent
    """

    width: int
    what: str
    variant: str
    steps_per_second: Sequence[float]
    speedup: float


def stream_cost(
    widths: Sequence[int], sparsities: Sequence[float], rounds: int, task: str | None, steps: int = STEPS
) -> list[StreamCost]:
    """
    Time all variants in turn, round by round, so that a machine whose speed drifts is fair to all.

    :param widths: Widths
    :param sparsities: Sparsities of the numba back end
    :param rounds: Timed rounds, after one that is not
    :param task: Environment that whole training is timed with, at each width; None for none
    :param steps: Steps per round of plain agent and torch back end; the compiled one takes ten times as many
    :return: Speeds, the plain agent first
    """
    import_extra("numba", "streaming")
    if task is not None:
        gym.make(task).close()  # what is wrong with it shall not come out after minutes
    th.set_num_threads(1)
    costs = []
    for width in widths:
        costs += _in_turn(width, "agent", _agents(width, sparsities), rounds, steps)
        if task is not None:
            costs += _in_turn(width, task, _trainings(task, width, sparsities), rounds, steps)
    return costs


def format_stream_table(costs: Sequence[StreamCost]) -> str:
    """
    :param costs: Measured speeds
    :return: Markdown table
    """
    return markdown_table(
        "width | what | variant | steps per second: median (min to max) | speed-up",
        ([str(c.width), c.what, c.variant, spread(c.steps_per_second, ",.0f"), f"{c.speedup:.1f}"] for c in costs),
    )


# Takes a number of steps.
Work = Callable[[int], None]


def _in_turn(width: int, what: str, variants: Mapping[str, Work], rounds: int, steps: int) -> list[StreamCost]:
    counts = {name: _MORE * steps if name.startswith("numba") else steps for name in variants}
    times = in_turn({name: partial(work, counts[name]) for name, work in variants.items()}, rounds)
    speeds = {name: [counts[name] / each for each in own] for name, own in times.items()}
    return [StreamCost(width, what, name, own, median_ratio(own, speeds[PLAIN])) for name, own in speeds.items()]


def _agents(width: int, sparsities: Sequence[float]) -> dict[str, Work]:
    from sb3_sparse.stream_ac.numba_learner import NumbaLearner

    # The policy's checks come before the plain agent, which has none.
    ours = {"torch, S=0": _agent(TorchLearner, width, 0.0)}
    ours.update({f"numba, S={s:g}": _agent(NumbaLearner, width, s) for s in sparsities})
    return {PLAIN: _plain_agent(width), **ours}


def _plain_agent(width: int) -> Work:
    agent, observations = PlainStreamAC(OBSERVATION_DIM, ACTION_DIM, width), _observations()

    def work(steps: int) -> None:
        for i in range(steps):
            observation, following = observations[i % 1_000 : i % 1_000 + 2]
            agent.learn(observation, agent.act(observation), 0.3, following, i % 1_000 == 999)

    return work


def _agent(learner_class: Callable[[StreamACPolicy, float, float], Learner], width: int, sparsity: float) -> Work:
    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    policy = StreamACPolicy(observation_space, action_space, lambda _: 1.0, width=width, sparsity=sparsity)
    learner, observations, rng = learner_class(policy, 0.99, 0.01), _observations(), np.random.default_rng(0)

    def work(steps: int) -> None:
        features = learner.observe(observations[0])
        for i in range(steps):
            action = learner.act(features, rng.standard_normal(ACTION_DIM, dtype=np.float32))
            following = learner.observe(observations[i % 1_000 + 1])
            learner.learn(features, action, 0.3, following, i % 1_000 != 999, i % 1_000 == 999)
            features = following

    return work


def _observations() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1_001, OBSERVATION_DIM))


def _trainings(task: str, width: int, sparsities: Sequence[float]) -> dict[str, Work]:
    env = plain_environment(gym.make(task))
    assert env.observation_space.shape is not None and env.action_space.shape is not None
    agent = PlainStreamAC(env.observation_space.shape[0] + 1, env.action_space.shape[0], width)
    variants: dict[str, Work] = {PLAIN: lambda steps: plain_training(env, agent, steps)}
    for sparsity in sparsities:
        kwargs = {"width": width, "sparsity": sparsity}
        model = StreamAC("MlpPolicy", gym.make(task), policy_kwargs=kwargs, backend="numba", seed=0)
        variants[f"numba, S={sparsity:g}"] = lambda steps, model=model: _train(model, steps)  # type: ignore[misc]
    return variants


def _train(model: StreamAC, steps: int) -> None:
    model.learn(steps, reset_num_timesteps=False)
