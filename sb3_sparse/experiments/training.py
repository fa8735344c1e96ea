"""One training run of SAC or DrQ-v2 with evaluations: what the quickstart and the learning curves are made of."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_sparse.envs  # noqa: F401, registers the DeepMind Control Suite
from sb3_sparse.callbacks import PlasticityCallback
from sb3_sparse.callbacks.measurement_file import read_measurements
from sb3_sparse.common.hyperparameters import hyperparameters
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy

# SB3's seeds for evaluation environments must not be those of training.
EVALUATION_SEED_OFFSET = 10_000
PROGRESS_FREQ = 50  # agent steps between two reports


@dataclass(frozen=True)
class TrainingRun:
    """
    What to train and for how long.

    :param task: Environment id
    :param network: "simba" (this package's policy), "mlp" (SB3's ``MlpPolicy`` with SB3's own defaults), or "drqv2" (DrQ-v2
        from pixels)
    :param sparsity: Sparsity of actor and critic, in DrQ-v2 of the critic
    :param width_scale: Width scale w of SimBa, in DrQ-v2 of the critic
    :param seed: Seed of everything
    :param agent_steps: Length of the run in agent steps
    :param eval_freq: Agent steps between two evaluations
    :param eval_episodes: Episodes per evaluation
    :param learning_starts: Random agent steps before the first update
    :param gradient_steps: Updates per agent step; DrQ-v2 makes one per two agent steps
    :param learning_rate: Learning rate of our networks; the paper's is 1e-4
    :param batch_size: Batch size of our networks
    :param n_steps: Steps whose rewards DrQ-v2 sums
    :param stddev_schedule: Exploration noise of DrQ-v2, in agent steps
    :param device: Device to train on
    :param measures: Whether plasticity is measured at every evaluation
    """

    task: str
    network: str = "simba"
    sparsity: float = 0.0
    width_scale: float = 1.0
    seed: int = 0
    agent_steps: int = 500_000
    eval_freq: int = 5_000
    eval_episodes: int = 10
    learning_starts: int = 5_000
    gradient_steps: int = 2
    learning_rate: float = 1e-4
    batch_size: int = 256
    n_steps: int = 3
    stddev_schedule: str = "linear(1.0, 0.1, 500000)"
    device: str = "cpu"
    measures: bool = False

    @property
    def label(self) -> str:
        """Short name of the network for legends and file names."""
        if self.network == "mlp":
            return "mlp"
        if self.network == "drqv2":
            return f"drqv2-x{self.width_scale:g}-" + (f"S{self.sparsity:g}" if self.sparsity > 0 else "dense")
        return f"simba-S{self.sparsity:g}" if self.sparsity > 0 else "simba-dense"

    @property
    def algo(self) -> str:
        """The zoo's name of the algorithm."""
        return "drqv2" if self.network == "drqv2" else "sac"

    @property
    def updates_per_agent_step(self) -> float:
        """Updates per agent step."""
        return 0.5 if self.network == "drqv2" else self.gradient_steps


@dataclass(frozen=True)
class Evaluation:
    """
    One evaluation.

    :param agent_steps: Agent steps of training before it
    :param mean_return: Mean undiscounted return over the episodes
    :param std_return: Their standard deviation
    :param critic: What was measured of the critic at that time, name -> value
    """

    agent_steps: int
    mean_return: float
    std_return: float
    critic: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """
    What came out of a run.

    :param run: The run
    :param evaluations: In order of time, the untrained policy first
    :param cpu_seconds: Process time of the whole run
    """

    run: TrainingRun
    evaluations: tuple[Evaluation, ...]
    cpu_seconds: float


def train(run: TrainingRun, folder: Path, on_progress: Callable[[int], None] = lambda step: None) -> TrainingResult:
    """
    Train, evaluate and save a model; uses one CPU thread, and TF32 on a GPU.

    :param run: What to train
    :param folder: Gets ``model.zip``, ``best_model.zip``, ``evaluations.npz``, ``monitor.csv`` and ``progress.csv``
    :param on_progress: Called with the number of agent steps done
    :return: The evaluations
    """
    th.set_num_threads(1)
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    env = Monitor(gym.make(run.task), str(folder / "monitor.csv"))
    eval_env = make_vec_env(run.task, n_envs=run.eval_episodes, seed=run.seed + EVALUATION_SEED_OFFSET)
    model = make_model(run, env)
    model.set_logger(configure(str(folder), ["csv"]))
    untrained = Evaluation(0, *_evaluate(model, eval_env, run.eval_episodes))
    evaluations = EvalCallback(
        eval_env,
        n_eval_episodes=run.eval_episodes,
        eval_freq=run.eval_freq,
        log_path=str(folder),
        best_model_save_path=str(folder),
        verbose=0,
    )
    callbacks: list[BaseCallback] = [evaluations, _Progress(on_progress)]
    if run.measures:
        callbacks.append(PlasticityCallback(log_freq=run.eval_freq, path=folder / "plasticity.csv"))
    model.learn(run.agent_steps, callback=CallbackList(callbacks))
    model.save(folder / "model.zip")
    env.close()
    eval_env.close()
    measured = _measured(folder / "plasticity.csv") if run.measures else {}
    curve = [
        Evaluation(int(step), float(np.mean(returns)), float(np.std(returns)), measured.get(int(step), {}))
        for step, returns in zip(evaluations.evaluations_timesteps, evaluations.evaluations_results, strict=True)
    ]
    return TrainingResult(run, (untrained, *curve), time.process_time() - start)


