"""Training runs, the results table, figures, the quickstart and the benchmark, from the command line down."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC

from sb3_sparse.experiments import provenance
from sb3_sparse.experiments.extras import import_extra
from sb3_sparse.experiments.figures import plot_learning_curves
from sb3_sparse.experiments.parallel import train_all
from sb3_sparse.experiments.results import COLUMNS, append_rows, read_rows, rows
from sb3_sparse.experiments.stream_cost import PLAIN as PLAIN_STREAM
from sb3_sparse.experiments.stream_cost import stream_cost
from sb3_sparse.experiments.streaming import COLUMNS as COLUMNS_OF_STREAMING
from sb3_sparse.experiments.streaming import (
    DENSE,
    GRIDS,
    SPARSE_INIT,
    Arm,
    Grid,
    StreamRun,
    collect,
    train_stream,
    write_table,
)
from sb3_sparse.experiments.streaming_figures import draw_figure, final_returns, select
from sb3_sparse.experiments.training import Evaluation, TrainingResult, TrainingRun, action_repeat, random_return, train
from sb3_sparse.experiments.update_cost import PLAIN, format_table, update_cost
from sb3_sparse.stream_ac import StreamAC
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
    with pytest.raises(ValueError, match=r"'cnn'.*'simba' or 'mlp'"):
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
        (["bench", "--stream-ac", "--width", "0"], "width must be an integer"),
        (["bench", "--stream-ac", "--env", "NoSuchEnv-v0"], "NoSuchEnv"),
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


def test_benchmark_compares_all_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = update_cost(0.0625, [0.0, 0.5], rounds=2, updates=1)
    assert [cost.variant for cost in costs] == [PLAIN, "S=0", "S=0.5"]
    assert costs[0].update_ratio == costs[0].predict_ratio == 1.0
    assert all(min(*cost.update_ms, *cost.predict_ms) > 0 for cost in costs)
    assert len(format_table(costs).splitlines()) == 5
    path = tmp_path / "bench.json"
    assert (
        main(["bench", "--width-scale", "0.0625", "--sparsity", "0.5", "--rounds", "1", "--updates", "1", "--json", str(path)])
        == 0
    )
    assert [entry["variant"] for entry in json.loads(path.read_text())] == [PLAIN, "S=0.5"]
    assert "plain dense" in capsys.readouterr().out


STREAM_GRID = Grid(("Pendulum-v1",), (8, 16), (DENSE, SPARSE_INIT, Arm("dense", 0.5)), (0, 1), 1_000, 2)


def test_stream_runs_resume_where_they_were_stopped(tmp_path: Path) -> None:
    run = StreamRun("Pendulum-v1", width=8, total_steps=1_000, windows=4)
    seen: list[int] = []
    rows = train_stream(run, tmp_path / "whole", seen.append)
    assert [int(row["env_steps"]) for row in rows] == [250, 500, 750, 1_000] and seen == [1_000]
    assert [row["episodes"] for row in rows] == [1, 1, 1, 2]  # of 200 steps each

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_stream(run, tmp_path / "stopped", stop)
    # The process may have ended between the table and the checkpoint.
    beyond = [{**row, "return_mean": "1.0"} for row in rows]
    write_table(tmp_path / "stopped" / "windows.csv", [dict(zip(row, row.values(), strict=True)) for row in beyond])
    resumed = train_stream(run, tmp_path / "stopped")
    assert resumed[-1]["return_mean"] == rows[-1]["return_mean"] != 1.0
    models = [StreamAC.load(tmp_path / name / "checkpoint.zip") for name in ("whole", "stopped")]
    np.testing.assert_array_equal(*(model.policy.parameters_to_vector() for model in models))
    # What is complete is read, not run.
    again = train_stream(run, tmp_path / "whole")
    assert [row["return_mean"] for row in again] == [str(row["return_mean"]) for row in rows]


def test_figures_of_streaming_show_what_there_is(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    for run in STREAM_GRID.runs()[:-1]:  # the last seed of one arm is missing
        rows = [
            {**dict.fromkeys(COLUMNS_OF_STREAMING, ""), "task": run.task, "width": run.width, "init": run.init,
             "sparsity": run.sparsity, "seed": run.seed, "total_steps": 1_000, "env_steps": steps, "return_mean": steps / 10}
            for steps in (500, 1_000)
        ]  # fmt: skip
        write_table(tmp_path / "runs" / run.name / "windows.csv", rows)
    lines = collect(tmp_path)
    curves = select(lines, STREAM_GRID)
    assert len(curves) == 6 and len(curves["Pendulum-v1", 16, Arm("dense", 0.5)]) == 1
    assert final_returns(curves["Pendulum-v1", 8, DENSE], 1_000) == [100.0, 100.0]
    assert final_returns({0: [(500, 1.0)]}, 1_000) == []  # not complete
    for number in (12, 13, 17):
        draw_figure(number, lines, STREAM_GRID, tmp_path / f"{number}.png")
        assert image.imread(tmp_path / f"{number}.png")[..., :3].std() > 0.01
    with pytest.raises(ValueError, match="no finished window"):
        draw_figure(12, [], STREAM_GRID, tmp_path / "none.png")


def test_the_paper_s_streaming_grids() -> None:
    full = GRIDS[12]["full"]
    assert len(full.runs()) == 2 * 4 * 4 * 5 and {run.total_steps for run in full.runs()} == {2_000_000}
    assert {(run.task, run.init) for run in full.runs()} == {("Ant-v4", "dense"), ("Walker2d-v4", "dense")}
    assert set(GRIDS[12]["short"].runs()) < set(GRIDS[13]["short"].runs())  # figures share runs
    names = [run.name for grids in GRIDS.values() for grid in grids.values() for run in set(grid.runs())]
    assert len(set(names)) == len({run for grids in GRIDS.values() for grid in grids.values() for run in grid.runs()})


@pytest.mark.slow
def test_figure_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    assert main(["figure", "13", "--budget", "smoke", "--output", str(tmp_path), "--workers", "1"]) == 0
    assert (tmp_path / "figure-13-smoke.png").stat().st_size > 10_000
    table = read_rows(tmp_path / "streaming.csv")
    assert {(row["init"], row["sparsity"]) for row in table} == {("dense", "0.0"), ("sparse", "0.0"), ("dense", "0.5")}
    started = time.process_time()
    assert main(["figure", "13", "--budget", "smoke", "--output", str(tmp_path), "--workers", "1"]) == 0  # nothing is left
    assert time.process_time() - started < 30


def test_benchmark_of_stream_ac(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    costs = stream_cost([8], [0.0, 0.5], rounds=2, task="Pendulum-v1", steps=20)
    assert [(cost.what, cost.variant) for cost in costs] == [
        ("agent", PLAIN_STREAM), ("agent", "torch, S=0"), ("agent", "numba, S=0"), ("agent", "numba, S=0.5"),
        ("Pendulum-v1", PLAIN_STREAM), ("Pendulum-v1", "numba, S=0"), ("Pendulum-v1", "numba, S=0.5"),
    ]  # fmt: skip
    assert costs[0].speedup == 1.0 and costs[2].speedup > 5
    path = tmp_path / "bench.json"
    arguments = ["--width", "8", "--sparsity", "0", "--rounds", "1", "--env", "Pendulum-v1", "--json", str(path)]
    assert main(["bench", "--stream-ac", *arguments]) == 0
    assert [entry["variant"] for entry in json.loads(path.read_text())][:2] == [PLAIN_STREAM, "torch, S=0"]
    assert "steps per second" in capsys.readouterr().out
