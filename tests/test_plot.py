"""Figures from the folders of runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_sparse import PlasticityCallback, ResetCallback, SparseSimBaPolicy, sparsify
from sb3_sparse.callbacks.measurement_file import COLUMNS
from sb3_sparse.cli.command_line import main
from sb3_sparse.experiments.figures import panels
from sb3_sparse.experiments.figures.panels import DENSE_COLOURS, SPARSE_COLOURS
from sb3_sparse.experiments.figures.run_figures import _join, group, group_styles, plot_runs
from sb3_sparse.zoo.run_folders import RunFolder, find_runs


def train(folder: Path, sparsity: float = 0.0, reset_freq: int | None = None, policy: Any = "MlpPolicy") -> None:
    """A run of 60 steps by a script of SB3."""
    kwargs: dict[str, Any] = {"net_arch": {"pi": [128, 128], "qf": [16, 16]}, "n_critics": 1}
    if policy is SparseSimBaPolicy:
        kwargs = {"sparsity": sparsity, "width_scale": 0.0625}
    env = Monitor(gym.make("Pendulum-v1"), str(folder / "monitor.csv"))
    model = SAC(policy, env, policy_kwargs=kwargs, learning_starts=30, buffer_size=60, batch_size=16, device="cpu")
    if sparsity and policy == "MlpPolicy":
        sparsify(model, {"actor": 0.0, "critic": sparsity})
    callbacks: list[BaseCallback] = [
        EvalCallback(Monitor(gym.make("Pendulum-v1")), n_eval_episodes=1, eval_freq=30, log_path=str(folder), verbose=0),
        PlasticityCallback(log_freq=30, covariance_freq=60),
    ]
    model.learn(60, callback=[*callbacks, *([ResetCallback(reset_freq)] if reset_freq else [])])
    model.save(folder / "model.zip")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.warns(UserWarning, match="PlasticityCallback"):  # the buffer is smaller than a measurement's batch
        train(folder / "mlp-dense-seed0")
        train(folder / "mlp-S0.6-reset-seed0", 0.6, reset_freq=40)
        train(folder / "simba-S0.5-seed0", 0.5, policy=SparseSimBaPolicy)
    return folder


def fill(folder: Path, measurements: list[tuple[Any, ...]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(COLUMNS), *(",".join(map(str, m)) for m in measurements)]
    (folder / "plasticity.csv").write_text("\n".join(lines) + "\n")


def test_runs_are_drawn_from_the_command_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs.iterdir():  # longer than a test can train
        fill(
            run,
            [(s, 2 * s, s, n, "", m, 0.5) for s in (30, 60) for n in ("critic", "actor") for m in ("dormant_0.1", "srank")],
        )
        np.savez(run / "plasticity-covariance-critic-30.npz", matrix=np.eye(8))
        np.savez(run / "plasticity-covariance-critic-60.npz", matrix=-np.eye(8))
    assert main(["plot", str(runs), "--output", str(tmp_path / "figures")]) == 0
    names = {
        f"{name}.{kind}"
        for name in ("learning_curves", "plasticity", "covariance", "layer_sparsity")
        for kind in ("png", "pdf", "svg")
    }
    assert {file.name for file in (tmp_path / "figures").iterdir()} == names
    assert {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()} == names
    for file in (tmp_path / "figures").glob("*.png"):
        assert len(Image.open(file).convert("L").getcolors()) > 20, file  # something is on it
    assert all(file.read_bytes().startswith(b"%PDF") for file in (tmp_path / "figures").glob("*.pdf"))


def test_tables_of_the_same_name_have_pictures_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [tmp_path / place / "table.csv" for place in ("a/x", "b/x")]
    for table in tables:
        table.parent.mkdir(parents=True)
        table.write_text("label,task,sparsity,env_steps,return_mean\nSimBa,Pendulum-v1,0.0,10,1.0\n")
    main(["plot", *map(str, [*tables, tables[0]]), "--output", str(tmp_path / "plots")])
    names = ["a-x-table.png", "b-x-table.png"]
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == names
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [*names, names[0]]


def test_what_a_run_left_is_read(runs: Path) -> None:
    found = {run.name: run for run in find_runs([runs])}
    assert set(found) == {"mlp-dense", "mlp-S0.6-reset", "simba-S0.5"}
    assert {run.task for run in found.values()} == {"Pendulum-v1"}
    assert [found[name].sparsity for name in ("mlp-dense", "mlp-S0.6-reset", "simba-S0.5")] == [0.0, 0.6, 0.5]
    curve = found["mlp-dense"].curve
    assert curve is not None and curve.is_evaluation and len(curve.env_steps) == 2
    layers = found["mlp-S0.6-reset"].layer_sparsities
    assert set(layers) == {
        *(f"actor.{n}" for n in ("latent_pi.0", "latent_pi.2", "mu", "log_std")),
        *(f"critic.qf0.{i}" for i in (0, 2, 4)),
    }
    assert layers["actor.latent_pi.0"] == 0.0 and 0.3 < layers["critic.qf0.2"] < 0.9


def test_dense_networks_are_warm_and_sparse_ones_cool() -> None:
    names = ["a-dense-seed0", "a-dense-seed1", "a-dense-reset-seed0", "a-S0.9_1", "a-S0.9-reset-seed0", "b-S0.5"]
    groups = group([RunFolder(Path("/nowhere") / name) for name in names])
    assert {name: len(members) for name, members in groups.items()}["a-dense"] == 2
    colours = {name: style["color"] for name, style in group_styles(groups).items()}
    assert {colours["a-dense"], colours["a-dense-reset"]} == set(DENSE_COLOURS[:2])
    assert colours["b-S0.5"] == SPARSE_COLOURS[0]
    assert {colours["a-S0.9"], colours["a-S0.9-reset"]} == set(SPARSE_COLOURS[1:3])
    assert next(iter(groups)) == "a-dense"


def test_seeds_are_joined_at_common_steps() -> None:
    assert _join([{1: 1.0, 2: 2.0, 3: 3.0}, {1: 3.0, 2: 4.0}]) == {1: [1.0, 3.0], 2: [2.0, 4.0]}
    joined = _join([{10: 1.0, 20: 2.0}, {9: 0.0, 21: 12.0}])  # episodes end where they end
    assert list(joined) == [10, 20] and joined[20] == pytest.approx([2.0, 11.0])
    assert _join([{}, {}]) == {}


def test_a_folder_of_the_zoo_is_understood(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    run = tmp_path / "sac" / "Pendulum-v1_1"
    (run / "Pendulum-v1").mkdir(parents=True)
    arguments = [["algo", "sac"], ["env", "Pendulum-v1"], ["env_kwargs", {"action_repeat": 3}]]
    config = [["policy", "MlpPolicy"], ["policy_kwargs", "dict(sparsity=dict(actor=0.1, critic=0.9), width_scale=5)"]]
    (run / "Pendulum-v1" / "args.yml").write_text(yaml.dump(arguments))
    (run / "Pendulum-v1" / "config.yml").write_text(yaml.dump(config))
    header = "#" + json.dumps({"t_start": 0.0, "env_id": "Pendulum-v1"})
    for number, ends in enumerate([(1.0, 3.0), (2.0, 4.0)]):  # two environments
        lines = [f"{100 * number + end},10,{end}" for end in ends]
        (run / f"{number}.monitor.csv").write_text("\n".join([header, "r,l,t", *lines, "7,1"]))  # and a crash
    (found,) = find_runs([tmp_path])
    assert (found.name, found.sparsity, found.task, found.action_repeat) == ("sac S = 0.9, w = 5", 0.9, "Pendulum-v1", 3)
    curve = found.curve
    assert curve is not None and not curve.is_evaluation
    assert curve.env_steps == (30, 60, 90, 120) and curve.returns == (1.0, 102.0, 3.0, 104.0)
    assert RunFolder(run, repeat=2).action_repeat == 2


def test_a_run_in_an_environment_that_is_not_registered_here_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "MyOwn-v0"}\nr,l,t\n1.0,10,1.0\n2.0,10,2.0\n')
    with pytest.warns(UserWarning, match="MyOwn-v0 is not registered here.*--action-repeat N"):
        assert (curve := RunFolder(tmp_path).curve) is not None and curve.env_steps == (10, 20)


def evaluated(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "evaluations.npz", timesteps=np.array([10, 20]), results=np.full((2, 1), value))
    return folder


def of_the_zoo(folder: Path, seed: int, env_kwargs: Any = None, **hyperparameters: Any) -> Path:
    yaml = pytest.importorskip("yaml")
    arguments = [["algo", "sac"], ["env", "Pendulum-v1"], ["seed", seed], ["env_kwargs", env_kwargs]]
    (evaluated(folder, float(seed)) / "Pendulum-v1").mkdir()
    (folder / "Pendulum-v1" / "args.yml").write_text(yaml.dump(arguments))
    (folder / "Pendulum-v1" / "config.yml").write_text(yaml.dump([[key, value] for key, value in hyperparameters.items()]))
    return folder


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 0.1}, "sac dense, learning_rate = 0.1"),
        ({"update_rule": "paper"}, "sac dense, update_rule = paper"),
        ({"policy": "MlpPolicy"}, "sac dense, policy = MlpPolicy"),
        ({"policy_kwargs": "dict(n_critics=2)"}, "sac dense, n_critics = 2"),
        ({"env_kwargs": {"action_repeat": 4}}, "sac dense, action_repeat = 4, env_kwargs = {'action_repeat': 4}"),
    ],
)
def test_runs_of_the_zoo_are_seeds_only_where_nothing_else_differs(change: dict[str, Any], name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        of_the_zoo(tmp_path / f"Pendulum-v1_{seed}", seed, policy_kwargs="dict()")
    of_the_zoo(tmp_path / "Pendulum-v1_2", 2, **{"policy_kwargs": "dict()", **change})
    groups = group(find_runs([tmp_path]))
    assert sorted(len(members) for members in groups.values()) == [1, 2] and name in groups


def test_runs_of_scripts_in_other_folders_are_no_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("wide/run_0", "wide/run_1", "deep/run_0"):
        evaluated(Path(folder))
    groups = group(find_runs([Path()]))
    assert {name: len(runs) for name, runs in groups.items()} == {"run, folder = wide": 2, "run, folder = deep": 1}


CUT_OFF = {
    "evaluations.npz": lambda file: file.write_bytes(file.read_bytes()[:200]),
    "monitor.csv": lambda file: file.write_bytes(b""),
    "plasticity.csv": lambda file: file.write_text(",".join(COLUMNS[:3]) + "\n1,2,3\n"),
    "plasticity-covariance-critic-60.npz": lambda file: file.write_bytes(file.read_bytes()[:50]),
    "model.zip": lambda file: file.write_bytes(file.read_bytes()[:500]),
}


@pytest.fixture(scope="module")
def drawn(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Two seeds of a run, and the names of their figures."""
    pytest.importorskip("matplotlib")
    root = tmp_path_factory.mktemp("drawn")
    for seed in range(2):
        folder = shutil.copytree(runs / "mlp-S0.6-reset-seed0", root / "runs" / f"mlp-S0.6-seed{seed}")
        for steps in (30, 60):  # longer than a test can train
            np.savez(folder / f"plasticity-covariance-critic-{steps}.npz", matrix=np.eye(8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "FORMATS", ("png",))
        return root / "runs", {file.name for file in plot_runs(find_runs([root / "runs"]), root / "figures")}


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_file_that_is_being_written_is_named_and_the_rest_drawn(
    name: str, drawn: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "FORMATS", ("png",))
    whole, before = drawn
    shutil.copytree(whole, tmp_path / "runs")
    damaged = tmp_path / "runs" / "mlp-S0.6-seed1" / name
    CUT_OFF[name](damaged)
    with pytest.warns(UserWarning, match=rf"mlp-S0\.6-seed1.{re.escape(name)} is left out, it cannot be read"):
        found = find_runs([tmp_path / "runs"])
        after = {file.name for file in plot_runs(found, tmp_path / "after")}
    # Without its monitor, a run's task is unknown, and it has figures of its own.
    assert {name.removeprefix("Pendulum-v1-") for name in after} >= before
    assert found[1].curve is None or name != "evaluations.npz"  # and not returns of training episodes in their place


def test_a_run_of_which_nothing_is_written_yet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evaluated(tmp_path / "run_0")
    (tmp_path / "run_1").mkdir()
    (tmp_path / "run_1" / "monitor.csv").touch()
    with pytest.warns(UserWarning, match=r"run_1.monitor\.csv is left out"):
        assert plot_runs(find_runs([tmp_path]), tmp_path / "figures")


def test_a_run_that_has_just_begun_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run_0").mkdir()
    (tmp_path / "run_0" / "monitor.csv").write_text('#{"env_id": "Pendulum-v1"}\nr,l,t\n')
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "figures")]) == 1
    assert "nothing to draw in 1 runs yet" in capsys.readouterr().err


def test_folders_without_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in [(tmp_path / "missing", "is no folder"), (tmp_path, "holds no run")]:
        assert main(["plot", str(path), "--output", str(tmp_path / "figures")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()
