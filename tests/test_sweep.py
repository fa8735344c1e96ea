"""Grids of runs: what is done is not repeated, what is interrupted goes on, what fails is told, folders are shared."""

import csv
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from dot_env import DotEnv

from sb3_sparse import StreamAC
from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.cli.command_line import main
from sb3_sparse.experiments.sweep import places, results_folder, sweep_progress
from sb3_sparse.experiments.sweep import sweep as sweep_module
from sb3_sparse.experiments.sweep.grid import Grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import Evaluation, GridRun
from sb3_sparse.experiments.sweep.grid_table import PROVENANCE, read_table
from sb3_sparse.experiments.sweep.places import Processes, RayCluster, ThisProcess
from sb3_sparse.experiments.sweep.results_folder import BusyError, ResultsFolder
from sb3_sparse.experiments.sweep.sweep import SweepError, sweep
from sb3_sparse.zoo.model_files import policy_tensors
from sb3_sparse.zoo.run_folders import RunFolder

pytest.importorskip("rl_zoo3")
from sb3_sparse.experiments.benchmarks import grid_cost
from sb3_sparse.experiments.sweep import final_evaluation, grid_training
from sb3_sparse.experiments.sweep.grid_training import train_run

DOT = "DotForGrids-v0"
gym.register(DOT, entry_point=DotEnv)
SIMBA = {
    "learning_starts": 60,
    "batch_size": 32,
    "train_freq": 2,
    "gradient_steps": 1,
}
POLICY = {"sac": "sb3_sparse.SparseSimBaPolicy", "ddpg": "sb3_sparse.SparseSimBaTD3Policy"}


def run_of(algorithm: str, **changes: Any) -> GridRun:
    """A run of 600 steps in episodes of 200, with two places to go on from, neither of them the end of an episode."""
    settings: dict[str, Any] = {"agent_steps": 610, "checkpoints": 3, "windows": 6}
    if algorithm in POLICY:
        settings["policy"] = {"width_scale": 0.0625, "sparsity": 0.5}
        settings["hyperparameters"] = {"policy": POLICY[algorithm], "update_rule": "paper", **SIMBA}
        settings["evaluation"] = Evaluation(150, 2, final_episodes=3)
        settings["plasticity"] = {"log_freq": 150, "batch_size": 32, "covariance_freq": 300}
    if algorithm == "stream_ac":
        settings["policy"] = {"width": 8, "init": "dense", "sparsity": 0.5}
    if algorithm == "tqc":  # a stock policy, which sparsify() prunes
        settings["hyperparameters"] = {"policy": "MlpPolicy", "n_envs": 2, "normalize": True, "learning_starts": 60}
        settings["policy"] = {"sparsity": {"actor": 0.0, "critic": 0.5}}
        settings["evaluation"] = Evaluation(250, 2, epsilon=0.3, final_episodes=3)
        settings["agent_steps"] = 1_220  # three episodes in each environment
    if algorithm == "ppo":
        settings["hyperparameters"] = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "n_epochs": 2, "normalize": True}
        settings["agent_steps"] = 1_200  # three episodes in each environment
    task = "Pendulum-v1"
    if algorithm == "drqv2":  # pixels, in episodes of 20 steps
        task = DOT
        settings["agent_steps"], settings["evaluation"] = 180, Evaluation(45, 2, final_episodes=3)
        settings["policy"] = {"width_scale": 0.0625, "sparsity": 0.5}
        settings["plasticity"] = {"log_freq": 45, "batch_size": 32}
        settings["hyperparameters"] = {"learning_starts": 40, "batch_size": 8, "policy_kwargs": {"hidden_dim": 64}}
    return GridRun(algorithm, task, **{**settings, **changes})


def grid_of(*runs: GridRun, name: str = "test") -> Grid:
    return Grid(name, None, "A test", runs, source="algorithm: sac")


def test_streaming_runs_collect_no_variables_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(StreamAC, "_locals", lambda *_: pytest.fail("it takes a tenth of a step's time"))
    train_run(run_of("stream_ac", agent_steps=20, checkpoints=2, windows=2), tmp_path)


class CrashError(Exception):
    pass


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = grid_training.ProgressFile._on_step

    def on_step(self: Any) -> bool:
        if self.num_timesteps >= step:
            raise CrashError(f"power cut at {self.num_timesteps}")
        return original(self)

    monkeypatch.setattr(grid_training.ProgressFile, "_on_step", on_step)


