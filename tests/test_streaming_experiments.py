"""Runs, figures and benchmark of Stream AC, from the command line down."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from sb3_sparse.experiments.results import read_rows
from sb3_sparse.experiments.stream_cost import PLAIN, stream_cost
from sb3_sparse.experiments.streaming import (
    COLUMNS,
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
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.zoo.command_line import main

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
            {**dict.fromkeys(COLUMNS, ""), "task": run.task, "width": run.width, "init": run.init,
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
        ("agent", PLAIN), ("agent", "torch, S=0"), ("agent", "numba, S=0"), ("agent", "numba, S=0.5"),
        ("Pendulum-v1", PLAIN), ("Pendulum-v1", "numba, S=0"), ("Pendulum-v1", "numba, S=0.5"),
    ]  # fmt: skip
    assert costs[0].speedup == 1.0 and costs[2].speedup > 5
    path = tmp_path / "bench.json"
    arguments = ["--width", "8", "--sparsity", "0", "--rounds", "1", "--env", "Pendulum-v1", "--json", str(path)]
    assert main(["bench", "--stream-ac", *arguments]) == 0
    assert [entry["variant"] for entry in json.loads(path.read_text())][:2] == [PLAIN, "torch, S=0"]
    assert "steps per second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0"], "width must be an integer"),
        (["--env", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["--sparsity", "1.5", "--env", "Pendulum-v1"], "sparsity must lie in [0, 1)"),
    ],
)
def test_bad_arguments_are_named_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    assert main(["bench", "--stream-ac", *arguments]) == 1
    assert message in capsys.readouterr().err
