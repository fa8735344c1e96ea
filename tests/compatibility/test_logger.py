"""What is logged, under which names, in which formats; and Monitor's files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor, load_results

from compatibility.models import (
    DRQV2,
    KINDS,
    MODELS,
    OWN_ALGORITHMS,
    SIMBA_POLICIES,
    STEPS,
    Model,
    each,
    each_model_at_leisure,
    each_of_ours,
)

FORMATS = {"csv": "progress.csv", "json": "progress.json", "log": "log.txt"}
EVERYWHERE = {
    "rollout/ep_len_mean",
    "rollout/ep_rew_mean",
    "rollout/success_rate",
    "time/fps",
    "time/time_elapsed",
    "time/total_timesteps",
}
# What the README lists for each of these algorithms.
OF_THEIR_OWN = {
    "DrQv2": {
        "train/actor_loss",
        "train/critic_loss",
        "train/learning_rate",
        "train/n_updates",
        "train/stddev",
        "train/target_q",
    },
    "StreamAC": {
        "plasticity/actor/dormant_0.1",
        "plasticity/critic/dormant_0.1",
        "train/actor_parameter_norm",
        "train/actor_step_size",
        "train/actor_trace_norm",
        "train/critic_parameter_norm",
        "train/critic_step_size",
        "train/critic_trace_norm",
        "train/entropy",
        "train/n_updates",
        "train/td_error",
    },
    "DER": {"train/clipped_targets", "train/learning_rate", "train/loss", "train/n_updates", "train/q_value"},
}


def logged(model: Any, folder: Path) -> set[str]:
    """
    Names that a run logs.

    :param model: Model
    :param folder: Where the log file goes
    """
    model.set_logger(configure(str(folder), ["json"]))
    model.learn(2 * STEPS, log_interval=1)
    lines = (folder / "progress.json").read_text().splitlines()
    return set().union(*map(json.loads, lines))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@each((model for model in MODELS if model not in OWN_ALGORITHMS), by_default=[*SIMBA_POLICIES, *KINDS])
def test_names_are_those_of_stock_classes(case: Model, tmp_path: Path) -> None:
    stock_class = case.algorithm
    if case.is_ours:
        stock_class = getattr(stable_baselines3, stock_class.__name__)
    policy = "MlpLstmPolicy" if case.is_recurrent else "MlpPolicy"
    stock = stock_class(policy, case.make_env(), seed=0, device="cpu", **case.arguments)  # type: ignore[call-arg]
    expected = logged(stock, tmp_path / "stock")
    assert EVERYWHERE <= expected and any(name.startswith("train/") for name in expected)
    assert logged(case.build(), tmp_path / "ours") == expected


@each(OWN_ALGORITHMS)
def test_names_of_our_algorithms(case: Model, tmp_path: Path) -> None:
    own = OF_THEIR_OWN[case.name.removesuffix(", pixels")]
    found = logged(case.build(), tmp_path)
    # Neither of the two small environments tells of successes.
    expected = EVERYWHERE - ({"rollout/success_rate"} if case.sees_images else set())
    assert found == expected | {"time/episodes"} | own


@each_model_at_leisure
def test_formats(case: Model, tmp_path: Path) -> None:
    model = case.build()
    model.set_logger(configure(str(tmp_path), list(FORMATS)))
    model.learn(3 * STEPS, log_interval=1)
    assert {path.name for path in tmp_path.iterdir()} == set(FORMATS.values())
    steps = [int(row["time/total_timesteps"]) for row in rows(tmp_path / "progress.csv")]
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert steps == [line["time/total_timesteps"] for line in lines]
    assert len(steps) > 1 and steps == sorted(steps) and steps[-1] <= 3 * STEPS
    assert "total_timesteps" in (tmp_path / "log.txt").read_text()


@each_model_at_leisure
def test_standard_output_and_silence(case: Model, capsys: pytest.CaptureFixture) -> None:
    case.build(verbose=0).learn(STEPS, log_interval=1)
    assert capsys.readouterr().out == ""
    model = case.build(verbose=1)
    assert "Using cpu device" in capsys.readouterr().out or case.is_streaming
    model.learn(STEPS, log_interval=1)
    assert "total_timesteps" in capsys.readouterr().out


@each_model_at_leisure
def test_intervals(case: Model, tmp_path: Path) -> None:
    counts = []
    for interval in (1, 2):
        model, folder = case.build(), tmp_path / str(interval)
        model.set_logger(configure(str(folder), ["csv"]))
        model.learn(2 * STEPS, log_interval=interval)
        counts.append(len(rows(folder / "progress.csv")))
    # On-policy algorithms count rollouts of 8 steps.
    units = 2 * STEPS // 8 if case.is_on_policy else model._episode_num
    assert counts == [units, units // 2]


# SB3's DDPG does not have the argument.
@each((model for model in MODELS if "DDPG" not in model.name), by_default=KINDS)
def test_window_of_statistics(case: Model) -> None:
    model = case.build(stats_window_size=2).learn(3 * STEPS)
    assert len(model.ep_info_buffer) == model.ep_info_buffer.maxlen == 2


@each_model_at_leisure
def test_tensorboard(case: Model, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = case.build(tensorboard_log=str(tmp_path))
    model.learn(STEPS, log_interval=1, tb_log_name="run")
    model.learn(STEPS, log_interval=1, tb_log_name="run", reset_num_timesteps=False)
    model.learn(STEPS, log_interval=1, tb_log_name="run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_1", "run_2"]
    events = EventAccumulator(str(tmp_path / "run_1")).Reload()
    assert {"rollout/ep_rew_mean", "time/fps"} <= set(events.Tags()["scalars"])
    # Both calls are in it, in a file each.
    steps = [event.step for event in events.Scalars("rollout/ep_rew_mean")]
    assert min(steps) <= STEPS < max(steps) <= 2 * STEPS


@each_of_ours
def test_name_of_the_run(case: Model, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    case.build(tensorboard_log=str(tmp_path)).learn(STEPS)
    assert [path.name for path in tmp_path.iterdir()] == [f"{case.algorithm.__name__}_1"]


@each_model_at_leisure
def test_monitor_s_file(case: Model, tmp_path: Path) -> None:
    model = case.build(Monitor(case.make_env(), str(tmp_path / "run"))).learn(2 * STEPS)
    table = load_results(str(tmp_path))
    length = 9 if case.name == "DER, pixels" else 8
    assert len(table) == 2 * STEPS // length and set(table["l"]) == {length}
    assert list(table["r"])[-1] == pytest.approx(model.ep_info_buffer[-1]["r"])


@each([DRQV2])
def test_frames_are_counted_as_agent_steps(case: Model, tmp_path: Path) -> None:
    model = case.build()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * STEPS, log_interval=1)
    assert [row["time/total_timesteps"] for row in rows(tmp_path / "progress.csv")] == ["8", "16", "24", "32"]
