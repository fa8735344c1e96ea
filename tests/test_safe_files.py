"""Models in files that execute nothing when they are read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torture.models import ALGORITHMS, ENVIRONMENTS, TortureRun, make_model
from torture.runs import make_env

from sb3_sparse import SAC, SparseSimBaExtractor, SparseSimBaPolicy, SparseTopologyCallback, StreamAC, sparsify
from sb3_sparse.cli.command_line import main
from sb3_sparse.deployment import export, known_classes, read_model, write_model
from sb3_sparse.deployment.loading import load_model, load_vec_normalize
from sb3_sparse.deployment.model_settings import setting_names
from sb3_sparse.deployment.plain_data import from_plain, space_from_plain, space_to_plain, to_plain
from sb3_sparse.zoo.model_files import policy_arguments, policy_tensors
from sb3_sparse.zoo.run_folders import RunFolder
from sb3_sparse.zoo.zoo_files import read_keywords, read_yaml

safetensors = pytest.importorskip("safetensors.torch")
SLOW = ("PPO, sparsify", "A2C", "SB3 DDPG", "SB3 TD3", "DDPG", "SAC")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ALGORITHMS]


def trained(name: str) -> BaseAlgorithm:
    run = TortureRun(name, buffer_size=200, env=ENVIRONMENTS.get(name, "Pendulum-v1"))
    return make_model(run, make_env(run, None)).learn(70)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert th.equal(one, other) if isinstance(one, th.Tensor) else one == other


@pytest.mark.parametrize("name", NAMES)
def test_models_are_read_as_they_were(name: str, tmp_path: Path) -> None:
    model, path = trained(name), tmp_path / "model.safetensors"
    write_model(model, path)
    read = read_model(path)
    assert type(read) is type(model)
    assert_same(model.get_parameters(), read.get_parameters())
    observation = model.observation_space.sample()
    assert np.array_equal(model.predict(observation, deterministic=True)[0], read.predict(observation, deterministic=True)[0])
    assert (read.num_timesteps, read._n_updates) == (model.num_timesteps, model._n_updates)
    for setting in ("gamma", "batch_size", "priority_beta", "train_freq", "target_entropy", "learning_rate"):
        assert getattr(read, setting, None) == getattr(model, setting, None)


@pytest.mark.parametrize("name", ["SAC", "StreamAC"])
def test_training_goes_on(name: str, tmp_path: Path) -> None:
    model, run = trained(name), TortureRun(name)
    write_model(model, tmp_path / "model.safetensors")
    read = read_model(tmp_path / "model.safetensors", env=make_env(run, None))
    read.learn(60, reset_num_timesteps=False)
    assert read.num_timesteps == 130 and read._n_updates > model._n_updates


def test_statistics_of_rewards_are_kept(tmp_path: Path) -> None:
    model = trained("StreamAC")
    write_model(model, tmp_path / "model.safetensors")
    read = read_model(tmp_path / "model.safetensors", env=make_env(TortureRun("StreamAC"), None))
    assert model.reward_scaling.count == 70 and read.reward_scaling == model.reward_scaling
    read.learn(5, reset_num_timesteps=False)
    assert read.reward_scaling.count == 75


def test_reading_works_where_unpickling_is_blocked(tmp_path: Path) -> None:
    model = trained("SAC")
    path = tmp_path / "model.safetensors"
    export(model, path, "safetensors")
    model.save(tmp_path / "model.zip")
    observation = model.observation_space.sample()
    action = model.predict(observation, deterministic=True)[0]
    code = f"""
import sys
import numpy as np
from stable_baselines3 import SAC
import sb3_sparse.sac, safetensors.torch
from sb3_sparse.deployment import read_model
from sb3_sparse.zoo.model_files import policy_arguments, policy_tensors

def refuse(*args, **kwargs):
    raise PermissionError("unpickling is blocked")

def guard(event, arguments):
    if is_blocked and event == "pickle.find_class":
        refuse()

sys.addaudithook(guard)
is_blocked = True
model = read_model({str(path)!r}, device="cpu")
is_blocked = False  # numba reads its own cache of compiled kernels
assert model.predict(np.array({observation.tolist()}, np.float32), deterministic=True)[0].tolist() == {action.tolist()}
assert policy_arguments(__import__("pathlib").Path({str(path)!r}))["width_scale"] == 0.125
is_blocked = True
try:
    SAC.load({str(tmp_path / "model.zip")!r})
