"""The RL Zoo's own commands, as typed, with the package installed from its wheel; and what we change in the zoo."""

import argparse
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
import yaml
from commands import run
from stable_baselines3 import SAC

pytest.importorskip("dm_control")
rl_zoo3 = pytest.importorskip("rl_zoo3")

import sb3_sparse.envs  # noqa: E402
from sb3_sparse import DER, SparseSimBaPolicy, StreamAC, hyperparameters, sparsity  # noqa: E402
from sb3_sparse.cli.command_line import main  # noqa: E402
from sb3_sparse.installation import install_command  # noqa: E402
from sb3_sparse.envs.suite_tasks import SUITE_TASKS  # noqa: E402
from sb3_sparse.zoo import register, registration  # noqa: E402

HUMANOID = ["--algo", "sac", "--env", "dm_control/humanoid-run-v0"]
SMALL = "policy_kwargs:dict(sparsity=0.5, width_scale=0.0625)"
SHORT = ["--eval-freq", "-1", "-params", SMALL, "buffer_size:1000", "learning_starts:510"]
ALL_FILES = sorted((Path(__file__).parent.parent / "hyperparams").glob("*.yml"))
# Those for SimBa; our own algorithms have networks of their own.
FILES = [path for path in ALL_FILES if path.stem not in registration.OUR_ALGORITHMS]
ALGOS = [path.stem for path in FILES]
SUITE_IDS = [sb3_sparse.envs.env_id(domain, task) for domain, tasks in SUITE_TASKS.items() for task in tasks]
DMC_HARD = [f"dm_control/dog-{task}-v0" for task in ("stand", "walk", "trot", "run")] + [
    f"dm_control/humanoid-{task}-v0" for task in ("stand", "walk", "run")
]
TERMINATING = ["lqr-lqr_2_1-v0", "lqr-lqr_6_2-v0", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]


def entries(path: Path) -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load(path.read_text())
    return {name: entry for name, entry in loaded.items() if not name.startswith("_")}


ENTRIES = {path.stem: entries(path) for path in FILES}
IDS = list(ENTRIES["sac"])


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("empty")
    return folder, run(site, folder, "-m", "rl_zoo3.train", *HUMANOID, "-n", "520", *SHORT)


def saved_run(trained: tuple[Path, str]) -> Path:
    return trained[0] / "logs" / "sac" / "dm_control-humanoid-run-v0_1"


def test_train_reads_our_file(trained: tuple[Path, str], site: Path) -> None:
    assert f"Loading hyperparameters from: {site}/sb3_sparse/hyperparams/sac.yml" in trained[1]
    (saved,) = saved_run(trained).glob("*/config.yml")
    used = dict(yaml.unsafe_load(saved.read_text()))
    overridden = {"policy_kwargs", "buffer_size", "learning_starts"}
    expected = ENTRIES["sac"]["dm_control/humanoid-run-v0"]
    assert {k: v for k, v in used.items() if k not in overridden} == {k: v for k, v in expected.items() if k not in overridden}


def test_train_trains_a_sparse_policy(trained: tuple[Path, str]) -> None:
    model = SAC.load(saved_run(trained) / "dm_control-humanoid-run-v0.zip", device="cpu")
    assert type(model.policy) is SparseSimBaPolicy
    assert model._n_updates == 2 * (520 - 510)
    assert sparsity.summary(model.actor).sparsity == pytest.approx(0.5, abs=0.01)


def test_train_repeats_actions(trained: tuple[Path, str]) -> None:
    episode = (saved_run(trained) / "0.monitor.csv").read_text().splitlines()[2]
    assert episode.split(",")[1] == "500"


def test_enjoy(trained: tuple[Path, str], site: Path) -> None:
    output = run(site, trained[0], "-m", "rl_zoo3.enjoy", *HUMANOID, "-f", "logs", "--no-render", "-n", "500", "-P")
    assert "Episode Length 500" in output


