"""The quickstart: sparse and dense agents side by side, SAC and Stream AC, in minutes on two CPU cores."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_sparse.arguments import check_continuous
from sb3_sparse.installation import import_extra
from sb3_sparse.deployment.known_classes import short_algorithm
from sb3_sparse.experiments.figures.quickstart_figure import draw_quickstart
from sb3_sparse.experiments.quickstart_settings import Quickstart
from sb3_sparse.experiments.verdicts import final_values, interval, stored_tables
from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import Evaluation, GridRun, short_task
from sb3_sparse.experiments.sweep.grid_table import Lines
from sb3_sparse.experiments.sweep.outcome import Train
from sb3_sparse.experiments.sweep.places import Processes
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder
from sb3_sparse.experiments.sweep.sweep import sweep
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.sparsity import summary
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.zoo.run_folders import RunFolder

STREAMING_TASK = "Ant-v4"
RANDOM_EPISODES = 10
MIN_STEPS = 100  # agent steps of a run, and between two evaluations
MIN_STREAMING_STEPS = 1_000  # the longest episode of its task, without which there is no return
# Stream AC's return is the mean over the episodes that end within this many steps, as in the stored table.
_WINDOW, _LAST_STEPS = 5_000, 25_000
# Points of the stored curves of SAC.
_ACTION_REPEAT, _STORED_STEPS = 2, range(2_500, 25_001, 2_500)
# Columns of the stored table, for each of its arms.
_STREAMING_ARMS: Mapping[str, Mapping[str, object]] = {
    "dense": {"init": "dense", "sparsity": 0.0},
    "SparseInit": {"init": "sparse", "sparsity": 0.0},
    "S = 0.9": {"init": "dense", "sparsity": 0.9},
}


def grid_of(settings: Quickstart) -> Grid:
    """SAC's sparse and dense run, then Stream AC's."""
    streaming = [_stream(settings, name) for name in _STREAMING_ARMS] if settings.streaming_steps else []
    title = "SAC and Stream AC, sparse and dense" if streaming else "SAC, sparse and dense"
    return Grid("quickstart", None, title, (_run(settings, settings.sparsity), _run(settings, 0.0), *streaming))


def _run(settings: Quickstart, sparsity: float) -> GridRun:
    return GridRun(
        algorithm="sac",
        task=settings.task,
        policy={"width_scale": settings.width_scale, "sparsity": sparsity},
        seed=settings.seed,
        agent_steps=settings.agent_steps,
        evaluation=Evaluation(max(MIN_STEPS, settings.agent_steps // 10), 5),
        plasticity={"log_freq": max(MIN_STEPS, settings.agent_steps // 10)},
        hyperparameters={
            "policy": "sb3_sparse.SparseSimBaPolicy",
            "learning_starts": min(1_000, settings.agent_steps // 4),
            "gradient_steps": 1,
            "learning_rate": 1e-3,
            "batch_size": 128,
        },
        name=f"SAC, S = {sparsity:g}" if sparsity else "SAC, dense",
    )


def _stream(settings: Quickstart, name: str) -> GridRun:
    return GridRun(
        algorithm="stream_ac",
        task=STREAMING_TASK,
        policy={"width": 128, **_STREAMING_ARMS[name]},
        seed=settings.seed,
        agent_steps=settings.streaming_steps,
        windows=max(1, settings.streaming_steps // _WINDOW),
        name=f"Stream AC, {name}",
    )


def quickstart(settings: Quickstart, train: Train) -> None:
    """
    Train the agents, evaluate and save them, draw their learning curves, and print what came out.

    :param settings: What to train
    :param train: Trains a run
    :raises ImportError: if an extra is missing, before anything is trained.
    :raises SweepError: if a run failed.
    """
    for module, extra in {"matplotlib": "plots", "rich": "progress"}.items():
        import_extra(module, extra)
    _check(settings)
    grid = grid_of(settings)
    for line in _announced(grid):
        print(line)
    folder = sweep(grid, settings.folder, Processes(device="cpu"), train)
    results = GridResults.of(grid, settings.folder)
    figure = draw_quickstart(results, folder.figures / grid.name)[0]
    _report(settings, results, folder)
    print("\n".join(["", *_expected(settings)]))
    print(f"\nLearning curves: {figure}\nResults table:   {folder.table}")


def _announced(grid: Grid) -> Iterator[str]:
    """What is trained: kinds of runs with their number and length."""
    for algorithm, task in dict.fromkeys((run.algorithm, run.task) for run in grid.runs):
        runs = [run for run in grid.runs if (run.algorithm, run.task) == (algorithm, task)]
        repeat = action_repeat(task)
        frames = f" ({repeat * runs[0].agent_steps:,} environment steps)" if repeat > 1 else ""
        steps = f"{runs[0].agent_steps:,} agent steps{frames}"
        yield f"{short_algorithm(algorithm)} on {short_task(task)}: {len(runs)} runs of {steps}"


def _check(settings: Quickstart) -> None:
    """Build what the processes will build, so that bad settings are refused before they start."""
    if settings.agent_steps < MIN_STEPS:
        raise ValueError(f"agent_steps must be at least {MIN_STEPS}, got {settings.agent_steps}.")
    if 0 != settings.streaming_steps < MIN_STREAMING_STEPS:
        raise ValueError(f"streaming_steps must be 0 or at least {MIN_STREAMING_STEPS}, got {settings.streaming_steps}.")
    for run in grid_of(settings).runs[:2]:
        env = gym.make(run.task)
        check_continuous(env.action_space, f"--env {run.task}: the quickstart trains SAC, which needs")
        SAC(SparseSimBaPolicy, env, policy_kwargs=dict(run.policy), buffer_size=1, device="cpu")
        env.close()


def _report(settings: Quickstart, results: GridResults, folder: ResultsFolder) -> None:
    sparse = grid_of(settings).runs[0]
    model = SAC.load(_model_file(folder, sparse), device="cpu")
    print("\nThe sparse SAC agent's networks:\n")
    for name in ("actor", "critic"):
        print(f"{name}\n{summary(getattr(model.policy, name))}\n")
    print(f"{'agent':<24}{'parameters':>12}{'return at the end':>20}{'file, KB':>10}{'CPU seconds':>13}   saved model")
    chance = _plus_minus(*random_return(settings.task, RANDOM_EPISODES, settings.seed))
    print(f"{'SAC, random actions':<24}{'':>12}{chance:>20}")
    for run in results.grid.runs:
        first, file = results.lines[run.id][0], _model_file(folder, run)
        print(
            f"{run.label:<24}{int(first['active_parameters']):>12,}{_end(run, results.lines[run.id]):>20}"
            f"{file.stat().st_size // 1_000:>10,}{float(first['cpu_seconds']):>13.0f}   {file}"
        )


def _end(run: GridRun, lines: Lines) -> str:
    """Return of the last evaluation; of Stream AC, which has none, that of the last training episodes."""
    if run.evaluation is None:
        (mean,) = final_values(lines, "return_mean", min(1.0, _LAST_STEPS / run.agent_steps)).values()
        return f"{mean:.0f}" if abs(mean) >= 0.5 else "0"
    return _plus_minus(float(lines[-1]["return_mean"]), float(lines[-1]["return_std"]))


def _expected(settings: Quickstart) -> list[str]:
    """What the stored tables have for these settings."""
    default, tables = Quickstart(), stored_tables()
    found = []
    compared = ("task", "sparsity", "width_scale")
    if settings.agent_steps in _STORED_STEPS and all(getattr(settings, name) == getattr(default, name) for name in compared):
        found += [
            f"SAC, {name}: {_sac_returns(tables['cpu'], sparsity, settings.agent_steps)}"
            for name, sparsity in (("S = 0.5", "0.5"), ("dense", "0.0"))
        ]
    if settings.streaming_steps >= _LAST_STEPS:
        found += [
            f"Stream AC, {name}: {_streaming_return(tables['streaming-ant'], name, settings)}" for name in _STREAMING_ARMS
        ]
    return ["What to expect, from the stored tables:", *(f"  {line}" for line in found)] if found else []


def _sac_returns(table: Lines, sparsity: str, agent_steps: int) -> str:
    arm = {"task": Quickstart.task, "network": "simba", "sparsity": sparsity, "env_steps": str(_ACTION_REPEAT * agent_steps)}
    runs = [line for line in table if all(line[column] == value for column, value in arm.items())]
    return ", ".join(f"{float(line['return_mean']):.0f}" for line in runs) + " (a seed each)"


def _streaming_return(table: Lines, name: str, settings: Quickstart) -> str:
    arm = {column: str(value) for column, value in _STREAMING_ARMS[name].items()}
    until = min(settings.streaming_steps, max(int(line["env_steps"]) for line in table))
    lines = [
        {**line, "total_env_steps": str(until)}
        for line in table
        if int(line["env_steps"]) <= until and all(line[column] == value for column, value in arm.items())
    ]
    values = list(final_values(lines, "return_mean", _LAST_STEPS / until).values())
    low, high = interval(values)
    return f"{np.mean(values):.0f} ({low:.0f} to {high:.0f}: 95 % interval, {len(values)} seeds)"


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
