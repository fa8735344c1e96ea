"""The quickstart: a sparse and a dense agent side by side on a real task, in minutes on two CPU cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
from stable_baselines3 import SAC

from sb3_sparse.envs import env_id
from sb3_sparse.experiments.extras import import_extra
from sb3_sparse.experiments.figures import plot_learning_curves
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.results import append_rows, read_rows, rows
from sb3_sparse.experiments.training import TrainingResult, TrainingRun, action_repeat, make_model, random_return, train
from sb3_sparse.sparsity import summary

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

    def runs(self) -> list[TrainingRun]:
        """The sparse and the dense run."""
        return [self._run(self.sparsity), self._run(0.0)]

    def _run(self, sparsity: float) -> TrainingRun:
        return TrainingRun(
            task=self.task,
            sparsity=sparsity,
            width_scale=self.width_scale,
            seed=self.seed,
            agent_steps=self.agent_steps,
            eval_freq=max(MIN_STEPS, self.agent_steps // 10),
            eval_episodes=5,
            learning_starts=min(1_000, self.agent_steps // 4),
            gradient_steps=1,
            learning_rate=1e-3,
            batch_size=128,
        )


def quickstart(settings: Quickstart) -> None:
    """
    Train both agents, evaluate and save them, draw their learning curves, and print what came out.

    :param settings: What to train
    :raises ImportError: if an extra is missing, before anything is trained.
    """
    for module, extra in {"matplotlib": "plots", "rich": "progress"}.items():
        import_extra(module, extra)
    runs = settings.runs()
    _check(settings, runs)
    folders = [settings.folder / run.label for run in runs]
    print(f"Training SAC on {settings.task}, sparse and dense, {settings.agent_steps:,} agent steps each.", flush=True)
    results = train_all(train, runs, folders)
    repeat = action_repeat(settings.task)
    baseline = random_return(settings.task, RANDOM_EPISODES, settings.seed)
    table, figure = settings.folder / "results.csv", settings.folder / "learning_curves.png"
    table.unlink(missing_ok=True)
    for result in results:
        append_rows(table, rows(result, repeat))
    plot_learning_curves(read_rows(table), figure, {settings.task: baseline[0]})
    _report(results, folders, baseline, repeat)
    print(f"\nLearning curves: {figure}\nResults table:   {table}")


def _check(settings: Quickstart, runs: Sequence[TrainingRun]) -> None:
    """Build what the processes will build, so that bad settings are refused before they start."""
    if settings.agent_steps < MIN_STEPS:
        raise ValueError(f"agent_steps must be at least {MIN_STEPS}, got {settings.agent_steps}.")
    for run in runs:
        env = gym.make(run.task)
        make_model(run, env)
        env.close()


def _report(
    results: Sequence[TrainingResult], folders: Sequence[Path], baseline: tuple[float, float], action_repeat: int
) -> None:
    sparse = SAC.load(folders[0] / "model.zip", device="cpu")
    print("\nThe sparse agent's networks:\n")
    for name in ("actor", "critic"):
        print(f"{name}\n{summary(getattr(sparse.policy, name))}\n")
    print(
        f"{'agent':<16}{'parameters':>12}{'return at the end':>20}{'environment steps':>20}{'CPU seconds':>13}   saved model"
    )
    print(f"{'random actions':<16}{'':>12}{_plus_minus(*baseline):>20}")
    for result, folder in zip(results, folders, strict=True):
        model = SAC.load(folder / "model.zip", device="cpu")
        parameters = sum(summary(getattr(model.policy, name)).active for name in ("actor", "critic"))
        final = result.evaluations[-1]
        print(
            f"{result.run.label:<16}{parameters:>12,}{_plus_minus(final.mean_return, final.std_return):>20}"
            f"{final.agent_steps * action_repeat:>20,}{result.cpu_seconds:>13.0f}   {folder / 'model.zip'}"
        )


def _plus_minus(mean: float, std: float) -> str:
    return f"{mean:.0f} +- {std:.0f}"
