"""What checkpoints cost, from the command line down."""

import json
from functools import partial
from pathlib import Path

import pytest

from sb3_sparse import SAC, SparseSimBaPolicy
from sb3_sparse.cli.command_line import main
from sb3_sparse.experiments.benchmarks import checkpoint_cost as module
from sb3_sparse.experiments.benchmarks import checkpoint_throughput as throughput
from sb3_sparse.experiments.benchmarks.checkpoint_cost import (
    CheckpointCost,
    checkpoint_cost,
    format_checkpoints,
    random_episodes,
)
from sb3_sparse.experiments.benchmarks.checkpoint_throughput import (
    CheckpointThroughput,
    Trained,
    checkpoint_throughput,
    format_throughput,
)


def small() -> SAC:
    kwargs = {"width_scale": 0.125, "sparsity": 0.5}
    return SAC(SparseSimBaPolicy, random_episodes(), policy_kwargs=kwargs, buffer_size=500, learning_starts=50, device="cpu")


def test_further_checkpoints_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_FREQ", 100)
    (cost,) = checkpoint_cost([20_000], 0.125, 0.5, rounds=2)
    row = 4 * (67 + 67 + 21 + 3)  # observations, action, reward, done, time-out
    assert cost.first_bytes > 20_000 * row > cost.next_bytes > 0
    assert min(cost.first_ms, cost.next_ms, cost.next_cpu_ms) > 0


def test_throughput_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "checkpoint_throughput", partial(checkpoint_throughput, save_freq=50))
    monkeypatch.setattr(throughput, "trained_models", lambda env: [Trained("small", small, 100)])
    assert main(["bench", "checkpoint-throughput", "--rounds", "2", "--json", str(tmp_path / "costs.json")]) == 0
    (result,) = json.loads((tmp_path / "costs.json").read_text())
    assert result["what"] == "small" and len(result["process"]) == len(result["wall"]) == 2
    # Two checkpoints in a hundred steps cost much, but not everything.
    assert 0 < min(result["process"]) < 1.2


def test_no_round_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpoint-throughput", "--rounds", "0"]) == 1
    assert "rounds must be an integer of at least 1, got 0" in capsys.readouterr().err


def test_figures_are_not_lost_for_want_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpoint-throughput", "--json", str(tmp_path / "none" / "costs.json")]) == 1
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


def test_tables() -> None:
    cost = CheckpointCost(100_000, 75_000_000, 400.4, 26_000_000, 120.0, 101.0)
    assert format_checkpoints([cost]).splitlines()[2] == "| 100,000 | 75 MB, 400 ms | 26.0 MB, 120 ms | 101 ms |"
    result = CheckpointThroughput("SAC", 20_000, 60.25, [0.98, 1.0, 0.99], [0.9, 0.95, 0.94])
    expected = "| SAC | 20,000 | 60.2 | 0.990 (0.980 to 1.000) | 0.940 (0.900 to 0.950) |"
    assert format_throughput([result]).splitlines()[2] == expected
