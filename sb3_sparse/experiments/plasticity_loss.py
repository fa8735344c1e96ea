"""Whether a large dense critic loses plasticity where its sparse twin does not, at a size that a CPU can train."""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

import sb3_sparse.envs  # noqa: F401, registers the DeepMind Control Suite
from sb3_sparse.callbacks import PlasticityCallback, ResetCallback
from sb3_sparse.common.hyperparameters import hyperparameters
from sb3_sparse.common.sparsify import sparsify
from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.run_figures import plot_runs
from sb3_sparse.experiments.run_folders import find_runs
from sb3_sparse.experiments.training import EVALUATION_SEED_OFFSET
from sb3_sparse.sac import SparseSimBaPolicy

ACTOR_WIDTH = 128  # of the MLP; SimBa's follows its critic


@dataclass(frozen=True)
class PlasticityRun:
    """
    What to train, and how hard.

    :param task: Environment id
    :param network: "mlp" (two layers of ReLU, SB3's ``MlpPolicy``) or "simba"
    :param width: Hidden dimension of the critic
    :param sparsity: Of the critic; the actor is dense
    :param seed: Seed of everything
    :param agent_steps: Length of the run in agent steps
    :param gradient_steps: Updates per agent step
    :param learning_rate: Learning rate
    :param batch_size: Transitions per update
    :param learning_starts: Random agent steps before the first update
    :param log_freq: Agent steps between two measurements and between two evaluations
    :param reset_freq: Agent steps between two resets of the whole agent, None for never
    """

    task: str
    network: str
    width: int
    sparsity: float
    seed: int
    agent_steps: int
    gradient_steps: int
    learning_rate: float
    batch_size: int
    learning_starts: int
    log_freq: int
    reset_freq: int | None = None

    @property
    def label(self) -> str:
        """Short name of the network for folders."""
        name = f"{self.network}-S{self.sparsity:g}" if self.sparsity > 0 else f"{self.network}-dense"
        return name if self.reset_freq is None else f"{name}-reset"


def train(run: PlasticityRun, folder: Path) -> float:
    """
    Train and measure; uses one CPU thread.

    :param run: What to train
    :param folder: Gets the model, evaluations, monitor, and the measurements of plasticity
    :return: Process time in seconds
    """
    th.set_num_threads(1)
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(run, Monitor(gym.make(run.task), str(folder / "monitor.csv")))
    model.set_logger(configure(str(folder), ["csv"]))
    eval_env = make_vec_env(run.task, n_envs=5, seed=run.seed + EVALUATION_SEED_OFFSET)
    callbacks: list[BaseCallback] = [
        EvalCallback(eval_env, n_eval_episodes=5, eval_freq=run.log_freq, log_path=str(folder), verbose=0),
        PlasticityCallback(log_freq=run.log_freq, tau=(0.1, 0.025), covariance_freq=run.agent_steps),
    ]
    if run.reset_freq is not None:
        callbacks.append(ResetCallback(run.reset_freq))
    model.learn(run.agent_steps, callback=callbacks)
    model.save(folder / "model.zip")
    eval_env.close()
    return time.process_time() - start


def make_model(run: PlasticityRun, env: gym.Env) -> SAC:
    """
    Build the model of a run.

    :param run: What to train
    :param env: Environment
    :raises ValueError: for an unknown network.
    """
    arguments = {
        **hyperparameters("sac", env),
        "buffer_size": run.agent_steps,
        "learning_starts": run.learning_starts,
        "gradient_steps": run.gradient_steps,
        "learning_rate": run.learning_rate,
        "batch_size": run.batch_size,
    }
    if run.network == "simba":
        policy_kwargs = {"sparsity": {"actor": 0.0, "critic": run.sparsity}, "width_scale": run.width / 512}
        return SAC(SparseSimBaPolicy, env, policy_kwargs=policy_kwargs, seed=run.seed, device="cpu", **arguments)
    if run.network != "mlp":
        raise ValueError(f"Unknown network {run.network!r}: choose 'mlp' or 'simba'.")
    net_arch = {"pi": [ACTOR_WIDTH] * 2, "qf": [run.width] * 2}
    kwargs = {"net_arch": net_arch, "n_critics": 1}
    model = SAC("MlpPolicy", env, policy_kwargs=kwargs, seed=run.seed, device="cpu", **arguments)
    return sparsify(model, {"actor": 0.0, "critic": run.sparsity}) if run.sparsity > 0 else model


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train every combination of sparsity and seed, one after the other, and draw all runs of the folder.

    :param arguments: Command line, that of the process if None
    """
    options = _parser().parse_args(arguments)
    import_extra("matplotlib", "plots")  # missing, it had better be found now
    for seed, sparsity in itertools.product(options.seed, options.sparsity):
        run = PlasticityRun(
            task=options.task,
            network=options.network,
            width=options.width,
            sparsity=sparsity,
            seed=seed,
            agent_steps=options.agent_steps,
            gradient_steps=options.gradient_steps,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            learning_starts=options.learning_starts,
            log_freq=options.log_freq,
            reset_freq=options.reset_freq,
        )
        folder = options.folder / f"{run.label}-seed{seed}"
        print(f"{folder}: {train(run, folder):.0f} s of process time", flush=True)
    for file in plot_runs(find_runs([options.folder]), options.figures):
        print(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plasticity-loss", description="Plasticity of a large dense critic and its sparse twin."
    )
    parser.add_argument("--task", default="dm_control/cartpole-swingup-v0")
    parser.add_argument("--network", choices=("mlp", "simba"), default="mlp")
    parser.add_argument("--width", type=int, default=512, help="hidden dimension of the critic")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.0, 0.9], help="of the critic")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--agent-steps", type=int, default=6_000)
    parser.add_argument("--gradient-steps", type=int, default=4, help="updates per agent step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-starts", type=int, default=500, help="agent steps")
    parser.add_argument("--log-freq", type=int, default=500, help="agent steps")
    parser.add_argument("--reset-freq", type=int, help="agent steps between two resets of the agent; never by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/plasticity-loss"), help="runs")
    parser.add_argument("--figures", type=Path, default=Path("runs/plasticity-loss-figures"))
    return parser


if __name__ == "__main__":
    main()
