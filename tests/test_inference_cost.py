"""The benchmark of single passes, from the command line down."""

import json
from pathlib import Path

import pytest

from sb3_sparse.cli.command_line import main
from sb3_sparse.experiments.benchmarks import inference_cost as module
from sb3_sparse.experiments.benchmarks.inference_cost import InferenceCost, format_passes, inference_cost


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_ROUND", 1e-4)


def test_all_networks_are_measured() -> None:
    costs = inference_cost([0.125, 0.25], [0.0, 0.8], rounds=1)
    assert {(c.network, c.width_scale, c.sparsity) for c in costs} == {
        (network, width, sparsity) for network in ("actor", "critic") for width in (0.125, 0.25) for sparsity in (0.0, 0.8)
    }
    assert all(min(cost.dense_us, cost.sparse_us, cost.exported_us) > 0 for cost in costs)


def test_table_shows_how_many_times_faster() -> None:
    row = format_passes([InferenceCost("actor", 5.0, 0.9, 400.0, 200.0, 50.0)]).splitlines()[-1]
    assert row == "| actor | 5 | 0.9 | 400 | 200 | 2.00 | 50 | 8.00 |"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "inference.json"
    arguments = ["--width-scale", "0.125", "--sparsity", "0.8", "--rounds", "1", "--json", str(path)]
    assert main(["bench", "inference", *arguments]) == 0
    assert [entry["network"] for entry in json.loads(path.read_text())] == ["actor", "critic"]
    assert "| critic | 0.125 | 0.8 |" in capsys.readouterr().out
