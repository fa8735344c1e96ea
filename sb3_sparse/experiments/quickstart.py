"""The quickstart: a sparse and a dense agent side by side on a real task, in minutes on two CPU cores."""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_sparse.common.continuous_actions import check_continuous
from sb3_sparse.common.extras import import_extra
from sb3_sparse.envs import env_id
from sb3_sparse.experiments.figures.grid_figures import draw_figure
from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import Evaluation, GridRun
from sb3_sparse.experiments.sweep.outcome import Train
from sb3_sparse.experiments.sweep.places import Processes
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder
from sb3_sparse.experiments.sweep.sweep import sweep
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.sparsity import summary
from sb3_sparse.zoo.run_folders import RunFolder

TASK = env_id("walker", "walk")
RANDOM_EPISODES = 10
MIN_STEPS = 100  # agent steps of a run, and between two evaluations


@dataclass(frozen=True)
class Quickstart:
    """
    Settings of the quickstart. They deviate from the paper's (which take hours on a CPU) towards a quick start: a small
    network, a higher learning rate, smaller batches, fewer random steps, one update per agent step.

    :param task: Environment id
    :param sparsity: Sparsity of the sparse agent
    :param width_scale: Width scale of both agents
    :param agent_steps: Length of the runs
    :param seed: Seed of both runs
    :param folder: Where everything is written
    """

    task: str = TASK
    sparsity: float = 0.5
    width_scale: float = 0.125
    agent_steps: int = 25_000
    seed: int = 0
    folder: Path = Path("runs/quickstart")

    def grid(self) -> Grid:
        """The sparse and the dense run."""
        runs = (self._run(self.sparsity), self._run(0.0))
        return Grid("quickstart", None, f"SAC on {self.task}, sparse and dense", runs)

    def _run(self, sparsity: float) -> GridRun:
        return GridRun(
            algorithm="sac",
            task=self.task,
            policy={"width_scale": self.width_scale, "sparsity": sparsity},
            seed=self.seed,
            agent_steps=self.agent_steps,
            evaluation=Evaluation(max(MIN_STEPS, self.agent_steps // 10), 5),
            hyperparameters={
                "policy": "sb3_sparse.SparseSimBaPolicy",
                "learning_starts": min(1_000, self.agent_steps // 4),
                "gradient_steps": 1,
                "learning_rate": 1e-3,
                "batch_size": 128,
            },
        )


def quickstart(settings: Quickstart, train: Train) -> None:
    """
    Train both agents, evaluate and save them, draw their learning curves, and print what came out.

    :param settings: What to train
    :param train: Trains a run
    :raises ImportError: if an extra is missing, before anything is trained.
    :raises SweepError: if a run failed.
    """
    for module, extra in {"matplotlib": "plots", "rich": "progress"}.items():
        import_extra(module, extra)
    _check(settings)
    grid = settings.grid()
    folder = sweep(grid, settings.folder, Processes(device="cpu"), train)
    results = GridResults.of(grid, settings.folder)
    figure = draw_figure(results, settings.folder / "runs", folder.figures / grid.name)[0]
    _report(settings, results, folder)
    print(f"\nLearning curves: {figure}\nResults table:   {folder.table}")


def _check(settings: Quickstart) -> None:
    """Build what the processes will build, so that bad settings are refused before they start."""
    if settings.agent_steps < MIN_STEPS:
        raise ValueError(f"agent_steps must be at least {MIN_STEPS}, got {settings.agent_steps}.")
    for run in settings.grid().runs:
        env = gym.make(run.task)
        check_continuous(env.action_space, f"--env {run.task}: the quickstart trains SAC, which needs")
        SAC(SparseSimBaPolicy, env, policy_kwargs=dict(run.policy), buffer_size=1, device="cpu")
        env.close()


def _report(settings: Quickstart, results: GridResults, folder: ResultsFolder) -> None:
    sparse, _ = settings.grid().runs
    model = SAC.load(_model_file(folder, sparse), device="cpu")
    print("\nThe sparse agent's networks:\n")
    for name in ("actor", "critic"):
        print(f"{name}\n{summary(getattr(model.policy, name))}\n")
    print(
        f"{'agent':<20}{'parameters':>12}{'return at the end':>20}{'environment steps':>20}{'CPU seconds':>13}   saved model"
    )
    print(f"{'random actions':<20}{'':>12}{_plus_minus(*random_return(settings.task, RANDOM_EPISODES, settings.seed)):>20}")
    for run in results.grid.runs:
        last = results.lines[run.id][-1]
        print(
            f"{run.label:<20}{int(last['active_parameters']):>12,}"
            f"{_plus_minus(float(last['return_mean']), float(last['return_std'])):>20}"
            f"{int(last['env_steps']):>20,}{float(last['cpu_seconds']):>13.0f}   {_model_file(folder, run)}"
        )


def _model_file(folder: ResultsFolder, run: GridRun) -> Path:
    (found,) = folder.run(run).folder.glob(f"{run.algorithm}/*/")
    file = RunFolder(found).model_file
    assert file is not None
    return file


def _plus_minus(mean: float, std: float) -> str:
    return f"{mean:.0f} +- {std:.0f}"


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


def _random_episode(env: gym.Env, seed: int) -> float:
    env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total += float(reward)
        over = terminated or truncated
    return total
