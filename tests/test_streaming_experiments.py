"""Runs, figures and benchmark of Stream AC, from the command line down."""

import json
from pathlib import Path

import pytest

from sb3_sparse.cli.command_line import main
from sb3_sparse.experiments.benchmarks.stream_cost import PLAIN, stream_cost
from sb3_sparse.experiments.figures.grid_figures import draw_figure
from sb3_sparse.experiments.sweep.grid import figure_grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_table import TABLE_COLUMNS, read_table

RESULTS = Path(__file__).parent.parent / "sb3_sparse" / "experiments" / "results" / "streaming.csv"


def shipped(number: int) -> GridResults:
    pytest.importorskip("yaml")
    return GridResults.select(figure_grid(number, "short"), read_table(RESULTS))


def test_the_shipped_table_is_that_of_the_grid() -> None:
    results = shipped(13)
    assert tuple(read_table(RESULTS)[0]) == TABLE_COLUMNS
    assert results.problems() == [] and len(results.lines) == 18
    finals = {
        label: [round(results.final(run) or 0) for run in results.grid.runs if run.label == label]
        for label in ("width = 128, dense", "width = 512, SparseInit", "width = 512, S = 0.9")
    }
    # As the README has them.
    assert finals["width = 128, dense"] == [818, 428, 378]
    assert finals["width = 512, SparseInit"] == [509, 448, 471]
    assert finals["width = 512, S = 0.9"] == [529, 411, 544]


@pytest.mark.parametrize("number", [12, 13, 17])
def test_streaming_figures_from_the_shipped_table(number: int, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    files = draw_figure(shipped(number), tmp_path, tmp_path / "figure")
    assert [file.suffix for file in files] == [".png", ".pdf", ".svg"]
    assert image.imread(files[0])[..., :3].std() > 0.05


def test_several_figures_and_what_is_no_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    grid_cost = pytest.importorskip("sb3_sparse.experiments.benchmarks.grid_cost", reason="needs the extra zoo")
    monkeypatch.setattr(grid_cost, "estimate", lambda *_: None)
    assert main(["figure", "12", "13", "--budget", "smoke", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("4 runs, 16,000 agent steps") == 2
    added = ["--set", "seeds=3", "--arm", "width=16", "sparsity=0.3", "label=own", "--arm", "width=8"]
    assert main(["figure", "12", "--budget", "smoke", *added, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "18 runs" in printed and printed.count("-own-seed") == 3
    with pytest.raises(SystemExit):
        main(["figure", "19"])
    assert "invalid choice: 19" in capsys.readouterr().err


@pytest.mark.slow
def test_figure_from_the_command_line(tmp_path: Path) -> None:
    """The table is that of the runner that made the shipped table, line by line."""
    pytest.importorskip("mujoco")
    command = ["figure", "13", "--budget", "smoke", "--output", str(tmp_path), "--local"]
    assert main(command) == 0
    assert (tmp_path / "figures" / "figure-13-smoke.png").stat().st_size > 5_000
    lines = [line for line in read_table(tmp_path / "table.csv") if line["sparsity"] == "0.5"]
    assert [float(line["return_mean"]) for line in lines] == pytest.approx([4.6, 83.1, 220.4, 94.5], rel=0.1)
    assert [int(line["episodes"]) for line in lines] == [25, 6, 5, 5]


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
    assert main(["bench", "stream-ac", *arguments]) == 0
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
    assert main(["bench", "stream-ac", *arguments]) == 1
    assert message in capsys.readouterr().err