except PermissionError:
    print("blocked")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("blocked\n", 0), done.stderr


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("SAC")
    model.save(tmp_path / "model.zip")
    safe, back = tmp_path / "model.safetensors", tmp_path / "back.zip"
    assert main(["export", str(tmp_path / "model.zip"), "--format", "safetensors", "-o", str(safe)]) == 0
    assert main(["import", str(safe), "-o", str(back)]) == 0
    assert "SAC after 70 agent steps" in capsys.readouterr().out
    assert_same(SAC.load(back).get_parameters(), model.get_parameters())
    # What acts is made of it like of a zip.
    assert main(["export", str(safe), "--format", "sparse", "-o", str(tmp_path / "policy.npz")]) == 0
    assert load_model(safe).replay_buffer is None and load_model(safe).buffer_size == model.buffer_size
    assert main(["import", str(tmp_path / "model.zip"), "-o", str(back)]) == 1
    assert "was not written by export --format safetensors" in capsys.readouterr().err
    assert main(["export", str(safe), "--format", "safetensors", "-o", str(tmp_path / "model.bin")]) == 1


def small_model(name: str) -> BaseAlgorithm:
    """A model of each algorithm that has a name in files."""
    algorithm = known_classes.ALGORITHMS[name]
    if name in ("SAC", "SB3 SAC"):
        return algorithm(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs=dict(sparsity=0.5, width_scale=0.125))
    if name == "DrQv2":
        run = TortureRun(name, buffer_size=200, env=ENVIRONMENTS[name])
        return make_model(run, make_env(run, None))
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    is_continuous = issubclass(algorithm, OffPolicyAlgorithm | StreamAC) and name not in ("SB3 DQN", "QRDQN", "DER")
    env = MaskedActions() if name == "MaskablePPO" else "Pendulum-v1" if is_continuous else "CartPole-v1"
    return algorithm(policy, env, **({} if name == "StreamAC" else {"policy_kwargs": {"net_arch": [8]}}))


class MaskedActions(gym.Wrapper):
    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))

    def action_masks(self) -> np.ndarray:
        return np.ones(2, dtype=bool)


def another(name: str, value: Any) -> Any:
    """Another value of a setting, which has an effect or not, but must not get lost."""
    if name in ("use_sde", "optimize_memory_usage", "frame_stack"):  # these go with other things
        return value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.5 if isinstance(value, float) else value


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size", "ignore:.*n_steps=")
@pytest.mark.parametrize("name", known_classes.ALGORITHMS)
def test_no_argument_gets_lost(name: str, tmp_path: Path) -> None:
    model = small_model(name)
    names = {"stats_window_size": "_stats_window_size"}
    settings = {names.get(n, n) for n in setting_names(type(model))} & set(vars(model))
    for setting in settings:
        setattr(model, setting, another(setting, getattr(model, setting)))
    model.learning_rate = LinearSchedule(0.5, 0.1, 0.7)
    model.save(tmp_path / "model.zip")
    assert main(["export", str(tmp_path / "model.zip"), "--format", "safetensors", "-o", str(tmp_path / "m.safetensors")]) == 0
    assert main(["import", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "back.zip")]) == 0
    read = load_model(tmp_path / "back.zip")
    assert type(read) is type(model)
    for setting in settings:
        assert str(getattr(read, setting)) == str(getattr(model, setting)), setting
    assert_same(read.get_parameters(), model.get_parameters())


def test_noise_and_buffers_of_ones_own_are_written(tmp_path: Path) -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(4), np.full(4, 0.2), theta=0.3)
    goals = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    strategy = dict(n_sampled_goal=2, goal_selection_strategy=GoalSelectionStrategy.FINAL)
    arguments = dict(replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=strategy, action_noise=noise)
    model = SAC(SparseSimBaPolicy, goals, policy_kwargs=dict(width_scale=0.125), buffer_size=100, **arguments)
    write_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="needs the environment"):
        read_model(tmp_path / "model.safetensors")
    assert read_model(tmp_path / "model.safetensors", has_buffer=False).replay_buffer is None
    read = read_model(tmp_path / "model.safetensors", env=goals)
    assert repr(read.action_noise) == repr(noise) and read.action_noise._theta == 0.3
    assert isinstance(read.replay_buffer, HerReplayBuffer) and read.replay_buffer.n_sampled_goal == 2
    assert read.replay_buffer.goal_selection_strategy is GoalSelectionStrategy.FINAL
    read.learn(20)


def test_functions_are_written_as_they_are_now_with_a_warning(tmp_path: Path) -> None:
    model = SAC(SparseSimBaPolicy, "Pendulum-v1", lambda progress: progress / 10, policy_kwargs=dict(width_scale=0.125))
    model._current_progress_remaining = 0.5
    with pytest.warns(UserWarning, match=r"learning_rate is a function, .* 0\.05"):
        write_model(model, tmp_path / "model.safetensors")
    assert read_model(tmp_path / "model.safetensors", has_buffer=False).learning_rate == 0.05


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, 1.0, (3,), np.float32),
        spaces.Box(0, 255, (2, 4, 4), np.uint8),
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Tuple([spaces.Discrete(2)])}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_spaces(space: spaces.Space) -> None:
    assert space_from_plain(json.loads(json.dumps(space_to_plain(space), allow_nan=False))) == space