@pytest.mark.usefixtures("rendering")
def test_record_video(trained: tuple[Path, str], site: Path) -> None:
    run(site, trained[0], "-m", "rl_zoo3.record_video", *HUMANOID, "-f", "logs", "-n", "5")
    (video,) = saved_run(trained).glob("videos/*.mp4")
    assert video.stat().st_size > 1000


def test_continue(trained: tuple[Path, str], site: Path) -> None:
    agent = saved_run(trained) / "dm_control-humanoid-run-v0.zip"
    output = run(
        site, trained[0], "-m", "rl_zoo3.train", *HUMANOID, "-i", str(agent), "-n", "12", "--eval-freq", "-1", "-P",
        "-f", "continued", "-params", "learning_starts:10",
    )  # fmt: skip
    assert "takes weeks" not in output  # of the small agent that is loaded
    (path,) = (trained[0] / "continued").glob("sac/*_1/*.zip")
    model, before = (SAC.load(file, device="cpu") for file in (path, agent))
    assert model._n_updates == before._n_updates + 2 * (12 - 10)
    for (_, layer), (_, old) in zip(sparsity.sparse_layers(model.policy), sparsity.sparse_layers(before.policy), strict=True):
        assert th.equal(layer.topology.mask(), old.topology.mask())


def test_own_custom_envs_wins(site: Path, tmp_path: Path) -> None:
    own = "import gymnasium as gym\ngym.register('Mine-v0', entry_point=lambda **kwargs: gym.make('Pendulum-v1', **kwargs))\n"
    (tmp_path / "custom_envs.py").write_text(own)
    command = ["-m", "rl_zoo3.train", "--algo", "sac", "--eval-freq", "-1", "-n", "5", "--env"]
    zoo_file = Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml"
    assert f"Loading hyperparameters from: {zoo_file}" in run(site, tmp_path, *command, "Mine-v0")
    assert "not found in gym registry" in run(site, tmp_path, *command, "dm_control/humanoid-run-v0", fails=True)


CHOSEN_FILE = """
import argparse
manager = {name}(argparse.Namespace(), "sac", "dm_control/humanoid-run-v0", "logs")
print(manager.config)
"""


@pytest.mark.parametrize(
    ("custom_envs", "imports", "name"),
    [
        (None, "import rl_zoo3.exp_manager", "rl_zoo3.exp_manager.ExperimentManager"),
        (None, "from rl_zoo3.train import ExperimentManager", "ExperimentManager"),
        pytest.param(None, "import sb3_sparse.zoo, rl_zoo3.enjoy as enjoy", "enjoy.ExperimentManager", marks=pytest.mark.slow),
        ("import sb3_sparse.zoo", "from rl_zoo3.exp_manager import ExperimentManager", "ExperimentManager"),
        pytest.param(
            "import sb3_sparse.zoo", "import rl_zoo3.train as train", "train.ExperimentManager", marks=pytest.mark.slow
        ),
    ],
)
def test_import_orders(site: Path, tmp_path: Path, custom_envs: str | None, imports: str, name: str) -> None:
    if custom_envs is not None:
        (tmp_path / "custom_envs.py").write_text(custom_envs)
    output = run(site, tmp_path, "-c", imports + CHOSEN_FILE.format(name=name))
    assert output.splitlines()[-1] == f"{site}/sb3_sparse/hyperparams/sac.yml"


def test_another_version_of_our_files_in_the_folder(site: Path, tmp_path: Path) -> None:
    """The files that count are those of the package that is imported, and the zoo says which it reads."""
    (tmp_path / "hyperparams").mkdir()
    (tmp_path / "hyperparams" / "sac.yml").write_text("dm_control/humanoid-run-v0: {policy: MlpPolicy}")
    code = "import rl_zoo3.exp_manager" + CHOSEN_FILE.format(name="rl_zoo3.exp_manager.ExperimentManager")
    assert run(site, tmp_path, "-c", code).splitlines()[-1] == f"{site}/sb3_sparse/hyperparams/sac.yml"