def results(lines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Lines without what differs between two executions."""
    return [{key: value for key, value in line.items() if key not in PROVENANCE} for line in lines]


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("sac", {}),
        ("ddpg", {"reset_freq": 250}),
        ("stream_ac", {}),
        ("drqv2", {}),
        pytest.param("tqc", {}, marks=pytest.mark.slow),
        ("ppo", {}),
    ],
    ids=["sac", "ddpg-reset", "stream_ac", "drqv2", "tqc-two-envs-normalized-sparsified", "ppo-two-envs-normalized"],
)
def test_an_interrupted_run_cannot_be_told_from_one_that_was_not(
    algorithm: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(algorithm, **changes)
    folders = {name: ResultsFolder(tmp_path / name) for name in ("whole", "interrupted")}
    for folder in folders.values():
        folder.make("0")
    train_run(run, tmp_path / "whole", "cpu")
    with monkeypatch.context() as patch:
        crash_at(run.agent_steps - 50, patch)
        with pytest.raises(CrashError):
            train_run(run, tmp_path / "interrupted", "cpu")
    interrupted = folders["interrupted"].run(run)
    assert not interrupted.is_finished
    checkpoint = CheckpointFolder(interrupted.checkpoint).newest()
    assert checkpoint is not None and 0 < checkpoint.num_timesteps <= run.agent_steps - 50
    steps: list[int] = []
    monkeypatch.setattr(grid_training.ProgressFile, "_on_step", lambda self: steps.append(self.num_timesteps) or True)
    train_run(run, tmp_path / "interrupted", "cpu")
    assert steps[0] == checkpoint.num_timesteps + (2 if algorithm in ("tqc", "ppo") else 1)  # nothing before it was done again
    lines = [results(folder.collect()) for folder in folders.values()]
    assert len(lines[0]) >= 3 and lines[0] == lines[1]
    assert not interrupted.checkpoint.exists()
    files = [next(folder.run(run).folder.glob("*/*/0.monitor.csv")).parent for folder in folders.values()]
    assert {path.name for path in files[0].iterdir()} == {path.name for path in files[1].iterdir()}
    for name in ("0.monitor.csv", "plasticity.csv"):
        pair = [(file / name).read_text().splitlines()[1:] for file in files if (file / name).exists()]
        cut = [[line.rpartition(",")[0] if name == "0.monitor.csv" else line for line in text] for text in pair]
        assert cut[:1] == cut[1:]
    assert_same_models(*(next(folder.glob(f"{run.task}.zip")) for folder in files))


def assert_same_models(*files: Path) -> None:
    tensors = [policy_tensors(file) for file in files]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(th.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_stock_policies_are_pruned_by_sparsify(tmp_path: Path) -> None:
    """Beside those of the zoo's file, which are another policy's, arguments are the grid's."""
    hyperparameters = {"policy": "MlpPolicy", "policy_kwargs": "dict(net_arch=[16, 16])", "learning_starts": 60}
    runs = [
        GridRun("sac", "Pendulum-v1", policy, agent_steps=70, checkpoints=1, hyperparameters=hyperparameters)
        for policy in ({"sparsity": 0.0}, {"sparsity": 0.6, "mask_seed": 5})
    ]
    folder = sweep(grid_of(*runs), tmp_path, ThisProcess("cpu"), train_run)
    dense, sparse = (RunFolder(next(folder.run(run).folder.glob("sac/*"))) for run in runs)
    assert (dense.sparsity, sparse.sparsity) == (0.0, 0.6) and (dense.name, sparse.name) == ("sac dense", "sac S = 0.6")
    assert set(dense.layer_sparsities.values()) == {0.0}
    assert sparse.layer_sparsities["critic.qf0.2"] > 0.5 and sparse.policy_kwargs["net_arch"] == [16, 16]
    records = [json.loads(folder.run(run).record.read_text()) for run in runs]
    assert records[0]["parameters"] == records[1]["parameters"] == records[0]["active_parameters"]
    assert records[1]["active_parameters"] == pytest.approx(0.4 * records[0]["parameters"], rel=0.05)  # biases are left


def test_how_often_a_run_is_saved_changes_nothing(tmp_path: Path) -> None:
    runs = [run_of("sac", agent_steps=300, checkpoints=pieces) for pieces in (1, 4)]
    assert runs[0].id == runs[1].id
    tables = []
    for run in runs:
        folder = sweep(grid_of(run), tmp_path / f"{run.checkpoints}", ThisProcess("cpu"), train_run)
        tables.append(results(folder.collect()))
    assert tables[0] == tables[1] and len(tables[0]) == 2


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_stops_a_grid_after_a_checkpoint(
    number: int, ends: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    run = run_of("stream_ac")
    original = grid_training.ProgressFile._on_step
    # A shell has programs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def on_step(self: Any) -> bool:
        if self.num_timesteps == 123:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(grid_training.ProgressFile, "_on_step", on_step)
    with pytest.raises(ends):
        sweep(grid_of(run), tmp_path, ThisProcess("cpu"), train_run)
    paths = ResultsFolder(tmp_path).run(run)
    checkpoint = CheckpointFolder(paths.checkpoint).newest()
    assert checkpoint is not None and checkpoint.num_timesteps == 123 and not paths.is_finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    folder = sweep(grid_of(run), tmp_path, ThisProcess("cpu"), train_run)
    assert folder.run(run).is_finished


@pytest.mark.parametrize("algorithm", ["sac", "drqv2"])
def test_a_run_that_is_stopped_in_its_final_evaluation_ends_as_any_other(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(algorithm)
    for name in ("whole", "stopped"):
        ResultsFolder(tmp_path / name).make("0")
    train_run(run, tmp_path / "whole", "cpu")
    evaluate = final_evaluation.evaluate_policy

    def stop_after_one_episode(model: Any, env: Any, episodes: int, **options: Any) -> Any:
        evaluate(model, env, 1, **options)
        raise CrashError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(final_evaluation, "evaluate_policy", stop_after_one_episode)
        with pytest.raises(CrashError):
            train_run(run, tmp_path / "stopped", "cpu")
    train_run(run, tmp_path / "stopped", "cpu")
    tables = [results(ResultsFolder(tmp_path / name).collect()) for name in ("whole", "stopped")]
    assert tables[0] == tables[1]
    assert {(line["final_episodes"], line["final_return_mean"] != "") for line in tables[0]} == {("3", True)}


def test_a_finished_run_leaves_what_the_zoo_leaves_and_its_provenance(tmp_path: Path) -> None:
    run = run_of("sac", agent_steps=300, checkpoints=1)
    folder = sweep(grid_of(run), tmp_path, ThisProcess("cpu"), train_run, command=["sb3-sparse", "sweep", "my.yml"])
    (zoo,) = folder.run(run).folder.glob("sac/*")
    assert {"Pendulum-v1.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv", "plasticity.csv"} <= {
        path.name for path in zoo.iterdir()
    }
    found = RunFolder(zoo)
    assert found.zoo_arguments["algo"] == "sac" and found.policy_kwargs["sparsity"] == 0.5
    record = json.loads(folder.run(run).record.read_text())
    assert record["settings"] == run.settings() and record["command"] == ["sb3-sparse", "sweep", "my.yml"]
    assert len(record["final_returns"]) == 3
    assert record["seconds"] > 0 and record["versions"]["torch"] and record["active_parameters"] < record["parameters"]
    lines = folder.collect()
    with np.load(zoo / "evaluations.npz") as saved:
        assert [float(line["return_mean"]) for line in lines] == pytest.approx(saved["results"].mean(axis=1), abs=1e-3)
        assert [int(line["env_steps"]) for line in lines] == saved["timesteps"].tolist() == [150, 300]
    assert all(float(line["critic_srank"]) > 0 and float(line["critic_gradient_norm"]) > 0 for line in lines[:1])


def fake_train(run: GridRun, results: Path, device: str = "cpu", command: Sequence[str] = ()) -> None:
    """In place of training: notes that it was called, and fails where the seed says so."""
    folder = ResultsFolder(results)
    with folder.run(run).claim():
        if folder.run(run).is_finished:
            return
        with (results / "calls.txt").open("a") as calls:
            calls.write(f"{run.seed}\n")
        if run.seed == 13:
            raise ValueError("13 is no good")
        if run.seed == 66 and not (results / "died").exists():
            (results / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        record = {"settings": run.settings(), "seconds": 1.0, "versions": {}, "host": "", **dict.fromkeys(PROVENANCE, "1")}
        folder.write_record(run, record, [{"run": run.id, "env_steps": 1, "return_mean": run.seed, "total_env_steps": 1}])


def seeded(*seeds: int) -> list[GridRun]:
    return [GridRun("sac", "Pendulum-v1", seed=seed, agent_steps=10) for seed in seeds]


def calls(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "calls.txt").read_text().split()]


def test_what_is_finished_is_not_repeated_and_grids_share_a_folder(tmp_path: Path) -> None:
    sweep(grid_of(*seeded(0, 1), name="first"), tmp_path, ThisProcess(), fake_train)
    sweep(grid_of(*seeded(1, 2), name="second"), tmp_path, ThisProcess(), fake_train)
    assert calls(tmp_path) == [0, 1, 2]
    assert sorted(int(line["return_mean"]) for line in read_table(tmp_path / "table.csv")) == [0, 1, 2]
    assert {facts["stem"] for facts in ResultsFolder(tmp_path).noted_grids()} == {"first", "second"}


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    runs = seeded(0, 13, 1)
    with pytest.raises(SweepError, match=r"(?s)1 of 3 runs failed.*13 is no good.*error\.txt"):
        sweep(grid_of(*runs), tmp_path, ThisProcess(), fake_train)
    assert calls(tmp_path) == [0, 13, 1]
    assert "Traceback" in ResultsFolder(tmp_path).run(runs[1]).error.read_text()
    with pytest.raises(SweepError):  # the same command tries what failed, and only that
        sweep(grid_of(*runs), tmp_path, ThisProcess(), fake_train)
    assert calls(tmp_path) == [0, 13, 1, 13]


def test_a_full_disk_is_told_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(grid_of(*seeded(0)), tmp_path, ThisProcess(), fake_train)
    table = (tmp_path / "table.csv").read_text()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results_folder, "write_text", full)
        patch.setattr(ResultsFolder, "note_grid", lambda *_: None)
        with pytest.raises(SweepError, match="No space left on device"):
            sweep(grid_of(*seeded(0, 1)), tmp_path, ThisProcess(), fake_train)
    assert (tmp_path / "table.csv").read_text() == table
    sweep(grid_of(*seeded(0, 1)), tmp_path, ThisProcess(), fake_train)
    assert len(read_table(tmp_path / "table.csv")) == 2
    assert not list(tmp_path.rglob("*.partial"))


def test_folders_of_other_versions_and_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="neither empty nor a folder of results"):
        sweep(grid_of(*seeded(0)), tmp_path / "mine", ThisProcess(), fake_train)
    (tmp_path / "results.json").write_text(json.dumps({"layout": 99, "version": "9.9"}))
    with pytest.raises(ValueError, match=r"sb3-sparse 9\.9, in layout 99"):
        sweep(grid_of(*seeded(0)), tmp_path, ThisProcess(), fake_train)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        sweep(grid_of(*seeded(0)), tmp_path, ThisProcess(), fake_train)
    assert not (tmp_path / "calls.txt").exists()


def hold(folder: Path, run: GridRun, held: Any) -> None:
    with ResultsFolder(folder).run(run).claim():
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    ResultsFolder(tmp_path).make("0")
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, seeded(0)[0], held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_two_processes_do_not_train_the_same_run(tmp_path: Path, holder: Any) -> None:
    run = seeded(0)[0]
    with pytest.raises(BusyError):
        with ResultsFolder(tmp_path).run(run).claim():
            pass
    holder.kill()  # as the kernel would: the claim ends with its process
    holder.join()
    with ResultsFolder(tmp_path).run(run).claim():
        pass


def test_a_run_that_another_grid_is_training_is_waited_for(
    tmp_path: Path, holder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_BUSY_SECONDS", 0.1)
    original = sweep_module.time.sleep

    def sleep(seconds: float) -> None:
        holder.kill()
        original(seconds)

    monkeypatch.setattr(sweep_module.time, "sleep", sleep)
    sweep(grid_of(*seeded(0, 1)), tmp_path, ThisProcess(), fake_train)
    assert calls(tmp_path) == [1, 0]


def test_ray_tries_a_run_whose_worker_died_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    folders = (str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # workers import this file
    place = RayCluster(workers=1, retries=1, device="cpu", gpus=0)
    with pytest.raises(SweepError, match="1 of 3 runs failed"):
        sweep(grid_of(*seeded(66, 13, 1)), tmp_path, place, fake_train)
    assert sorted(calls(tmp_path)) == [1, 13, 66, 66]
    assert len(read_table(tmp_path / "table.csv")) == 2


def test_processes_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # they import this file
    with pytest.raises(SweepError, match="13 is no good"):
        sweep(grid_of(*seeded(0, 13, 1)), tmp_path, Processes(2), fake_train)
    assert sorted(calls(tmp_path)) == [0, 1, 13]
    with pytest.raises(SweepError, match="a process of this command died"):
        sweep(grid_of(*seeded(0, 66)), tmp_path, Processes(1), fake_train)
    sweep(grid_of(*seeded(0, 66)), tmp_path, Processes(1), fake_train)
    assert len(read_table(tmp_path / "table.csv")) == 3


def half_an_hour(run: GridRun, results: Path, device: str, command: Sequence[str]) -> None:
    """In a second."""
    paths = ResultsFolder(results).run(run)
    paths.folder.mkdir(parents=True)
    for step in range(100, 600, 100):
        paths.progress.write_text(str(step))
        time.sleep(0.2)
    fake_train(run, results, device, command)


def test_what_is_going_on_is_told_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(sweep_progress, "_MOST_OFTEN", 0.3)
    run = replace(seeded(0)[0], agent_steps=610)
    sweep(grid_of(run), tmp_path, ThisProcess(), half_an_hour)
    line = r"^\[0/1\] (.*): (\d+) of 610 agent steps, \S+ a second, about \d+ s left$"
    told = re.findall(line, capsys.readouterr().out, re.MULTILINE)
    assert len(told) >= 2 and {name for name, _ in told} == {run.id}
    assert [int(step) for _, step in told] == sorted({int(step) for _, step in told})


def test_the_time_that_is_left_is_that_of_the_algorithms_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0

    class Paths:
        def __init__(self, *steps: int):
            self.steps = steps

        def read_progress(self) -> int:
            return self.steps[seconds]

    monkeypatch.setattr(sweep_progress, "time", SimpleNamespace(monotonic=lambda: float(seconds)))
    monkeypatch.setattr(sweep_progress, "is_moving", lambda paths: paths.read_progress() > 0)
    slow, fast = replace(seeded(0)[0], agent_steps=100), replace(seeded(1)[0], algorithm="stream_ac", agent_steps=10_000)
    runs: Any = {slow.id: (slow, Paths(0, 50, 100, 100, 100, 100)), fast.id: (fast, Paths(0, 0, 0, 10, 1_000, 2_000))}
    told = []
    with sweep_progress.SweepProgress(runs, 0) as progress:
        for seconds in range(1, 6):  # noqa: B007
            progress.tick()
            told.append(progress._remaining())
    # 9,000 steps after 1,000 in two seconds, then 8,000 after 2,000 in three.
    assert told == [", about 1 s left without stream_ac", "", "", ", about 18 s left", ", about 12 s left"]


@pytest.mark.parametrize("algorithm", ["sac", "stream_ac", "tqc", "ppo", "drqv2"])
def test_what_a_run_takes_is_estimated_from_a_few_updates(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_cost, "_LEAST_SECONDS", 0.1)
    cost = grid_cost.run_cost(run_of(algorithm), "cpu")
    assert 0.01 < cost.seconds < 300 and cost.memory > 1e8 and cost.gpu_memory == 0
    assert cost.disk > 1_000 and cost.checkpoint > cost.disk / 2


def test_a_run_is_the_same_one_by_whatever_label(tmp_path: Path) -> None:
    (plain,) = seeded(0)
    labelled = replace(plain, name="S = 0.5, mine")
    assert labelled.id == f"sac-Pendulum-S0.5-mine-seed0-{plain.key}" != plain.id
    sweep(grid_of(plain), tmp_path, ThisProcess(), fake_train)
    sweep(grid_of(labelled), tmp_path, ThisProcess(), fake_train)
    assert calls(tmp_path) == [0]
    assert GridResults.of(grid_of(labelled), tmp_path).final(labelled) == 0.0


def test_an_unreachable_cluster_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"Nothing answers at '127\.0\.0\.1:1'"):
        sweep(grid_of(*seeded(0)), tmp_path / "results", RayCluster("127.0.0.1:1"), fake_train)
    assert not (tmp_path / "results").exists()


GRID = """
algorithm: sac
task: Pendulum-v1
seeds: 1
agent_steps: 120
arms:
  - {width_scale: 0.0625, sparsity: [0, 0.5]}
evaluation: {freq: 60, episodes: 1}
hyperparameters: {policy: sb3_sparse.SparseSimBaPolicy, learning_starts: 50, batch_size: 16}
checkpoints: 1
"""


def test_sweep_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    grid, output = tmp_path / "mine.yml", tmp_path / "results"
    grid.write_text(GRID)
    command = ["sweep", str(grid), "--output", str(output), "--local", "--device", "cpu"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs" in printed and not output.exists()
    hours, memory = re.search(r"core-hours +(\S+), (\d+) s for a run", printed), re.search(r"memory +(\d+) MB", printed)
    assert hours and memory and int(memory[1]) > 100
    # Two runs; half a second is what rounding may take from each.
    assert 0 < float(hours[1]) == pytest.approx(2 * int(hours[2]) / 3600, abs=1 / 3600, rel=0.05)
    assert "unknown, as no GPU was timed" in printed
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "[2/2]" in printed and "mine.png" in printed
    assert (output / "figures" / "mine.png").stat().st_size > 5_000
    with (output / "table.csv").open() as file:
        assert {(line["sparsity"], line["env_steps"]) for line in csv.DictReader(file)} == {
            (sparsity, steps) for sparsity in ("0.0", "0.5") for steps in ("60", "120")
        }
    assert main(command) == 0
    assert "2 are done" in capsys.readouterr().out
    assert main(["report", str(output), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "data:image/svg+xml;base64," in page and "w = 0.0625, S = 0.5" in page and "2 of 2 runs are finished" in page


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("sac", "sca"), [], "no algorithm 'sca'"),
        (("Pendulum-v1", "Pendulum-v0"), [], "Pendulum-v0"),
        (("width_scale: 0.0625", "width: 8"), [], "has no argument 'width'"),
        (("batch_size", "batchsize"), [], "has no argument 'batchsize'"),
        (("SparseSimBaPolicy", "SparsePolicy"), [], "no policy 'sb3_sparse.SparsePolicy' for sac"),
        (
            ("sb3_sparse.SparseSimBaPolicy", "MlpPolcy"),
            [],
            "no policy 'MlpPolcy' for sac: give module.Class, or one of MlpPolicy",
        ),
        (("batch_size: 16", "normalize: 'dict(gamma=print(1))'"), [], "print(1) would have to be executed"),
        (("batch_size: 16", "policy_kwargs: 'dict(f=lambda: 1)'"), [], "lambda: 1 would have to be executed"),
        (("", ""), ["--budget", "huge"], "no budget 'huge'"),
        (("", ""), ["--local", "--workers", "2"], "--local runs in this process"),
        (("", ""), ["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_grids_and_options_are_named_before_anything_is_written(
    change: tuple[str, str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "mine.yml"
    grid.write_text(GRID.replace(*change))
    assert main(["sweep", str(grid), "--output", str(tmp_path / "results"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_results_that_were_copied_half_are_named_and_left_out(tmp_path: Path) -> None:
    folder, runs = ResultsFolder(tmp_path / "results"), [GridRun("sac", "Pendulum-v1", seed=seed) for seed in range(4)]
    folder.make("0")
    for run in runs:
        folder.write_record(run, {"seconds": 1}, [{"run": run.id, "env_steps": 1}])
    for file in (folder.run(runs[1]).record, folder.run(runs[2]).lines):
        file.write_text(file.read_text()[:-5])
    folder.run(runs[3]).lines.unlink()
    folder.note_grid("mine", {"stem": "mine"})
    (folder.grids / "other.json").write_text("{")
    with pytest.warns(UserWarning) as told:
        assert [line["run"] for line in folder.collect()] == [runs[0].id]
        assert folder.noted_grids() == [{"stem": "mine"}]
    damaged = (folder.run(runs[1]).record, folder.run(runs[2]).lines, folder.run(runs[3]).lines, folder.grids / "other.json")
    assert all(any(str(file) in str(warning.message) for warning in told) for file in damaged)


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "holds no results of a grid" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_driver_goes_on(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yml"
    grid.write_text(GRID.replace("agent_steps: 120", "agent_steps: 2000").replace("checkpoints: 1", "checkpoints: 10"))
    words = [sys.executable, "-m", "sb3_sparse", "sweep", str(grid), "--output", str(tmp_path / "results"), "--local"]
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "results").glob("runs/*/checkpoint/checkpoint-*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.count("finished") == 2
    undisturbed = [*words[:-2], str(tmp_path / "again"), "--local"]
    subprocess.run(undisturbed, capture_output=True, check=True)
    tables = [results(read_table(tmp_path / name / "table.csv")) for name in ("results", "again")]
    assert tables[0] == tables[1]
