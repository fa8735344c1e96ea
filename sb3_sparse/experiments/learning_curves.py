"""Grids of runs whose learning curves go into the results table."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from sb3_sparse.experiments.figures import plot_learning_curves
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.results import append_rows, read_rows, rows
from sb3_sparse.experiments.training import TrainingRun, action_repeat, random_return, train

RESULTS = Path(__file__).parent / "results" / "cpu.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train every combination of task, network and seed, and add the evaluations to the results table as they come in.

    :param arguments: Command line, that of the process if None
    """
    options = _parser().parse_args(arguments)
    runs = _grid(options)
    folders = [options.folder / run.task.replace("/", "-") / run.label / f"seed{run.seed}" for run in runs]
    repeats = {task: action_repeat(task) for task in options.task}
    # Results are written as they come in: a grid that is stopped keeps what it has.
    train_all(
        train,
        runs,
        folders,
        options.workers,
        on_result=lambda result: append_rows(options.results, rows(result, repeats[result.run.task])),
    )
    lines = [line for line in read_rows(options.results) if line["task"] in options.task]
    plot_learning_curves(lines, options.figure, {task: random_return(task, 10)[0] for task in options.task})
    print(f"Results table: {options.results}\nFigure: {options.figure}")


def _grid(options: argparse.Namespace) -> list[TrainingRun]:
    networks = [("simba", sparsity) for sparsity in options.sparsity] + ([("mlp", 0.0)] if options.mlp else [])
    return [
        TrainingRun(
            task=task,
            network=network,
            sparsity=sparsity,
            width_scale=options.width_scale,
            seed=seed,
            agent_steps=options.agent_steps,
            eval_freq=options.eval_freq,
            eval_episodes=options.eval_episodes,
            learning_starts=options.learning_starts,
            gradient_steps=options.gradient_steps,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            device=options.device,
            measures=options.plasticity,
        )
        for seed, task, (network, sparsity) in itertools.product(options.seed, options.task, networks)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learning-curves", description="Learning curves of a grid of agents.")
    parser.add_argument("--task", nargs="+", required=True, help="environment ids")
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.0, 0.5])
    parser.add_argument("--mlp", action="store_true", help="also SB3's MlpPolicy with its own defaults")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--width-scale", type=float, default=0.125)
    parser.add_argument("--agent-steps", type=int, default=25_000)
    parser.add_argument("--eval-freq", type=int, default=2_500, help="agent steps")
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--learning-starts", type=int, default=1_000, help="agent steps")
    parser.add_argument("--gradient-steps", type=int, default=1, help="updates per agent step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, shared by all workers (default: %(default)s)")
    parser.add_argument("--plasticity", action="store_true", help="measure plasticity at every evaluation")
    parser.add_argument("--workers", type=int, help="processes at once; all CPU cores by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning-curves"), help="models and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="table that the evaluations are added to")
    parser.add_argument("--figure", type=Path, default=Path("runs/learning-curves/learning_curves.png"))
    return parser


if __name__ == "__main__":
    main()