def test_nothing_happens_without_the_zoo(tmp_path: Path) -> None:
    code = "import sys, gymnasium, sb3_sparse.cli.command_line; print('rl_zoo3' in sys.modules)"
    assert run(Path(__file__).parent.parent, tmp_path, "-c", code).strip() == "False"


def manager(algo: str, env_id: str, device: str = "cpu", **kwargs: Any) -> Any:
    register()
    from rl_zoo3.exp_manager import ExperimentManager

    return ExperimentManager(argparse.Namespace(), algo, env_id, "logs", device=device, **kwargs)


def test_file_of_a_known_id() -> None:
    assert [manager(algo, "dm_control/dog-run-v0").config for algo in ALGOS] == list(map(str, FILES))


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [("sac", "Pendulum-v1"), ("td3", "Hopper-v4"), ("ppo", "dm_control/dog-run-v0"), ("ppo", "CartPole-v1")],
)
def test_the_zoo_as_it_is_without_us(algo: str, env_id: str) -> None:
    expected = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
    assert manager(algo, env_id).config == str(expected)


@pytest.mark.parametrize(("algo", "ours"), [("sac", True), ("td3", True), ("ddpg", True), ("tqc", False)])
def test_class_that_trains(algo: str, ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kwargs = {"policy_kwargs": {"width_scale": 0.0625}, "buffer_size": 100}
    model, _ = manager(algo, "dm_control/walker-walk-v0", hyperparams=kwargs, n_timesteps=5, eval_freq=-1).setup_experiment()
    compiled = getattr(sb3_sparse, algo.upper(), None)
    assert (type(model) is compiled) == ours
    assert type(model) in (compiled, rl_zoo3.ALGOS[algo]) and rl_zoo3.ALGOS[algo] is not compiled
    mine = tmp_path / "mine.yml"
    mine.write_text("dm_control/walker-walk-v0: {policy: MlpPolicy, n_timesteps: 5, buffer_size: 100}")
    model, _ = manager(algo, "dm_control/walker-walk-v0", config=str(mine), eval_freq=-1).setup_experiment()
    assert type(model) is rl_zoo3.ALGOS[algo]


def test_conf_wins(capsys: pytest.CaptureFixture[str]) -> None:
    assert manager("sac", "dm_control/dog-run-v0", config="mine.yml").config == "mine.yml"
    assert capsys.readouterr().out == ""


def test_conf_without_the_id(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("Pendulum-v1: {policy: MlpPolicy}")
    with pytest.raises(ValueError, match="Hyperparameters not found for sac-dm_control/dog-run-v0"):
        manager("sac", "dm_control/dog-run-v0", config=str(tmp_path / "mine.yml")).read_hyperparameters()


def test_registering_twice_changes_nothing() -> None:
    from rl_zoo3.exp_manager import ExperimentManager

    register()
    once = ExperimentManager.__init__
    register()
    assert ExperimentManager.__init__ is once


def test_note_of_large_networks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    manager("sac", "dm_control/dog-run-v0")
    (note,) = capsys.readouterr().out.splitlines()
    assert "dm_control/dog-run-v0" in note and "-params policy_kwargs:" in note
    manager("sac", "dm_control/walker-run-v0")
    manager("sac", "dm_control/dog-run-v0", hyperparams={"policy_kwargs": {"width_scale": 0.25}})
    monkeypatch.setattr(registration, "get_device", lambda device: th.device("cuda"))
    manager("sac", "dm_control/dog-run-v0")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("rendering")
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    task = ["--algo", "td3", "--env", "dm_control/dog-run-v0"]
    small = ["-params", SMALL, "buffer_size:1000", "learning_starts:10"]
    assert main(["train", *task, "-n", "12", "--eval-freq", "-1", *small]) == 0
    assert main(["enjoy", *task, "-f", "logs", "--no-render", "-n", "500"]) == 0
    assert "Episode Length 500" in capsys.readouterr().out
    assert main(["record", *task, "-f", "logs", "-n", "3", "-o", "videos"]) == 0
    assert len(list(tmp_path.glob("videos/*.mp4"))) == 1


OPTIMIZE = ["-optimize", "--n-trials", "2", "--no-optim-plots", "--n-evaluations", "1", "--eval-episodes", "1"]


@pytest.mark.slow
def test_optimize(site: Path, tmp_path: Path) -> None:
    command = ["-m", "rl_zoo3.train", *HUMANOID, "--storage", "study.log", "--study-name", "study"]
    small = "policy_kwargs:dict(sparsity=0.5, width_scale=0.0625, n_critics=2)"
    short = ["-n", "30", "-params", small, "buffer_size:1000", "learning_starts:10"]
    assert "Number of finished trials:  2" in run(site, tmp_path, *command, *OPTIMIZE, *short)
    (report,) = tmp_path.glob("logs/sac/report_*.csv")
    lines = report.read_text().splitlines()
    assert "params_net_arch" not in lines[0] and "params_sparsity" in lines[0]
    assert all(line.endswith("COMPLETE") for line in lines[1:])
    # A trial of the study gives the hyperparameters of a run.
    trial = ["--trial-id", "1", "-n", "5", "--eval-freq", "-1"]
    run(site, tmp_path, *command, *trial)
    (path,) = tmp_path.glob("logs/sac/*/*.zip")
    assert SAC.load(path, device="cpu").policy_kwargs["width_scale"] in (0.03125, 0.0625, 0.125)


class Trial:
    """Suggests the last choice or the upper end, and remembers of what."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.params.setdefault(name, choices[-1])

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return self.params.setdefault(name, high)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.params.setdefault(name, high)

    def set_user_attr(self, name: str, value: Any) -> None: ...


@pytest.mark.parametrize("algo", [algo for algo in ALGOS if algo != "crossq"])  # which the zoo cannot search
def test_sampled_sizes(algo: str) -> None:
    register()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    ours, plain = Trial(), Trial()
    ours.sb3_sparse_policy_kwargs = {"width_scale": 5, "n_critics": 2}  # type: ignore[attr-defined]
    given = {"using_her_replay_buffer": False, "her_kwargs": {}}
    sampled = HYPERPARAMS_SAMPLER[algo](ours, 3, 1, dict(given))
    expected = HYPERPARAMS_SAMPLER[algo](plain, 3, 1, dict(given))
    size = {"width_scale": 10.0, "depth_scale": 2.0, "sparsity": 0.95}
    assert "net_arch" in expected["policy_kwargs"] and "net_arch" not in ours.params
    quantiles = {name: value for name, value in expected["policy_kwargs"].items() if name == "n_quantiles"}
    assert sampled["policy_kwargs"] == {"n_critics": 2, **quantiles, **size}
    assert {k: v for k, v in sampled.items() if k != "policy_kwargs"} == {
        k: v for k, v in expected.items() if k != "policy_kwargs"
    }
    assert HYPERPARAMS_CONVERTER[algo](ours.params)["policy_kwargs"] == {**quantiles, **size}
    assert HYPERPARAMS_CONVERTER[algo](plain.params)["policy_kwargs"] == expected["policy_kwargs"]


def test_a_size_too_small_for_its_sparsity_ends_the_trial_only() -> None:
    optuna = pytest.importorskip("optuna")
    tiny = manager("sac", "dm_control/walker-walk-v0", n_timesteps=10, eval_freq=-1)
    tiny._hyperparams = {"policy": SparseSimBaPolicy, "policy_kwargs": {"width_scale": 0.02}, "buffer_size": 100}
    tiny.n_actions, tiny.n_envs, tiny._vec_normalize = 6, 1, False
    size = {"width_scale": 0.02, "depth_scale": 2.0, "sparsity": 0.95}
    study = optuna.create_study()
    study.enqueue_trial(size)
    study.optimize(tiny.objective, n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED


def test_loaded_trial_keeps_the_critics(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    ours = Trial()
    ours.sb3_sparse_policy_kwargs = {}  # type: ignore[attr-defined]
    register()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

    HYPERPARAMS_SAMPLER["sac"](ours, 1, 1, {"using_her_replay_buffer": False})
    path = str(tmp_path / "study.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    distributions = {name: optuna.distributions.CategoricalDistribution([value]) for name, value in ours.params.items()}
    trial = optuna.trial.create_trial(params=ours.params, distributions=distributions, value=0.0)
    optuna.create_study(storage=storage, study_name="study").add_trial(trial)
    loaded = manager("sac", "dm_control/lqr-lqr_2_1-v0").load_trial(path, "study", 0)
    assert loaded["policy_kwargs"] == {"n_critics": 2, "width_scale": 2.0, "depth_scale": 2.0, "sparsity": 0.95}


class WithoutZoo:
    """Finds modules as if the zoo were not installed."""

    def find_spec(self, name: str, *args: Any) -> None:
        if name.split(".")[0] == "rl_zoo3":
            raise ModuleNotFoundError(f"No module named {name!r}", name="rl_zoo3")


def test_command_without_the_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rl_zoo3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutZoo(), *sys.meta_path])
    assert main(["train", *HUMANOID]) == 1
    assert install_command("zoo") in capsys.readouterr().err


PENDULUM = ["train", "--algo", "sac", "--env", "Pendulum-v1", "-n", "20"]
PRUNED = "policy_kwargs:dict(sparsity=.5, width_scale=0.0625)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["enjoy", "-f", "nologs"], "There is no such model: train it with `sb3-sparse train`, or correct -f"),
        (["record", "-f", "nologs", "--algo", "sac"], "There is no such model"),
        (["train", "--algo", "sac", "--env", "Pendulm-v1"], "you maybe meant Pendulum-v1?"),
        (["train", "--algo", "sac", "--env", "CartPole-v1"], "only supports (<class 'gymnasium.spaces.box.Box'>,)"),
        ([*PENDULUM, "-params", PRUNED], "SACPolicy has no argument 'sparsity', 'width_scale': choose our policy by adding"),
        ([*PENDULUM, "-params", "policy_kwargs:dict(sparsity=.5)", "policy:'sb3_sparse.SparseSimBaTD3Policy'"], "SAC"),
        (["train", "--env", "CartPole-v1", "-params", PRUNED], "there is no sparse policy for ppo"),
        ([*PENDULUM, "-params", "learning_rat:1"], "unexpected keyword argument 'learning_rat'"),
        ([*PENDULUM, "-conf", "nofile.yml"], "nofile.yml"),
        ([*PENDULUM, "--device", "tpu"], "There is no device 'tpu'"),
        (["enjoy", "--device", "cuda:99"], "This machine has no device 'cuda:99'"),
    ],
)
def test_what_a_user_can_mend_is_told_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error and "sb3-sparse: " in error and "Traceback" not in error


def test_the_advice_to_choose_our_policy_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*PENDULUM, "-params", PRUNED]) == 1
    (advice,) = re.findall(r'policy:"(.*)"', capsys.readouterr().err)
    assert main([*PENDULUM, "--eval-freq", "-1", "-params", PRUNED, f"policy:{advice}"]) == 0
    (path,) = tmp_path.glob("logs/sac/*/Pendulum-v1.zip")
    assert type(SAC.load(path, device="cpu").policy) is SparseSimBaPolicy


def test_what_goes_wrong_while_training_has_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ValueError("a fault of the program")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SAC, "train", train)
    with pytest.raises(ValueError, match="a fault of the program"):
        main([*PENDULUM, "--eval-freq", "-1", "-params", "learning_starts:5"])


def test_files_cover_the_same_tasks() -> None:
    assert set(SUITE_IDS) < set(IDS)
    assert all(list(file) == IDS for file in ENTRIES.values())


@pytest.mark.parametrize("algo", ALGOS)
def test_files_leave_the_ids_of_the_zoo_alone(algo: str) -> None:
    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml").read_text())
    assert not set(theirs) & set(ENTRIES[algo])


@pytest.mark.parametrize("env_id", IDS)
def test_values(env_id: str) -> None:
    env = gym.make(env_id)
    for algo, file in ENTRIES.items():
        given, expected = dict(file[env_id]), hyperparameters(algo, env)
        noise = expected.pop("action_noise", None)
        if noise is not None:
            assert given.pop("noise_type") == "normal"
            assert noise._sigma == pytest.approx(given.pop("noise_std"))
        policy_kwargs = eval(given.pop("policy_kwargs"))
        steps = given.pop("n_timesteps") * getattr(env.unwrapped, "action_repeat", 1)
        del given["policy"]
        assert given == expected
        assert steps == 1e6
        assert (policy_kwargs["sparsity"], policy_kwargs.get("width_scale")) == (
            (0.9, 5) if env_id in DMC_HARD else (0.2, None)
        )
        terminates = env_id.removeprefix("dm_control/") in TERMINATING
        assert policy_kwargs.get("n_critics") == (2 if terminates and algo in ("sac", "ddpg") else None)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("algo", ALGOS)
def test_every_entry_trains(algo: str, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kwargs = {**eval(ENTRIES[algo][env_id]["policy_kwargs"]), "sparsity": 0.5, "width_scale": 0.0625}
    override = {"policy_kwargs": kwargs, "buffer_size": 1000, "learning_starts": 17}
    experiment = manager(algo, env_id, hyperparams=override, n_timesteps=20, eval_freq=-1, log_interval=-1)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    assert model.num_timesteps == 20
    assert model._n_updates == 2 * (20 - 17)


STREAM = ["--algo", "stream_ac", "--env", "Pendulum-v1"]
SMALL_STREAM = ["-params", "policy_kwargs:dict(width=16, sparsity=0.5)", "backend:'torch'"]


def test_stream_ac_by_the_zoo_s_own_commands(site: Path, tmp_path: Path) -> None:
    evaluation = ["--eval-freq", "200", "--eval-episodes", "1"]
    output = run(site, tmp_path, "-m", "rl_zoo3.train", *STREAM, "-n", "450", *evaluation, *SMALL_STREAM)
    assert f"Loading hyperparameters from: {site}/sb3_sparse/hyperparams/stream_ac.yml" in output
    folder = tmp_path / "logs" / "stream_ac" / "Pendulum-v1_1"
    model = StreamAC.load(folder / "Pendulum-v1.zip")
    assert model.num_timesteps == 450 and model.policy.width == 16
    assert sparsity.summary(model.policy.actor).sparsity == pytest.approx(0.5, abs=0.02)
    assert {"best_model.zip", "evaluations.npz", "0.monitor.csv"} <= {path.name for path in folder.iterdir()}
    shown = run(site, tmp_path, "-m", "rl_zoo3.enjoy", *STREAM, "-f", "logs", "--no-render", "-n", "200")
    (reward,) = (float(line.split(":")[1]) for line in shown.splitlines() if line.startswith("Episode Reward"))
    assert reward < -100  # as Pendulum gives it, not scaled
    agent = str(folder / "Pendulum-v1.zip")
    run(site, tmp_path, "-m", "rl_zoo3.train", *STREAM, "-i", agent, "-n", "10", "--eval-freq", "-1", "-f", "continued")


def test_stream_ac_takes_any_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for env_id in ("Ant-v4", "MountainCarContinuous-v0", "dm_control/dog-run-v0"):
        (path,) = (path for path in ALL_FILES if path.stem == "stream_ac")
        assert manager("stream_ac", env_id).config == str(path)
    assert "takes weeks" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="not found for stream_ac"):
        Path("mine.yml").write_text("{}")
        manager("stream_ac", "Ant-v4", config="mine.yml").read_hyperparameters()


def test_stream_ac_s_hyperparameters_are_its_defaults() -> None:
    file = yaml.safe_load((ALL_FILES[0].parent / "stream_ac.yml").read_text())
    defaults = {name: parameter.default for name, parameter in inspect.signature(StreamAC).parameters.items()}
    names = ("learning_rate", "gamma", "trace_lambda", "kappa_actor", "kappa_critic", "ent_coef")
    for entry in file.values():
        assert {name: entry[name] for name in names} == {name: defaults[name] for name in names}
        assert entry["env_wrapper"] == "sb3_sparse.stream_ac.StreamWrapper"


def test_stream_ac_s_samples_build_a_model() -> None:
    register()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    trial = Trial()
    sampled = HYPERPARAMS_SAMPLER["stream_ac"](trial, 1, 1, {})
    assert HYPERPARAMS_CONVERTER["stream_ac"](trial.params) == sampled
    model = StreamAC("MlpPolicy", "Pendulum-v1", backend="torch", **sampled)
    assert model.policy.width == 512 and model.gamma == pytest.approx(0.9)


def test_der_s_hyperparameters_are_its_defaults() -> None:
    file = yaml.safe_load((ALL_FILES[0].parent / "der.yml").read_text())
    defaults = {name: parameter.default for name, parameter in inspect.signature(DER).parameters.items()}
    for name, entry in file.items():
        if name.startswith("ALE/") or name in ("atari", "default"):
            given = {key: value for key, value in entry.items() if key not in ("n_timesteps", "policy", "env_wrapper")}
            assert given == {key: defaults[key] for key in given}, name
            assert entry["n_timesteps"] == 100_000


def test_der_s_samples_build_a_model() -> None:
    register()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    trial = Trial()
    sampled = HYPERPARAMS_SAMPLER["der"](trial, 2, 1, {})
    assert HYPERPARAMS_CONVERTER["der"](trial.params) == sampled
    assert "width_scale" not in sampled["policy_kwargs"]
    model = DER("MlpPolicy", "CartPole-v1", device="cpu", **sampled)
    assert sparsity.summary(model.q_net).sparsity == pytest.approx(sampled["policy_kwargs"]["sparsity"], abs=0.01)


def test_der_takes_any_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for env_id, steps in {"CartPole-v1": 40_000, "Acrobot-v1": 100_000}.items():
        chosen = manager("der", env_id)
        assert chosen.config == str(ALL_FILES[0].parent / "der.yml")
        assert chosen.read_hyperparameters()[0]["n_timesteps"] == steps


@pytest.mark.slow
def test_der_by_the_zoo(tmp_path: Path, site: Path) -> None:
    """A short study of CartPole keeps the file's support, and a run goes on where it was saved."""
    cartpole = ["--algo", "der", "--env", "CartPole-v1", "--eval-freq", "-1"]
    short = ["-params", "learning_starts:100", "buffer_size:1000"]
    output = run(site, tmp_path, "-m", "sb3_sparse", "train", *cartpole, "-n", "120", *short)
    assert f"Loading hyperparameters from: {site}/sb3_sparse/hyperparams/der.yml" in output
    agent = tmp_path / "logs" / "der" / "CartPole-v1_1" / "CartPole-v1.zip"
    model = DER.load(agent, device="cpu")
    assert model._n_updates == 20 and float(model.q_net.support[-1]) == 100.0 and model.n_steps == 10
    search = ["-optimize", "--n-trials", "1", "--n-jobs", "1", "--no-optim-plots", "--n-evaluations", "1"]
    output = run(site, tmp_path, "-m", "sb3_sparse", "train", *cartpole, "-n", "110", *search, *short)
    assert "sparsity:" in output and "sigma_0:" in output