def make_model(run: TrainingRun, env: gym.Env) -> OffPolicyAlgorithm:
    """
    Build the model of a run.

    :param run: What to train
    :param env: Environment
    :raises ValueError: for an unknown network.
    """
    if run.network == "drqv2":
        return _make_drqv2(run, env)
    arguments = hyperparameters("sac", env)
    arguments.update(
        buffer_size=min(arguments["buffer_size"], run.agent_steps),
        learning_starts=run.learning_starts,
        gradient_steps=run.gradient_steps,
        learning_rate=run.learning_rate,
        batch_size=run.batch_size,
    )
    if run.network == "simba":
        policy_kwargs = {"sparsity": run.sparsity, "width_scale": run.width_scale}
        arguments.update(seed=run.seed, device=run.device, matmul_precision="high")
        return SAC(SparseSimBaPolicy, env, policy_kwargs=policy_kwargs, **arguments)
    if run.network == "mlp":
        shared = ("buffer_size", "learning_starts", "gradient_steps", "gamma")
        stock = {name: arguments[name] for name in shared}
        return stable_baselines3.SAC("MlpPolicy", env, seed=run.seed, device=run.device, **stock)
    raise ValueError(f"Unknown network {run.network!r}: choose 'simba', 'mlp' or 'drqv2'.")


def _make_drqv2(run: TrainingRun, env: gym.Env) -> DrQv2:
    return DrQv2(
        "CnnPolicy",
        env,
        learning_rate=run.learning_rate,
        buffer_size=min(1_000_000, run.agent_steps),
        learning_starts=run.learning_starts,
        batch_size=run.batch_size,
        n_steps=run.n_steps,
        stddev_schedule=run.stddev_schedule,
        matmul_precision="high",
        policy_kwargs={"sparsity": run.sparsity, "width_scale": run.width_scale},
        seed=run.seed,
        device=run.device,
    )


def random_return(task: str, episodes: int, seed: int = 0) -> tuple[float, float]:
    """
    Return of a policy that draws its actions uniformly.

    :param task: Environment id
    :param episodes: Number of episodes
    :param seed: Seed of environment and actions
    :return: Mean and standard deviation over the episodes
    """
    env = gym.make(task)
    env.action_space.seed(seed)
    returns = [_random_episode(env, seed + i) for i in range(episodes)]
    env.close()
    return float(np.mean(returns)), float(np.std(returns))


def action_repeat(task: str) -> int:
    """
    Environment steps per agent step, with which results are counted.

    :param task: Environment id
    """
    env: Any = gym.make(task)
    repeat = getattr(env.unwrapped, "action_repeat", 1)
    env.close()
    return repeat


class _Progress(BaseCallback):
    def __init__(self, on_progress: Callable[[int], None]):
        super().__init__()
        self.on_progress = on_progress

    def _on_step(self) -> bool:
        if self.n_calls % PROGRESS_FREQ == 0:
            self.on_progress(self.num_timesteps)
        return True


def _evaluate(model: OffPolicyAlgorithm, env: VecEnv, episodes: int) -> tuple[float, float]:
    returns, _ = evaluate_policy(model, env, episodes, return_episode_rewards=True)
    return float(np.mean(returns)), float(np.std(returns))


def _measured(path: Path) -> dict[int, dict[str, float]]:
    """Agent steps -> what was measured of the whole critic, name -> value."""
    found: dict[int, dict[str, float]] = {}
    for line in read_measurements(path):
        if line.network == "critic" and not line.layer:
            found.setdefault(line.agent_steps, {})[line.metric] = line.value
    return found


def _random_episode(env: gym.Env, seed: int) -> float:
    env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total += float(reward)
        over = terminated or truncated
    return total
