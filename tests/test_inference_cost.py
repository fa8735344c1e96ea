"""The benchmark of single passes, from the command line down."""

import json
import shutil
from pathlib import Path

import pytest

from sb3_sparse.cli.command_line import main
from sb3_sparse.deployment import export
from sb3_sparse.experiments.benchmarks import inference_cost as module
from sb3_sparse.experiments.benchmarks.deployment_cost import MODELS, deployment_cost, format_deployment
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


def test_every_format_beside_algorithms() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    costs = deployment_cost(0.5, 0.9, 1, ["TD3", "DrQv2"], seconds=1e-4)
    working = {(cost.algorithm, cost.column) for cost in costs if not cost.obstacle}
    expected = {("TD3", "onnx"), ("TD3", "torchscript"), ("TD3", "sparse, NumPy"), ("TD3", "c")}
    assert working - {("TD3", "sparse, numba")} == expected | {("DrQv2", "onnx"), ("DrQv2", "torchscript")}
    for cost in costs:
        assert bool(cost.obstacle) or (cost.bytes > 10_000 and 0 < cost.us and 0 < cost.deviation <= 1e-5)
    _, _, td3, drqv2, *obstacles = format_deployment(costs).splitlines()
    assert td3.startswith("| TD3 | 0.5 | 0.9 | ") and drqv2.endswith(" | - | - | - |")
    with pytest.raises(ValueError, match=r"Unknown algorithms \['sac'\]: choose from SAC, TD3"):
        deployment_cost(algorithms=["sac"])
    assert "DrQv2, c: The policy looks at images." in "\n".join(obstacles)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", MODELS)
def test_all_algorithms_that_are_compared_can_be_built(algorithm: str, tmp_path: Path) -> None:
    model = MODELS[algorithm]({"width_scale": 0.25, "sparsity": 0.5})
    export(model, tmp_path / "policy", "torchscript" if algorithm == "DrQv2" else "sparse")
