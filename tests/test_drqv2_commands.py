"""DrQv2 in the RL Zoo, on the command line, and in experiments."""

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from dot_env import DotEnv
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_sparse import DrQv2, sparsity
from sb3_sparse.cli.command_line import main
from sb3_sparse.envs.suite_tasks import SUITE_TASKS
from sb3_sparse.experiments.benchmarks.drqv2_cost import PLAIN, drqv2_cost

FILE = Path(__file__).parent.parent / "hyperparams" / "drqv2.yml"
TINY = "policy_kwargs:dict(hidden_dim=16, feature_dim=8, sparsity=0.5, features_extractor_kwargs=dict(channels=4))"
QUICK = ["-params", TINY, "buffer_size:500", "learning_starts:20", "batch_size:8"]


@pytest.fixture
def dot() -> Iterator[str]:
    gym.register("Dot-v0", entry_point=DotEnv)
    yield "Dot-v0"
    gym.registry.pop("Dot-v0")


@pytest.fixture(scope="module")
def entries() -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return {name: entry for name, entry in yaml.safe_load(FILE.read_text()).items() if not name.startswith("_")}


def test_file_covers_the_suite(entries: dict[str, dict[str, Any]]) -> None:
    ids = {f"dm_control/{domain}-{task}-pixels-v0" for domain, tasks in SUITE_TASKS.items() for task in tasks}
    assert set(entries) == ids | {"default"}


def test_default_entry_is_the_class_s_defaults(entries: dict[str, dict[str, Any]]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(DrQv2).parameters.items()}
    entry = {name: value for name, value in entries["default"].items() if name not in ("policy", "n_timesteps")}
    assert entry == {name: defaults[name] for name in entry}


# Task, thousands of frames, steps of the schedule, and what differs from the default: the authors' task files.
TASKS = [
    ("cartpole-swingup", 1_100, 100_000, {}),
    ("ball_in_cup-catch", 1_100, 100_000, {}),
    ("hopper-stand", 1_100, 100_000, {}),
    ("walker-walk", 1_100, 100_000, {"n_steps": 1, "batch_size": 512}),
    ("walker-run", 3_100, 500_000, {"n_steps": 1, "batch_size": 512}),
    ("cheetah-run", 3_100, 500_000, {}),
    ("cartpole-swingup_sparse", 3_100, 500_000, {}),
    ("quadruped-walk", 3_100, 500_000, {}),
    ("quadruped-run", 3_100, 500_000, {"buffer_size": 100_000}),
    ("humanoid-run", 30_100, 2_000_000, {"learning_rate": 8e-5, "policy_kwargs": "dict(feature_dim=100)"}),
]


