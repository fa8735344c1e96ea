"""Models to the Hub and back, by HTTP to a stand-in for it on this machine; and what the model card says."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hub_server
import pytest
import torch as th
import yaml
from commands import run
from hub_server import OWNER, TOKEN, LocalHub

pytest.importorskip("dm_control")
pytest.importorskip("rl_zoo3")

import huggingface_hub
from huggingface_hub import ModelCard, constants
from rl_zoo3 import ALGOS
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_sparse import SparseSimBaPolicy, sparsity
from sb3_sparse.cli.command_line import main
from sb3_sparse.installation import install_command
from sb3_sparse.zoo import sharing
from sb3_sparse.zoo.model_card import SharedModel, section

ENV_ID = "dm_control/walker-walk-v0"
SMALL = "policy_kwargs:dict(sparsity=0.5, width_scale=0.0625)"
# Episodes of 100 agent steps: the zoo evaluates ten of them before it uploads.
SHORT = ["-n", "120", "--eval-freq", "-1", "--seed", "7", "--env-kwargs", "action_repeat:10"]
ALGO_PARAMS = {"sac": [], "ddpg": [], "td3": ["normalize:dict(norm_obs=True, norm_reward=False)"], "tqc": []}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with hub_server.serve() as served:
        yield served


@pytest.fixture(scope="module", autouse=True)
def logged_in(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """What HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_DISABLE_XET and TRUST_REMOTE_CODE do, which are read on import."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("TRUST_REMOTE_CODE", "True")
        yield patch


@dataclass
class Shared:
    """A model that was trained, pushed, and pulled into another folder."""

    algo: str
    folder: Path
    files: dict[str, bytes]

    @property
    def task(self) -> list[str]:
        return ["--algo", self.algo, "--env", ENV_ID]

    @property
    def card(self) -> str:
        return self.files["README.md"].decode()

    def run_folder(self, root: str) -> Path:
        return self.folder / root / self.algo / "dm_control-walker-walk-v0_1"

    def load(self, root: str) -> Any:
        return ALGOS[self.algo].load(self.run_folder(root) / "dm_control-walker-walk-v0.zip", device="cpu", buffer_size=1)

    def table(self) -> dict[str, list[str]]:
        """Rows of the card's tables by their first cell."""
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in self.card.splitlines() if line[:1] == "|"]
        return {row[0]: row[1:] for row in rows}

    def blocks(self, language: str) -> list[str]:
        section = self.card.split("# Static sparsity")[1]
        return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture(scope="module", params=ALGO_PARAMS)
