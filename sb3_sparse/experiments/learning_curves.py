"""Grids of runs whose learning curves go into the results table."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_sparse.experiments.figures import plot_learning_curves
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.results import append_rows, read_rows, rows
from sb3_sparse.experiments.training import TrainingRun, action_repeat, random_return, train

# DrQ-v2: as its authors have it, for 1M frames.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "sac": {
        "sparsity": [0.0, 0.5],
        "width_scale": [0.125],
        "agent_steps": 25_000,
        "eval_freq": 2_500,
        "learning_starts": 1_000,
        "learning_rate": 1e-3,
        "batch_size": 128,
    },
    "drqv2": {
        "sparsity": [0.0, 0.8],
        "width_scale": [1.0, 4.0],
        "agent_steps": 500_000,
        "eval_freq": 10_000,
        "learning_starts": 2_000,
        "learning_rate": 1e-4,
        "batch_size": 256,
    },
}
RESULTS = Path(__file__).parent / "results" / "cpu.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Train every combination of task, network and seed, and add the evaluations to the results table as they come in.

    :param arguments: Command line, that of the process if None
    """
    options = _parse(arguments)
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
    ours = "drqv2" if options.algo == "drqv2" else "simba"
    networks = [(ours, width, sparsity) for width in options.width_scale for sparsity in options.sparsity]
    networks += [("mlp", 1.0, 0.0)] if options.mlp else []
    return [
        TrainingRun(
            task=task,
            network=network,
            sparsity=sparsity,
            width_scale=width,
            seed=seed,
            agent_steps=options.agent_steps,
            eval_freq=options.eval_freq,
            eval_episodes=options.eval_episodes,
            learning_starts=options.learning_starts,
            gradient_steps=options.gradient_steps,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            n_steps=options.n_steps,
            stddev_schedule=options.stddev_schedule,
            device=options.device,
            measures=options.plasticity,
        )
        for seed, task, (network, width, sparsity) in itertools.product(options.seed, options.task, networks)
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    parser.set_defaults(**_DEFAULTS[options.algo])
    options = parser.parse_args(arguments)
    if options.algo == "drqv2" and options.mlp:
        parser.error("--mlp is a baseline for vectors; DrQ-v2 learns from pixels")
    if options.algo == "sac" and len(options.width_scale) > 1:
        parser.error("several widths are compared with --algo drqv2 only")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learning-curves", description="Learning curves of a grid of agents.")
    parser.add_argument("--task", nargs="+", required=True, help="environment ids")
    parser.add_argument("--algo", choices=list(_DEFAULTS), default="sac", help="sets the defaults of the other options")
    parser.add_argument("--sparsity", nargs="*", type=float)
    parser.add_argument("--mlp", action="store_true", help="also SB3's MlpPolicy with its own defaults")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--width-scale", nargs="+", type=float, help="of DrQ-v2's critic: several")
    parser.add_argument("--agent-steps", type=int)
    parser.add_argument("--eval-freq", type=int, help="agent steps")
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--learning-starts", type=int, help="agent steps")
    parser.add_argument("--gradient-steps", type=int, default=1, help="updates per agent step (DrQ-v2: always 0.5)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--n-steps", type=int, default=3, help="of DrQ-v2")
    parser.add_argument("--stddev-schedule", default="linear(1.0, 0.1, 500000)", help="of DrQ-v2, in agent steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, shared by all workers (default: %(default)s)")
    parser.add_argument("--plasticity", action="store_true", help="measure plasticity at every evaluation")
    parser.add_argument("--workers", type=int, help="processes at once; all CPU cores by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning-curves"), help="models and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="table that the evaluations are added to")
    parser.add_argument("--figure", type=Path, default=Path("runs/learning-curves/learning_curves.png"))
    return parser


if __name__ == "__main__":
    main()
