"""Training runs, the results table, figures, the quickstart and the benchmark, from the command line down."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import python
from stable_baselines3 import SAC

from sb3_sparse import experiments
from sb3_sparse.cli.command_line import parser, main
from sb3_sparse import installation
from sb3_sparse.installation import import_extra, install_command
from sb3_sparse.experiments.benchmarks.contenders import COMPILED, MLP, STOCK, Contender
from sb3_sparse.experiments.benchmarks.own_process import measure_in_own_process
from sb3_sparse.experiments.benchmarks.training_memory import training_memory
from sb3_sparse.experiments.figures.panels import Panels
from sb3_sparse.experiments.figures.table_figure import _group, plot_table
from sb3_sparse.experiments.quickstart import _expected, random_return
from sb3_sparse.experiments.quickstart_settings import Quickstart
from sb3_sparse.experiments.sweep.shipped_grids import shipped_grids
from sb3_sparse.experiments.sweep.grid import load_grid
from sb3_sparse.experiments.sweep.grid_table import read_table
from sb3_sparse.zoo import provenance
from sb3_sparse.common.environment_steps import action_repeat

TABLES = Path(experiments.__file__).parent / "results"


def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv" / "sb3_sparse" / "experiments"
    installed.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "A project that uses the package"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.commit() == "release"


@pytest.mark.parametrize("name", ["cpu.csv", "streaming.csv"])
def test_shipped_tables_are_drawn(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("matplotlib.image")
    assert main(["plot", str(TABLES / name), "--output", str(tmp_path / "figures")]) == 0
    (figure,) = (tmp_path / "figures").iterdir()
    assert capsys.readouterr().out == f"{figure}\n"
    assert image.imread(figure)[..., :3].std() > 0.01


def test_networks_and_tasks_of_a_table_are_told_apart(tmp_path: Path) -> None:
    panels = _group(read_table(TABLES / "cpu.csv"))
    walker = ("sac", "dm_control/walker-walk-v0")
    assert list(panels) == [("sac", "dm_control/cartpole-swingup-v0"), walker]
    networks = panels[walker]
    names = [("dense SimBa", 0.0), ("sparse SimBa, S = 0.5", 0.5), ("SB3 MlpPolicy", 0.0)]
    assert sorted(networks) == sorted(names)
    # As the README has them.
    assert [[round(value) for value in networks[name][50_000]] for name in names] == [
        [955, 741, 489],
        [681, 892, 726],
        [298, 194, 84],
    ]
    drqv2 = {"task": "a", "network": "drqv2", "width_scale": "4", "sparsity": "0.8", "env_steps": "1", "return_mean": "1"}
    assert list(_group([drqv2])["", "a"]) == [("sparse DrQ-v2 x4, S = 0.8", 0.8)]


def line(**columns: str) -> dict[str, str]:
    given = {"algo": "sac", "task": "a", "label": "dense", "sparsity": "0", "env_steps": "1", "return_mean": "1", "seed": "0"}
    return {**given, **columns}


def test_algorithms_have_panels_of_their_own() -> None:
    panels = _group([line(return_mean="100"), line(algo="ddpg", return_mean="500")])
    assert {pair: list(curves.values()) for pair, curves in panels.items()} == {
        ("sac", "a"): [{1: [100.0]}],
        ("ddpg", "a"): [{1: [500.0]}],
    }


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"label": "wide"}, ["dense", "wide"]),
        ({"learning_rate": "0.1"}, ["dense", "dense, learning_rate = 0.1"]),
        ({"action_repeat": "2"}, ["dense", "dense, action_repeat = 2.0"]),
        ({"settings": '{"update_rule": "paper"}'}, ["dense", "dense, update_rule = paper"]),
        ({"total_env_steps": "5"}, ["dense", "dense, total_env_steps = 5.0"]),
        ({"seed": "1", "return_std": "3", "commit": "f00", "sparsity": "0.0", "critic_srank": "7"}, ["dense"]),
    ],
)
def test_whatever_tells_runs_of_a_table_apart_but_the_seed_makes_lines(change: dict[str, str], names: list[str]) -> None:
    (networks,) = _group([line(), line(return_mean="3", **change)]).values()
    assert [name for name, _ in networks] == names
    assert [values for curves in networks.values() for values in curves.values()] == (
        [[1.0], [3.0]] if len(names) == 2 else [[1.0, 3.0]]
    )


def test_negative_returns_are_within_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    bottoms, save = [], Panels.save

    def kept(panels: Panels, *args: Any, **kwargs: Any) -> Any:
        bottoms.append(panels.axes[0].get_ylim()[0])
        return save(panels, *args, **kwargs)

    monkeypatch.setattr(Panels, "save", kept)
    for low in ("-500", "200"):
        table = tmp_path / f"{low}.csv"
        table.write_text("task,label,sparsity,env_steps,return_mean\n" + f"a,b,0,1,{low}\n" + "a,b,0,2,300\n")
        plot_table(table, table.with_suffix(".png"))
    assert bottoms[0] < -500 and bottoms[1] == 0


def test_a_table_that_is_being_written_is_drawn_without_its_last_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = tmp_path / "table.csv"
    table.write_text("task,label,sparsity,env_steps,return_mean,date\na,b,0,1,5,today\na,b,0,2,7,today\na,b,0,3,1")
    with pytest.warns(UserWarning, match=r"table\.csv: 1 lines without their numbers are left out, the first is 4"):
        assert plot_table(table, tmp_path / "table.png").exists()
    table.write_text("task,label,sparsity,env_steps,return_mean\na,b,0,1,\n")
    with pytest.raises(ValueError, match=r"table\.csv holds no line with numbers"):
        plot_table(table, tmp_path / "table.png")


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "task,sparsity,env_steps,return_mean\na,0,1,1\n", "task,sparsity,env_steps,return_mean\n"]
)
def test_other_tables_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_text(text)
    for name, message in (("other.csv", "is no table of results"), ("nowhere.csv", "cannot be read: No such file")):
        assert main(["plot", str(tmp_path / name), "--output", str(tmp_path / "figures")]) == 1
        assert message in capsys.readouterr().err


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
        "100",
        "--width-scale",
        "0.0625",
        "--streaming-steps",
        "1000",
        "--output",
        str(tmp_path),
    ]
    # As a newcomer types it on a machine without a display.
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert "random actions" in output and "units without input" in output
    assert (tmp_path / "figures" / "quickstart.png").stat().st_size > 10_000
    assert "SAC on walker-walk: 2 runs of 100 agent steps (200 environment steps)" in output
    assert "Stream AC on Ant: 3 runs of 1,000 agent steps\n" in output
    assert {line["sparsity"] for line in read_table(tmp_path / "table.csv")} == {"0.0", "0.5", "0.9"}
    for agent in ("SAC, S = 0.5", "SAC, dense"):
        (line,) = (line for line in output.splitlines() if line.startswith(f"{agent} "))
        assert SAC.load(line.split()[-1], device="cpu").num_timesteps == 100
    again = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert "5 are done" in again and again.partition("The sparse SAC")[2] == output.partition("The sparse SAC")[2]


def test_the_quickstart_says_what_to_expect() -> None:
    lines = _expected(Quickstart(agent_steps=25_000))
    # README's figures for the whole 150,000 steps, and what the grid learning-curves left.
    assert any(line.endswith("SAC, dense: 955, 741, 489 (a seed each)") for line in lines)
    whole = _expected(Quickstart(streaming_steps=150_000, task="Pendulum-v1"))
    assert [line.split(" (")[0] for line in whole[1:]] == [
        "  Stream AC, dense: 136",
        "  Stream AC, SparseInit: 810",
        "  Stream AC, S = 0.9: 837",
    ]
    assert _expected(Quickstart(task="Pendulum-v1", streaming_steps=0)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--sparsity", "1.5"], "sparsity must lie in [0, 1)"),
        (["quickstart", "--width-scale", "0"], "width_scale must be a positive number"),
        (["quickstart", "--steps", "0"], "at least"),
        (["quickstart", "--streaming-steps", "1"], "streaming_steps must be 0 or at least"),
        (["quickstart", "--env", "dm_control/cartpole-fly-v0"], "cartpole-fly"),
        (
            ["quickstart", "--env", "CartPole-v1"],
            "--env CartPole-v1: the quickstart trains SAC, which needs continuous actions",
        ),
        (["bench", "updates", "--sparsity", "-0.1"], "sparsity must lie in [0, 1)"),
        (["bench", "updates", "--threads", "0"], "threads must be"),
        (["bench", "updates", "--device", "tpu"], "There is no device 'tpu'"),
        (["bench", "der", "--device", "cuda:99"], "This machine has no device 'cuda:99'"),
        (["bench", "updates", "--loop", "CartPole-v1"], "--loop CartPole-v1: SAC needs continuous actions"),
        (["sweep", "learning-curves", "--local", "--device", "cuda:99"], "This machine has no device 'cuda:99'"),
        (["sweep", "learning-curves", "--address", "localhost:1", "--device", "tpu"], "There is no device 'tpu'"),
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


def test_loops_know_the_deepmind_control_suite() -> None:
    code = "from sb3_sparse.experiments.benchmarks.loop_cost import check_loop; check_loop('dm_control/walker-walk-v0')"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_output_that_nobody_reads_any_more_ends_a_command_without_a_word() -> None:
    command = [sys.executable, "-m", "sb3_sparse", "figure", "3", "--budget", "full", "--dry-run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + 13


WHEEL = "file:///somewhere/sb3_sparse-0.1.0-py3-none-any.whl"
HERE = Path(__file__).as_uri()


@pytest.mark.parametrize(
    ("origin", "installer", "command"),
    [
        (None, "pip", 'pip install "sb3-sparse[dmc]"'),
        (None, "uv", 'uv pip install "sb3-sparse[dmc]"'),
        ({"url": HERE, "dir_info": {"editable": True}}, "pip", f'pip install -e "{Path(__file__)}[dmc]"'),
        ({"url": HERE, "dir_info": {}}, "pip", f'pip install "{Path(__file__)}[dmc]"'),
        ({"url": HERE, "archive_info": {}}, "uv", f'uv pip install "{Path(__file__)}[dmc]"'),
        ({"url": Path.cwd().as_uri(), "dir_info": {}}, "pip", 'pip install ".[dmc]"'),
        (
            {"url": WHEEL, "archive_info": {}},
            "pip",
            'pip install "sb3-sparse[dmc] @ URL", with the new place of '
            "/somewhere/sb3_sparse-0.1.0-py3-none-any.whl, which it was installed from",
        ),
        (
            {"url": "https://example.com/a.git", "vcs_info": {"vcs": "git", "commit_id": "f00"}},
            "pip",
            'pip install "sb3-sparse[dmc] @ git+https://example.com/a.git@f00"',
        ),
    ],
)
def test_extras_are_installed_from_where_the_package_came_from(
    origin: dict[str, Any] | None, installer: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            if name == "INSTALLER":
                return f"{installer}\n"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(installation, "distribution", lambda name: Installed())
    assert install_command("dmc") == command
    is_local = origin is None or str(origin["url"]).startswith("file:")
    assert install_command("dmc", is_for_others=True) == ('pip install "sb3-sparse[dmc]"' if is_local else command)


def test_every_option_of_every_command_says_what_it_does() -> None:
    commands, undescribed = [parser()], []
    for command in commands:
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                commands += action.choices.values()
            elif not action.help or action.help.startswith("("):
                undescribed.append(f"{command.prog} {action.option_strings or action.dest}")
    assert len(commands) > 10 and not undescribed


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_sparse.cli.plot.run", interrupted)
    assert main(["plot", "logs"]) == 130
    assert capsys.readouterr().err == "\nsb3-sparse: stopped\n"


def test_commands_that_were_meant_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    typed = {"figure": ["figre", "3"], "updates": ["bench", "update"], "onnx": ["export", "--format", "onx"]}
    for meant, words in typed.items():
        with pytest.raises(SystemExit):
            main(words)
        assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_the_grids_of_the_package_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    listed = capsys.readouterr().out
    grids = shipped_grids()
    figures = [name for name in grids if name.startswith("figure-")]
    assert len(grids) > 20 and figures[:2] == ["figure-1", "figure-2"]
    assert all(re.search(rf"^  {name} +{re.escape(title)}$", listed, flags=re.MULTILINE) for name, title in grids.items())
    assert all(load_grid(Path(name)).title == title for name, title in grids.items())


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ImportError, match=re.escape(install_command("plots"))):
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
    loop = ["--loop", "Pendulum-v1", "--loop-steps", "20", "--loop-updates", "1"]
    assert main(["bench", "updates", *small, *loop, "--json", str(path)]) == 0
    variants = [STOCK, "SB3, S=0", "ours, S=0", "SB3, S=0.5", "ours, S=0.5"]
    entries = json.loads(path.read_text())
    assert [entry["variant"] for entry in entries] == [*2 * variants, MLP]
    assert entries[0]["update_speedup"] == entries[0]["predict_speedup"] == 1.0
    for entry in entries[:5]:
        assert min(*entry["update_ms"], *entry["predict_ms"]) > 0 and len(entry["update_ms"]) == 2
        assert entry["memory_bytes"] is None
    assert all(entry["steps_per_second"] > 0 and entry["updates"] == 1 for entry in entries[5:])
    output = capsys.readouterr().out
    assert all(output.count(f"| {variant} |") == 2 for variant in variants)


def test_what_is_measured_in_a_process_of_its_own_is_returned_or_its_end_told() -> None:
    assert measure_in_own_process(os.getppid, what="the parent") == os.getpid()
    with pytest.raises(ChildProcessError, match=r"^Measuring the end failed: its process ended with status 3\.$"):
        measure_in_own_process(os._exit, 3, what="the end")


@pytest.mark.slow
def test_memory_is_that_of_the_networks() -> None:
    dense, sparse = (training_memory(Contender(COMPILED, 2.0, sparsity), "cpu") for sparsity in (0.0, 0.95))
    # 17.4M weights, with gradient, two moments and the critic's target: 4 + 16.9 / 17.4 times 4 bytes.
    assert 0.8 * 347e6 < dense < 2.0 * 347e6
    assert sparse < 0.6 * dense