def shared(request: pytest.FixtureRequest, hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    algo = request.param
    folder = tmp_path_factory.mktemp(algo)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        task = ["--algo", algo, "--env", ENV_ID]
        assert main(["train", *task, *SHORT, "-params", SMALL, "learning_starts:100", *ALGO_PARAMS[algo]]) == 0
        assert main(["push", *task, "-f", "logs", "-orga", OWNER, "--no-render"]) == 0
        assert main(["pull", *task, "-f", "pulled", "-orga", OWNER]) == 0
    return Shared(algo, folder, dict(hub.repos[f"{OWNER}/{algo}-dm_control-walker-walk-v0"]))


each_once = pytest.mark.parametrize("shared", ["sac"], indirect=True)


def test_round_trip(shared: Shared) -> None:
    trained, pulled = shared.load("logs"), shared.load("pulled")
    before, after = trained.policy.state_dict(), pulled.policy.state_dict()
    assert before.keys() == after.keys()
    assert any(name.endswith("topology.indices") for name in before)
    assert all(th.equal(before[name], after[name]) for name in before)
    saved = [shared.run_folder(root) / "dm_control-walker-walk-v0" / "config.yml" for root in ("logs", "pulled")]
    assert saved[0].read_text() == saved[1].read_text()


def test_enjoy_what_was_pulled(shared: Shared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(shared.folder)
    assert main(["enjoy", *shared.task, "-f", "pulled", "--no-render", "-n", "100"]) == 0
    assert "Episode Length 100\n" in capsys.readouterr().out  # of 1000 environment steps: ten for each action


def test_python_of_the_card(shared: Shared, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = shared.blocks("python")
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    mean, std = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out)[-2:])
    assert 0 < mean < 1000 and 0 <= std < 500
    assert namespace["model"].get_env().get_attr("action_repeat") == [10]
    before, after = (model.policy.state_dict() for model in (shared.load("logs"), namespace["model"]))
    assert all(th.equal(before[name], after[name]) for name in before)


@each_once
def test_commands_of_the_card(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = shared.blocks("bash")[0].splitlines()
    assert lines[0] == 'pip install "sb3-sparse[zoo,dmc]"'
    assert lines[1].startswith("export TRUST_REMOTE_CODE=True")
    for line in lines[2:]:
        python, m, package, *words = shlex.split(line)
        assert (python, m, package) == ("python", "-m", "sb3_sparse")
        assert main(words) == 0
    assert [words.split()[3] for words in lines[2:]] == ["pull", "enjoy"]


def test_metadata_of_the_card(shared: Shared) -> None:
    data = ModelCard(shared.card).data
    assert data.library_name == "stable-baselines3"
    assert data.tags == [ENV_ID, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "sb3-sparse"]
    (result,) = data.eval_results
    results = json.loads(shared.files["results.json"])
    assert result.metric_value == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert (result.dataset_type, data.model_name) == (ENV_ID, ALGOS[shared.algo].__name__)


def test_networks_of_the_card(shared: Shared) -> None:
    rows, model = shared.table(), shared.load("logs")
    for name in ("actor", "critic"):
        active = sum(parameter.numel() for parameter in getattr(model, name).parameters())
        total = sum(parameter.numel() for parameter in sparsity.to_dense(getattr(model, name)).parameters())
        assert rows[name] == [f"{total:,}", f"{active:,}", f"{1 - active / total:.4f}"]
    assert rows["sparsity asked for"] == ["actor 0.5, critic 0.5"]
    assert rows["mask seed"] == [str(model.policy.mask_seed)]
    assert rows["distribution"] + rows["budget"] == ["`erdos_renyi`", "`all`"]
    assert rows["width scale, depth scale"] == ["0.0625, 1"]


@each_once
def test_sizes_of_the_card(shared: Shared) -> None:
    # By hand, for 24 observations, 6 actions, 8 units: 24*8+8, LayerNorm 16, 8*32+32, 32*8+8, LayerNorm 16, two heads 8*6+6.
    assert shared.table()["actor"][0] == str(200 + 16 + 288 + 264 + 16 + 2 * 54)
    assert f"has {len(shared.files['sac-dm_control-walker-walk-v0.zip']):,} bytes" in shared.card
    layers = re.findall(r"^(?:latent_pi|mu|log_std|qf0)\S* +\d+ x \d+", shared.card, flags=re.MULTILINE)
    assert len(layers) == 5 + 6


def test_provenance_of_the_card(shared: Shared) -> None:
    rows = shared.table()
    assert rows["steps"] == ["120 agent steps = 1,200 environment steps (action repeat 10)"]
    assert rows["seed"] == ["7"]
    assert rows["hyperparameters"][0].startswith(f"`sb3_sparse/hyperparams/{shared.algo}.yml`")
    assert rows["weights"] == ["`dm_control-walker-walk-v0.zip` of the run"]
    assert f"torch {version('torch')}" in rows["versions at training"][0]
    assert {"python", "sb3-sparse", "stable-baselines3", "gymnasium", "dm-control", "mujoco"} <= {
        entry.split()[0] for entry in rows["versions at training"][0].split(", ")
    }
    assert rows["versions at upload"] == ["the same"]
    assert re.fullmatch(r"[0-9a-f]{7,}|release", rows["commit of sb3-sparse"][0])
    assert re.match(r"\d{4}-\d\d-\d\d, \S", rows["trained"][0])
    results = json.loads(shared.files["results.json"])
    assert rows["return"][0].startswith(
        f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f} over 10 episodes, determ"
    )
    assert "@inproceedings{ma2025network," in shared.card


@each_once
def test_pushing_again(shared: Shared, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared.folder)
    push = ["push", *shared.task, "-f", "logs", "-orga", OWNER, "--no-render", "-m", "Again", "-name", "another"]
    assert main(push) == main(push) == 0
    assert hub.commits[f"{OWNER}/another"] == ["Again", "Again"]
    card = hub.repos[f"{OWNER}/another"]["README.md"].decode()
    assert card.count("# Static sparsity") == 1
    assert f"-orga {OWNER} -name another" in card


@each_once
def test_run_without_our_record(shared: Shared, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared.run_folder("logs"), tmp_path / "logs" / "sac" / shared.run_folder("logs").name)
    (saved,) = tmp_path.glob("logs/sac/*/*/args.yml")
    args = yaml.unsafe_load(saved.read_text())
    del args["sb3_sparse"]
    saved.write_text(yaml.dump(args))
    assert main(["push", *shared.task, "-f", "logs", "-orga", OWNER, "--no-render", "-name", "old"]) == 0
    rows = Shared("sac", tmp_path, hub.repos[f"{OWNER}/old"]).table()
    assert rows["steps"] == ["120 agent steps (action repeat not on record)"]
    assert rows["trained"] == ["not on record, not on record"]
    assert "python" in rows["versions at upload"][0]


@pytest.mark.parametrize(
    ("env_id", "extras", "imported"),
    [
        ("my_envs:Mine-v0", "zoo", "sb3_sparse"),
        ("Swimmer-v5", "zoo,dmc", "sb3_sparse"),
        (ENV_ID, "zoo,dmc", "sb3_sparse.envs"),
    ],
)
def test_what_the_card_installs(env_id: str, extras: str, imported: str, tmp_path: Path) -> None:
    card = write_section(tmp_path, env_id)
    assert f'pip install "sb3-sparse[{extras}]"' in card
    assert f"\nimport {imported}\n" in card
    assert f'gym.make("{env_id}")' in card


def write_section(folder: Path, env_id: str, trained_agent: str = "", **config: str) -> str:
    """Our section for a model that the zoo did not make, and that cannot be loaded with its replay buffer alone."""
    kwargs: dict[str, Any] = {"policy_kwargs": {"width_scale": 0.0625, "sparsity": 0.5}, "device": "cpu"}
    trained = SAC(SparseSimBaPolicy, BitFlippingEnv(continuous=True), replay_buffer_class=HerReplayBuffer, **kwargs)
    args = {"algo": "sac", "env": env_id, "trained_agent": trained_agent, "seed": 3}
    results = {"mean_reward": -1, "std_reward": 0.5, "is_deterministic": False, "n_eval_episodes": 2}
    results["eval_datetime"] = "2026-11-20T"
    files = {"args.yml": args, "config.yml": config, "env_kwargs.yml": {}, "results.json": results}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))  # which is YAML, too
    model = SharedModel(folder, "somebody/mine", folder / "best_model.zip")
    trained.save(model.file)
    return section(model, model.load())