@pytest.mark.parametrize(("task", "frames", "duration", "own"), TASKS)
def test_entries_of_tasks(
    task: str, frames: int, duration: int, own: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> None:
    entry = dict(entries[f"dm_control/{task}-pixels-v0"])
    assert 2 * entry.pop("n_timesteps") == 1_000 * frames
    assert entry.pop("stddev_schedule") == f"linear(1.0, 0.1, {duration})"
    if frames == 1_100:  # the buffer of 1,000,000 never fills
        assert 2 * entry.pop("buffer_size") == 1_000 * frames
    default = {name: value for name, value in entries["default"].items() if name in entry}
    assert entry == {**default, **own}


def manager(env_id: str, **kwargs: Any) -> Any:
    pytest.importorskip("rl_zoo3")
    from sb3_sparse.zoo import register

    register()
    from rl_zoo3.exp_manager import ExperimentManager

    return ExperimentManager(argparse.Namespace(), "drqv2", env_id, "logs", device="cpu", **kwargs)


def test_zoo_takes_any_id(dot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert manager(dot).config == str(FILE)
    small = {"policy_kwargs": {"hidden_dim": 8}, "buffer_size": 100, "n_envs": 2}
    model, _ = manager(dot, hyperparams=small, n_timesteps=5, eval_freq=-1).setup_experiment()
    assert type(model) is DrQv2 and model.gradient_steps == model.n_envs == 2


def test_train_enjoy_and_continue_by_commands(
    dot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    task = ["--algo", "drqv2", "--env", dot]
    evaluation = ["--eval-freq", "20", "--eval-episodes", "1", "--save-replay-buffer"]
    assert main(["train", *task, "-n", "40", "--device", "cpu", *evaluation, *QUICK]) == 0
    folder = tmp_path / "logs" / "drqv2" / "Dot-v0_1"
    assert {"best_model.zip", "evaluations.npz", "replay_buffer.pkl"} <= {path.name for path in folder.iterdir()}
    model = DrQv2.load(folder / "Dot-v0.zip", device="cpu")
    assert (model.num_timesteps, model._n_updates) == (40, 10)
    assert sparsity.summary(model.critic).sparsity == pytest.approx(0.5, abs=0.02)
    assert main(["enjoy", *task, "-f", "logs", "--no-render", "-n", "20", "--device", "cpu"]) == 0
    assert "Episode Length 20" in capsys.readouterr().out
    again = ["-i", str(folder / "Dot-v0.zip"), "-n", "30", "--eval-freq", "-1", "-f", "continued", "--device", "cpu"]
    assert main(["train", *task, *again, *QUICK[:1], *QUICK[2:]]) == 0
    assert "Loading replay buffer" in capsys.readouterr().out
    (path,) = tmp_path.glob("continued/drqv2/*/Dot-v0.zip")
    assert DrQv2.load(path, device="cpu")._n_updates == model._n_updates + 5


def test_model_cards_say_that_the_actor_is_dense() -> None:
    model_card = pytest.importorskip("sb3_sparse.zoo.model_card")
    policy_kwargs = {"sparsity": 0.5, "hidden_dim": 16, "prune_modules": "q_heads"}
    policy = DrQv2("CnnPolicy", DotEnv(), buffer_size=10, policy_kwargs=policy_kwargs, device="cpu").policy
    told = dict(model_card._pruning(policy))
    assert told["sparsity asked for"] == "critic 0.5"
    assert told["width scale of the critic, pruned as one"] == "1, `q_heads`"
    sizes = {name: sparse for name, *_, sparse in model_card._sizes(model_card._networks(policy))}
    assert float(sizes["actor"]) == 0.0 < float(sizes["critic"])


class Trial:
    """Suggests the last choice or the upper end, and remembers of what."""

    def __init__(self, **attributes: Any) -> None:
        self.params: dict[str, Any] = {}
        self.__dict__.update(attributes)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.params.setdefault(name, choices[-1])

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return self.params.setdefault(name, high)


def test_samples_of_a_search_build_a_model(dot: str) -> None:
    manager(dot)
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    start = {"hidden_dim": 16, "features_extractor_kwargs": {"channels": 4}}
    trial = Trial(sb3_sparse_policy_kwargs=start)
    sampled = HYPERPARAMS_SAMPLER["drqv2"](trial, 2, 1, {})
    assert sampled["policy_kwargs"] == {**start, "width_scale": 4.0, "sparsity": 0.95}
    converted = HYPERPARAMS_CONVERTER["drqv2"](trial.params)
    assert converted == {**sampled, "policy_kwargs": {"width_scale": 4.0, "sparsity": 0.95}}
    model = DrQv2("CnnPolicy", DotEnv(), buffer_size=100, device="cpu", **sampled)
    assert model.n_steps == 5 and model.critic.qf0[0].out_features == 64


# Experiments


def test_costs_of_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    sizes = ["--width-scale", "0.05", "0.1", "--sparsity", "0.5", "--rounds", "1", "--updates", "1", "--batch-size", "2"]
    assert main(["bench", "drqv2", *sizes, "--device", "cpu", "--json", str(file)]) == 0
    costs = json.loads(file.read_text())
    assert [(cost["width_scale"], cost["variant"]) for cost in costs] == [
        (width, variant) for width in (0.05, 0.1) for variant in (PLAIN, "ours, S=0.5")
    ]
    printed = capsys.readouterr().out
    for plain, ours in zip(costs[::2], costs[1::2], strict=True):
        assert ours["parameters"] < plain["parameters"] and plain["speedup"] == 1.0
        assert min(plain["update_ms"] + ours["update_ms"]) > 0
        assert f"| x{ours['width_scale']:g} | ours, S=0.5 | {ours['parameters']:,} |" in printed
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        drqv2_cost([1.0], [0.5], rounds=0)


@pytest.mark.slow
def test_it_learns_to_find_the_middle() -> None:
    model = DrQv2(
        "CnnPolicy",
        DotEnv(),
        learning_rate=1e-3,
        buffer_size=10_000,
        learning_starts=200,
        batch_size=64,
        stddev_schedule="linear(1.0, 0.1, 1500)",
        policy_kwargs={"hidden_dim": 64, "features_extractor_kwargs": {"channels": 8}, "sparsity": 0.5},
        seed=0,
        device="cpu",
    )
    before = np.mean(_returns(model))
    model.learn(2_000)
    # Six runs of three seeds, dense and sparse, came to 12 to 17; random actions give 6 to 7, at most 20 are there to get.
    assert before < 8 and np.mean(_returns(model)) > 10


def _returns(model: DrQv2) -> list[float]:
    return evaluate_policy(model, DotEnv(), 10, return_episode_rewards=True, warn=False)[0]
