"""Atari-100k: trains Data-Efficient Rainbow, dense and sparse, and aggregates its scores (paper, appendix C.3, figure 18)."""

import argparse
import csv
import datetime
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sparse.der import DER
from sb3_sparse.experiments.atari_evaluation import EPISODES, evaluate_atari, maker
from sb3_sparse.experiments.atari_scores import aggregate, format_improvements, format_scores, human_normalized, published
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.provenance import commit, processor
from sb3_sparse.experiments.training import EVALUATION_SEED_OFFSET

# Games whose score at 100k steps lies far above that of random actions, measured by its spread over runs.
CLEAR_GAMES = ("Assault", "Breakout", "Krull", "RoadRunner", "Jamesbond", "CrazyClimber")
_REPORT_EVERY = 100
RESULTS = "atari-100k.csv"
DEFAULT = "x1, S=0"  # what the paper's figure 18 compares with


@dataclass(frozen=True)
class AtariRun:
    """
    What to train.

    :param game: Name of the game, such as "Breakout"
    :param width_scale: Width of the encoder
    :param sparsity: Of the network
    :param seed: Seed of everything
    :param agent_steps: Length; 100 000 is the benchmark's
    :param encoder: "impala" or "nature"
    :param eval_episodes: Games that the final score is averaged over
    :param device: Device
    """

    game: str
    width_scale: float
    sparsity: float
    seed: int
    agent_steps: int = 100_000
    encoder: str = "impala"
    eval_episodes: int = EPISODES
    device: str = "auto"

    @property
    def task(self) -> str:
        """Id of the environment."""
        return f"ALE/{self.game}-v5"

    @property
    def label(self) -> str:
        """Short name of the network, for folders."""
        return f"{self.encoder}-x{self.width_scale:g}-S{self.sparsity:g}"


class _Progress(BaseCallback):
    def __init__(self, report: Callable[[int], None]):
        super().__init__()
        self.report = report

    def _on_step(self) -> bool:
        if self.num_timesteps % _REPORT_EVERY == 0:
            self.report(self.num_timesteps)
        return True


def train(run: AtariRun, folder: Path, report: Callable[[int], None] = lambda step: None) -> dict[str, Any]:
    """
    Train with the paper's hyperparameters and evaluate by the benchmark's protocol.

    :param run: What to train
    :param folder: Gets the model and the log
    :param report: Called with the number of agent steps done
    :return: Line of the results table
    """
    if get_device(run.device).type == "cpu":
        th.set_num_threads(1)
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    env = DummyVecEnv([maker(run.task)])
    kwargs = {"encoder": run.encoder, "width_scale": run.width_scale, "sparsity": run.sparsity}
    model = DER("CnnPolicy", env, policy_kwargs=kwargs, seed=run.seed, device=run.device)
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(run.agent_steps, callback=_Progress(report))
    model.save(folder / "model.zip")
    scores = evaluate_atari(model, run.task, run.eval_episodes, seed=run.seed + EVALUATION_SEED_OFFSET, n_envs=4)
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(run.device),
        **asdict(replace(run, device=model.device.type)),
        "parameters": sum(parameter.numel() for parameter in model.q_net.parameters()),
        "score": round(float(np.mean(scores)), 2),
        "score_std": round(float(np.std(scores)), 2),
        "human_normalized": round(human_normalized(run.game, float(np.mean(scores))), 4),
        "cpu_seconds": round(time.process_time() - start),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train what is missing of a grid, add its scores to the table as they come in, and print what they come to.

    :param arguments: Command line, that of the process if None
    """
    options = _parser().parse_args(arguments)
    if options.game == ["all"]:
        options.game = list(published())
    table = options.output / RESULTS
    runs = _grid(options)
    missing = [run for run in runs if find_line(read(table), run) is None]
    folders = [options.output / run.game / run.label / f"seed{run.seed}" for run in missing]
    if missing:
        train_all(train, missing, folders, options.workers, on_result=lambda line: append(table, line))
    lines = read(table)
    networks = {
        f"x{width:g}, S={sparsity:g}": _scores(lines, options, width, sparsity)
        for width, sparsity in itertools.product(options.width_scale, options.sparsity)
    }
    for name, scores in networks.items():
        print(f"\n{options.encoder} {name}\n")
        print(format_scores(scores, aggregate(scores)))
    if DEFAULT in networks:
        others = {name: scores for name, scores in networks.items() if name != DEFAULT}
        print(f"\nImprovement over {DEFAULT}\n\n{format_improvements(others, networks[DEFAULT])}")
    print(f"\nResults table: {table}")


def _grid(options: argparse.Namespace) -> list[AtariRun]:
    for game in options.game:
        human_normalized(game, 0.0)  # refuses what is no game
    combinations = itertools.product(options.seed, options.game, options.width_scale, options.sparsity)
    return [_run(options, game, width, sparsity, seed) for seed, game, width, sparsity in combinations]


def _run(options: argparse.Namespace, game: str, width: float, sparsity: float, seed: int) -> AtariRun:
    return AtariRun(game, width, sparsity, seed, options.steps, options.encoder, options.eval_episodes, options.device)


def _scores(
    lines: Sequence[dict[str, str]], options: argparse.Namespace, width: float, sparsity: float
) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {game: [] for game in options.game}
    for game, seed in itertools.product(options.game, options.seed):
        line = find_line(lines, _run(options, game, width, sparsity, seed))
        assert line is not None
        scores[game].append(float(line["score"]))
    return scores


def find_line(lines: Sequence[dict[str, str]], run: AtariRun) -> dict[str, str] | None:
    """
    :param lines: Lines of the results table
    :param run: Run
    :return: Its line, on whatever device it ran; None if there is none
    """
    wanted = {name: str(value) for name, value in asdict(run).items() if name != "device"}
    return next((line for line in lines if all(line[name] == value for name, value in wanted.items())), None)


def read(table: Path) -> list[dict[str, str]]:
    """
    :param table: Results table, which need not exist
    :return: Its lines
    """
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def append(table: Path, line: dict[str, Any]) -> None:
    """
    :param table: Results table, which is made if it does not exist
    :param line: Line to add
    """
    is_new = not table.exists()
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(line)


def _hardware(device: str) -> str:
    used = get_device(device)
    return th.cuda.get_device_name(used) if used.type == "cuda" else f"{processor()}, one thread"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atari-100k", description="Data-Efficient Rainbow on Atari-100k, dense and sparse.")
    games = f"names such as Breakout (default: {' '.join(CLEAR_GAMES)})"
    parser.add_argument("--game", nargs="+", default=list(CLEAR_GAMES), help=f"{games}; 'all' for the 26 of the benchmark")
    parser.add_argument("--width-scale", nargs="+", type=float, default=[1.0])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--encoder", choices=["impala", "nature"], default="impala")
    parser.add_argument("--steps", type=int, default=100_000, help="agent steps (default: %(default)s)")
    parser.add_argument("--eval-episodes", type=int, default=EPISODES, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto, shared by all workers (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes at once; all CPU cores by default")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/atari-100k"), help="folder to write to (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