def test_card_of_an_unusual_model(tmp_path: Path) -> None:
    card = write_section(tmp_path, "my_envs:Mine-v0", trained_agent="/home/me/before.zip", env_wrapper="my_envs.Wrapper")
    rows = Shared("sac", tmp_path, {"README.md": card.encode()}).table()
    assert (tmp_path / "sac-Mine-v0.zip").exists()
    assert rows["continued from"] == ["`before.zip`"] and "/home/me" not in card
    assert rows["weights"] == ["`best_model.zip` of the run"]
    assert rows["return"] == ["-1.00 +/- 0.50 over 2 episodes, stochastic actions"]
    # Such an environment is not made in a few lines.
    assert "```python" not in card and "`env_wrapper` in `config.yml`" in card
    assert "--env my_envs:Mine-v0" in card


def test_stock_policies_keep_the_card_of_the_zoo(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = ["--algo", "sac", "--env", "Pendulum-v1"]
    assert main(["train", *task, "-n", "5", "--eval-freq", "-1", "-params", "policy_kwargs:dict(net_arch=[8])"]) == 0
    assert main(["push", *task, "-f", "logs", "-orga", OWNER, "--no-render"]) == 0
    files = hub.repos[f"{OWNER}/sac-Pendulum-v1"]
    card = files["README.md"].decode()
    assert "parse" not in card and "sb3-sparse" not in ModelCard(card).data.tags
    assert "sb3_sparse" not in yaml.unsafe_load(files["args.yml"])
    assert main(["pull", *task, "-f", "pulled", "-orga", OWNER]) == 0
    assert (tmp_path / "pulled/sac/Pendulum-v1_1/Pendulum-v1.zip").read_bytes() == files["sac-Pendulum-v1.zip"]


@each_once
@pytest.mark.parametrize(
    ("variables", "command", "message"),
    [
        ({"HF_TOKEN": ""}, ["push", "-orga", OWNER, "--no-render"], "hf auth login"),
        ({}, ["push", "-orga", "nobody", "--no-render"], "organization given by -orga"),
        ({}, ["push", "-orga", OWNER, "--no-render", "--exp-id", "5"], "There is no such model: train it"),
        ({}, ["push", "-orga", OWNER, "--no-render", "--load-best"], "No model found for sac"),
        # An environment that was not made for drawing.
        ({}, ["push", "-orga", OWNER, "--env-kwargs", "render_mode:None"], "Give --no-render"),
        ({}, ["pull", "-orga", OWNER, "--exp-id", "1"], "already exists, use --force"),
        ({}, ["pull", "-orga", OWNER, "-name", "missing"], "Repository Not Found"),
        ({"TRUST_REMOTE_CODE": "False"}, ["pull", "-orga", OWNER], "`TRUST_REMOTE_CODE` to `True`"),
    ],
)  # fmt: skip
def test_errors(
    shared: Shared, variables: dict[str, str], command: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(shared.folder)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = everything_replaced()
    assert main([*command, *shared.task, "-f", "logs"]) == 1
    error = capsys.readouterr().err
    assert "sb3-sparse: " in error and message in error
    assert everything_replaced() == before


@each_once
def test_no_connection(shared: Shared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(shared.folder)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", *shared.task, "-f", "logs", "-orga", OWNER, "--no-render"]) == 1
    assert "Is there a connection to http://127.0.0.1:9?" in capsys.readouterr().err


@each_once
def test_missing_package(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["push", *shared.task, "-f", "logs", "-orga", OWNER]) == 1
    assert f"imageio_ffmpeg is missing, run: {install_command('zoo')}" in capsys.readouterr().err


def everything_replaced() -> list[Any]:
    module = importlib.import_module("huggingface_sb3.push_to_hub")
    package, utils = (importlib.import_module(name) for name in ("huggingface_sb3", "rl_zoo3.utils"))
    names = [(module, "generate_metadata"), (module, "_generate_replay"), (package, "load_from_hub")]
    names += [(utils, "get_model_path"), (huggingface_hub.HfApi, "upload_folder")]
    return [*(getattr(owner, name, None) for owner, name in names), os.environ.get("PATH")]


def test_nothing_stays_replaced() -> None:
    before = everything_replaced()
    with sharing.pushing():
        inside = everything_replaced()
        assert [a is b for a, b in zip(before[:5], inside[:5], strict=True)] == [False, False, True, False, False]
    with sharing.pulling():
        assert [a is b for a, b in zip(before[:5], everything_replaced()[:5], strict=True)] == [True, True, False, True, True]
    assert everything_replaced() == before


def test_repaired_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("huggingface_sb3.push_to_hub")
    monkeypatch.setattr(module, "generate_metadata", print, raising=False)
    with sharing.pushing():
        assert module.generate_metadata is print


def test_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("ffmpeg") is None
    with sharing.pushing():
        assert "ffmpeg version" in subprocess.run("ffmpeg -version", shell=True, capture_output=True, text=True).stdout
    assert os.environ["PATH"] == str(tmp_path)


@pytest.mark.slow
def test_repairs_are_needed() -> None:
    """Where this fails, the zoo's commands work by themselves: take out the repair, and what the README says about them."""
    module, errors = (importlib.import_module(name) for name in ("huggingface_sb3.push_to_hub", "huggingface_hub.errors"))
    assert not hasattr(module, "generate_metadata")
    assert not issubclass(errors.EntryNotFoundError, importlib.import_module("requests.exceptions").HTTPError)


@pytest.mark.slow
@pytest.mark.usefixtures("rendering")
def test_as_typed(hub: LocalHub, site: Path, tmp_path: Path) -> None:
    hf = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    hf["TRUST_REMOTE_CODE"] = "True"
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    task = ["--algo", "tqc", "--env", ENV_ID, "-f", "logs"]
    run(site, here, "-m", "rl_zoo3.train", *task, *SHORT, "-params", SMALL, "learning_starts:100")
    run(site, here, "-m", "sb3_sparse", "push", *task, "-orga", OWNER, "-name", "typed", "-n", "20", **hf)
    files = hub.repos[f"{OWNER}/typed"]
    assert len(files["replay.mp4"]) > 1000
    run(site, there, "-m", "sb3_sparse", "pull", *task, "-orga", OWNER, "-name", "typed", **hf)
    assert next(there.glob("logs/tqc/*/*.zip")).read_bytes() == files["tqc-dm_control-walker-walk-v0.zip"]
    assert "Episode Length 100" in run(site, there, "-m", "rl_zoo3.enjoy", *task, "--no-render", "-n", "100")
    card = Shared("tqc", here, files)
    assert card.table()["commit of sb3-sparse"] == ["release"]
    (code,) = card.blocks("python")
    assert "(" in run(site, there, "-c", code, **hf)


@pytest.mark.slow
def test_track(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    command = ["-m", "rl_zoo3.train", "--algo", "sac", "--env", ENV_ID, "--track", *SHORT]
    run(site, tmp_path, *command, "-params", SMALL, "learning_starts:100", WANDB_MODE="offline")
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes().decode(errors="replace")
    assert '"action_repeat":' in content and "sb3_sparse/hyperparams/sac.yml" in content
    assert "sb3_sparse.SparseSimBaPolicy" in content and "width_scale" in content
    assert list(tmp_path.glob("runs/**/events.out.tfevents*"))
