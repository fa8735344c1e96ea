"""``sb3-sparse train --checkpoint-freq --resume``: which run goes on, and that it does."""

import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from sb3_sparse import SAC

pytest.importorskip("rl_zoo3")

import yaml

from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.cli.command_line import main
from sb3_sparse.zoo.resuming import FOLDER, Checkpointing, OptionError, parse_options


def make_run(folder: Path, seed: int, with_checkpoint: bool = True) -> Path:
    (folder / "Env").mkdir(parents=True)
    (folder / "Env" / "args.yml").write_text(yaml.dump(OrderedDict([("seed", seed), ("env", "Pendulum-v1")])))
    if with_checkpoint:
        (folder / FOLDER).mkdir()
        (folder / FOLDER / "checkpoint-000001.json").write_text("{}")
    return folder


def test_command_lines_without_our_options_are_left_alone() -> None:
    words = ["--algo", "sac", "--env", "Pendulum-v1", "--save-freq", "10"]
    assert parse_options(words) == (None, words)


def test_the_newest_run_that_fits_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "sac"
    make_run(runs / "Pendulum-v1_1", seed=1)
    second = make_run(runs / "Pendulum-v1_2", seed=2)
    tenth = make_run(runs / "Pendulum-v1_10_0a-b1", seed=1)
    make_run(runs / "Pendulum-v1_11", seed=1, with_checkpoint=False)
    make_run(runs / "Pendulum-v12_12", seed=1)
    words = ["--algo", "sac", "--env", "Pendulum-v1", "-f", str(tmp_path)]
    assert parse_options([*words, "--resume", "--seed", "2"]) == (Checkpointing(10_000, second), [*words, "--seed", "2"])
    # Without a seed, it is that of the run.
    assert parse_options(["--resume", *words, "--checkpoint-freq", "7"]) == (Checkpointing(7, tenth), [*words, "--seed", "1"])
    assert parse_options(["--resume", *words, "--seed", "3"]) == (Checkpointing(10_000, None), [*words, "--seed", "3"])
    assert parse_options([*words, "--checkpoint-freq", "7"]) == (Checkpointing(7, None), words)


def test_searches_have_no_checkpoints() -> None:
    with pytest.raises(OptionError, match="a search goes on by --storage"):
        parse_options(["--resume", "-optimize"])


def test_errors_are_no_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--algo", "sac", "--env", "Pendulum-v1", "--checkpoint-freq", "0"]) == 1
    assert "--checkpoint-freq must be at least 1, got 0" in capsys.readouterr().err


def test_what_cannot_go_on_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train",
        "--algo",
        "a2c",
        "--env",
        "CartPole-v1",
        "--seed",
        "0",
        "-n",
        "20",
        "--eval-freq",
        "-1",
        "-f",
        str(tmp_path),
    ]
    command += ["--resume", "-params", "n_envs:1"]
    assert main(command) == 0
    assert main([*command, "learning_rate:0.1"]) == 1
    assert (
        "The checkpoint belongs to another run. learning_rate: 0.0007 in the checkpoint, 0.1 here" in capsys.readouterr().err
    )
    (state,) = tmp_path.rglob("state-*.pkl")
    state.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        assert main(command) == 1
    assert "None of the 1 checkpoints" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["dummy", "subproc"])
def test_a_run_that_was_asked_to_stop_goes_on(processes: str, tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text(
        "Pendulum-v1:\n  policy: sb3_sparse.SparseSimBaPolicy\n  policy_kwargs: dict(sparsity=0.5, width_scale=0.125)\n"
        "  n_timesteps: 600\n  learning_starts: 100\n  buffer_size: 1000\n  normalize: true\n"
    )
    command = [sys.executable, "-m", "sb3_sparse", "train", "--algo", "sac", "--env", "Pendulum-v1", "-conf", "own.yml"]
    command += ["--seed", "3", "--eval-freq", "250", "--eval-episodes", "1", "--checkpoint-freq", "50", "--resume"]
    command += ["--vec-env", processes, "-f"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "whole"], cwd=tmp_path, env=env, check=True, capture_output=True)
    stopped = subprocess.Popen([*command, "cut"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "cut" / "sac" / "Pendulum-v1_1" / FOLDER
    while stopped.poll() is None and not any(checkpoints.glob("*.json")):
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143
    manifest = CheckpointFolder(checkpoints).newest()
    assert manifest is not None and manifest.num_timesteps < 600
    subprocess.run([*command, "cut"], cwd=tmp_path, env=env, check=True, capture_output=True)
    whole, cut = (tmp_path / name / "sac" / "Pendulum-v1_1" for name in ("whole", "cut"))
    assert sorted(path.name for path in cut.parent.iterdir()) == ["Pendulum-v1_1"]
    parameters = [SAC.load(folder / "Pendulum-v1.zip").policy.state_dict() for folder in (whole, cut)]
    assert all(np.array_equal(value, parameters[1][name]) for name, value in parameters[0].items())
    rows = [
        [line.split(",")[:2] for line in (folder / "0.monitor.csv").read_text().splitlines()[1:]] for folder in (whole, cut)
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 2
    evaluations = [np.load(folder / "evaluations.npz")["results"] for folder in (whole, cut)]
    assert np.array_equal(evaluations[0], evaluations[1])
