"""Training runs, the results table, figures, the quickstart and the benchmark, from the command line down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC

from sb3_sparse.experiments.contenders import COMPILED, STOCK, Contender
from sb3_sparse.experiments import provenance
from sb3_sparse.common.extras import import_extra
from sb3_sparse.experiments.figures import plot_learning_curves
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.results import COLUMNS, append_rows, read_rows, rows
from sb3_sparse.experiments.training import Evaluation, TrainingResult, TrainingRun, action_repeat, random_return, train
from sb3_sparse.experiments.training_memory import training_memory
from sb3_sparse.zoo.command_line import main

SHORT = {
    "agent_steps": 120,
    "eval_freq": 60,
    "eval_episodes": 1,
    "learning_starts": 30,
    "batch_size": 16,
    "width_scale": 0.0625,
}


@pytest.mark.parametrize(("network", "sparsity"), [("simba", 0.0), ("simba", 0.5), ("mlp", 0.0)])
def test_a_run_saves_what_it_trained_and_reports_its_evaluations(network: str, sparsity: float, tmp_path: Path) -> None:
    seen: list[int] = []
    run = TrainingRun("Pendulum-v1", network=network, sparsity=sparsity, **SHORT)
    result = train(run, tmp_path, seen.append)
    assert [evaluation.agent_steps for evaluation in result.evaluations] == [0, 60, 120]
    assert all(np.isfinite(evaluation.mean_return) for evaluation in result.evaluations)
    assert seen == sorted(seen) and seen[-1] <= 120
    model = SAC.load(tmp_path / "model.zip", device="cpu")
    assert model.num_timesteps == 120
    assert model._n_updates == (120 - 30) * run.gradient_steps
    assert {"best_model.zip", "evaluations.npz", "monitor.csv", "progress.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_runs_reproduce_from_their_seed(tmp_path: Path) -> None:
    run = TrainingRun("Pendulum-v1", sparsity=0.5, seed=3, **SHORT)
    first, second = (train(run, tmp_path / name).evaluations for name in ("first", "second"))
    assert first == second
    other = train(TrainingRun("Pendulum-v1", sparsity=0.5, seed=4, **SHORT), tmp_path / "other").evaluations
    assert first != other


def test_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'cnn'.*'simba', 'mlp' or 'drqv2'"):
        train(TrainingRun("Pendulum-v1", network="cnn", **SHORT), tmp_path)


def test_an_error_in_a_parallel_run_reaches_the_caller(tmp_path: Path) -> None:
    runs = [TrainingRun("Pendulum-v1", sparsity=1.5, **SHORT)]
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        train_all(train, runs, [tmp_path], workers=1)


def test_results_table_counts_environment_steps_and_grows(tmp_path: Path) -> None:
    run = TrainingRun("dm_control/cartpole-swingup-v0", sparsity=0.5, seed=7)
    result = TrainingResult(run, (Evaluation(0, 10.04, 1.0), Evaluation(2_500, 300.06, 2.0)), cpu_seconds=12.3)
    table = tmp_path / "results.csv"
    append_rows(table, rows(result, action_repeat=2))
    append_rows(table, rows(result, action_repeat=2))
    lines = read_rows(table)
    assert len(lines) == 4 and tuple(lines[0]) == COLUMNS
    assert [line["env_steps"] for line in lines[:2]] == ["0", "5000"]
    assert [line["return_mean"] for line in lines[:2]] == ["10.0", "300.1"]
    assert {line["seed"] for line in lines} == {"7"}


def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv" / "sb3_sparse" / "experiments"
    installed.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "A project that uses the package"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.commit() == "release"


def test_learning_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    table = tmp_path / "results.csv"
    for task in ("a", "b"):
        for network, sparsity in (("simba", 0.0), ("simba", 0.5), ("mlp", 0.0)):
            run = TrainingRun(task, network=network, sparsity=sparsity)
            append_rows(table, rows(TrainingResult(run, (Evaluation(0, 1.0, 0.0), Evaluation(10, 2.0, 0.0)), 1.0), 1))
    figure = tmp_path / "figures" / "curves.png"
    plot_learning_curves(read_rows(table), figure, {"a": 0.5})
    pixels = image.imread(figure)
    assert pixels.shape[1] > pixels.shape[0]  # two panels side by side
    assert pixels[..., :3].std() > 0.01


def test_random_return_is_reproducible() -> None:
    assert random_return("Pendulum-v1", 2, seed=1) == random_return("Pendulum-v1", 2, seed=1)
    assert random_return("Pendulum-v1", 2, seed=1) != random_return("Pendulum-v1", 2, seed=2)


def test_action_repeat_of_environments() -> None:
    assert action_repeat("Pendulum-v1") == 1
    pytest.importorskip("dm_control")
    assert action_repeat("dm_control/cartpole-swingup-v0") == 2


def test_quickstart_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    command = [
        sys.executable,
        "-m",
        "sb3_sparse",
        "quickstart",
        "--steps",
        "200",
        "--width-scale",
        "0.0625",
        "--output",
        str(tmp_path),
    ]
    # As a newcomer types it on a machine without a display.
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert "random actions" in output and "units without input" in output
    assert (tmp_path / "learning_curves.png").stat().st_size > 10_000
    assert {line["sparsity"] for line in read_rows(tmp_path / "results.csv")} == {"0.0", "0.5"}
    for agent in ("simba-S0.5", "simba-dense"):
        assert agent in output
        SAC.load(tmp_path / agent / "model.zip", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--sparsity", "1.5"], "sparsity must lie in [0, 1)"),
        (["quickstart", "--width-scale", "0"], "width_scale must be a positive number"),
        (["quickstart", "--steps", "0"], "at least"),
        (["quickstart", "--env", "dm_control/cartpole-fly-v0"], "cartpole-fly"),
        (["bench", "--sparsity", "-0.1"], "sparsity must lie in [0, 1)"),
    ],
)
def test_bad_arguments_are_named_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())  # refused before anything was written


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r'pip install "sb3-sparse\[plots\]"'):
        import_extra("a_module_that_nobody_has", "plots")


def test_benchmark_compares_all_contenders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    small = [
        "--width-scale",
        "0.0625",
        "--sparsity",
        "0",
        "0.5",
        "--rounds",
        "2",
        "--updates",
        "1",
        "--device",
        "cpu",
        "--no-memory",
    ]
    assert main(["bench", *small, "--loop", "Pendulum-v1", "--loop-steps", "20", "--json", str(path)]) == 0
    variants = [STOCK, "SB3, S=0", "ours, S=0", "SB3, S=0.5", "ours, S=0.5"]
    entries = json.loads(path.read_text())
    assert [entry["variant"] for entry in entries] == 2 * variants
    assert entries[0]["update_speedup"] == entries[0]["predict_speedup"] == 1.0
    for entry in entries[:5]:
        assert min(*entry["update_ms"], *entry["predict_ms"]) > 0 and len(entry["update_ms"]) == 2
        assert entry["memory_bytes"] is None
    assert all(entry["steps_per_second"] > 0 for entry in entries[5:])
    output = capsys.readouterr().out
    assert all(output.count(f"| {variant} |") == 2 for variant in variants)


@pytest.mark.slow
def test_memory_is_that_of_the_networks() -> None:
    dense, sparse = (training_memory(Contender(COMPILED, 2.0, sparsity), "cpu") for sparsity in (0.0, 0.95))
    # 17.4M weights, with gradient, two moments and the critic's target: 4 + 16.9 / 17.4 times 4 bytes.
    assert 0.8 * 347e6 < dense < 2.0 * 347e6
    assert sparse < 0.6 * dense


def test_measures_of_plasticity_come_with_the_evaluations(tmp_path: Path) -> None:
    longer = {**SHORT, "agent_steps": 260, "eval_freq": 130, "gradient_steps": 1}
    with pytest.warns(UserWarning, match="does not hold 256 transitions yet"):
        result = train(TrainingRun("Pendulum-v1", sparsity=0.5, measures=True, **longer), tmp_path)
    untrained, early, late = rows(result, 1)
    assert untrained["critic_dormant"] == early["critic_dormant"] == ""
    assert 0 <= float(late["critic_dormant"]) <= 1 <= float(late["critic_srank"])