def test_classes_are_those_of_torch_or_ours() -> None:
    kwargs = {"activation_fn": th.nn.Tanh, "net_arch": [3, 4], "limit": np.inf, "extractor": SparseSimBaExtractor}
    assert from_plain(json.loads(json.dumps(to_plain(kwargs, "kwargs"), allow_nan=False))) == kwargs
    for name in ("os.system", "torch.nn.functional", "torch.nn.os", "torch.hub.load", "builtins.eval"):
        with pytest.raises(ValueError, match="unknown"):
            from_plain({":class:": name})
    with pytest.raises(ValueError, match=r"kwargs\['f'\] is a function"):
        to_plain({"f": lambda: 0}, "kwargs")


@pytest.mark.filterwarnings("ignore:SparseTopologyCallback")
def test_stock_and_pruned_models(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for model in (DQN("MlpPolicy", "CartPole-v1", buffer_size=100), PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8)):
        model.learn(32)
        write_model(model, path)
        assert_same(model.get_parameters(), read_model(path).get_parameters())
    model = make_model(run := TortureRun("SAC"), make_env(run, None))
    model.learn(90, callback=SparseTopologyCallback("pruning", update_freq=20, final_sparsity=0.8))
    write_model(model, path)
    assert_same(model.get_parameters(), read_model(path).get_parameters())


def test_statistics_of_observations(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = SAC(SparseSimBaPolicy, env, policy_kwargs=dict(width_scale=0.125), buffer_size=100, learning_starts=50).learn(60)
    path = tmp_path / "model.safetensors"
    export(model, path, "safetensors", env)
    observation = np.ones((1, 3), np.float32)
    assert np.array_equal(load_vec_normalize(path).normalize_obs(observation), env.normalize_obs(observation))


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    model = trained("StreamAC")
    path = tmp_path / "model.safetensors"
    write_model(model, path)
    content = path.read_bytes()
    forged = content.replace(b'"sha256"', b'"no sum"')  # whoever means harm can make a checksum as well
    replaced = [forged.replace(b"StreamAC", b"os.syste"), forged.replace(b"width", b"wodth")]
    for damaged in (content[:100], content[:-10], b"", *replaced):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors|unknown"):
            read_model(path)
    with pytest.raises(ValueError, match="There is no file"):
        read_model(tmp_path / "nothing")
    model.policy_class = type("Own", (type(model.policy),), {})
    with pytest.raises(ValueError, match=r"The policy .*Own cannot be written"):
        write_model(model, path)


def test_files_that_cannot_be_written_are_no_tracebacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("SAC").save(tmp_path / "model")
    (tmp_path / "a.safetensors").mkdir()
    assert main(["export", "--format", "safetensors", str(tmp_path / "model.zip"), "-o", str(tmp_path / "a.safetensors")]) == 1
    assert "Is a directory" in (said := capsys.readouterr().err) and str(tmp_path / "a.safetensors") in said


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_single_wrong_bit_is_noticed(place: float, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_model(trained("SAC"), path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged: "):
        read_model(path)


def test_a_model_of_another_environment_is_refused(tmp_path: Path) -> None:
    write_model(trained("SAC"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="spaces do not match"):
        read_model(tmp_path / "model.safetensors", env=gym.make("MountainCarContinuous-v0"))


def test_runs_are_read_without_running_what_is_in_them(tmp_path: Path) -> None:
    bomb = "policy_kwargs: dict(sparsity=0.5, net_arch=[4], activation_fn=__import__('pathlib').Path('bomb').touch())\n"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yml").write_text(bomb)
    assert RunFolder(tmp_path).policy_kwargs == {"sparsity": 0.5, "net_arch": [4]}
    (tmp_path / "x" / "args.yml").write_text("!!python/object/apply:os.system ['touch bomb']\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        read_yaml(tmp_path / "x" / "args.yml")
    assert not (tmp_path / "bomb").exists() and not Path("bomb").exists()
    with pytest.raises(ValueError, match="Keyword arguments look like"):
        read_keywords("print(1)")


def test_zips_tell_what_they_are_without_being_unpickled(tmp_path: Path) -> None:
    model = trained("SB3 SAC")
    sparsify_kwargs = {**model.policy_kwargs}
    model.save(tmp_path / "model.zip")
    assert policy_arguments(tmp_path / "model.zip")["width_scale"] == sparsify_kwargs["width_scale"]
    assert_same(policy_tensors(tmp_path / "model.zip"), dict(model.policy.state_dict()))


def test_sparsified_models(tmp_path: Path) -> None:
    model = make_model(run := TortureRun("SB3 SAC, MlpPolicy"), make_env(run, None))
    sparsify(model, 0.5)
    write_model(model, tmp_path / "model.safetensors")
    assert_same(model.get_parameters(), read_model(tmp_path / "model.safetensors").get_parameters())
