"""StreamAC as an SB3 algorithm: what a user of SB3 expects, and runs that resume exactly."""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import sb3_sparse
from sb3_sparse import ExactCheckpointCallback, StreamAC, diagnostics
from sb3_sparse.installation import install_command
from sb3_sparse.sparsity import sparse_layers
from sb3_sparse.stream_ac import StreamACPolicy, StreamWrapper
from sb3_sparse.stream_ac import stream_wrapper as wrapper_module

HAS_NUMBA = importlib.util.find_spec("numba") is not None
BACKENDS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="needs numba"))]
NETWORK = {"width": 16, "sparsity": 0.3}


def make(env: Any = "Pendulum-v1", backend: str = "torch", **kwargs: Any) -> StreamAC:
    arguments: dict[str, Any] = {"policy_kwargs": dict(NETWORK), "seed": 0, **kwargs}
    return StreamAC("MlpPolicy", env, backend=backend, **arguments)


def pendulum(limit: int = 50) -> gym.Env:
    return gym.make("Pendulum-v1", max_episode_steps=limit)


class Circling(gym.Env):
    """Twelve numbers, enough for the pattern of SparseInit to leave some; the action is to match one of them."""

    observation_space = spaces.Box(-1.0, 1.0, (12,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        self.phase = self.np_random.random(12)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -float(np.abs(action - self._observation()[:2]).sum())
        self.time += 1
        return self._observation(), reward, False, self.time == 40, {}

    def _observation(self) -> np.ndarray:
        return np.sin(self.phase + 0.3 * self.time).astype(np.float32)


FROZEN = {"width": 20, "init": "frozen_sparse"}


def vector(model: StreamAC) -> np.ndarray:
    return model.policy.parameters_to_vector()


def assert_same_state(a: StreamAC, b: StreamAC) -> None:
    for (name, one), (_, other) in zip(a.policy.state_dict().items(), b.policy.state_dict().items(), strict=True):
        assert th.equal(one, other), name
    for network in ("actor", "critic"):
        states = [model.policy.get_submodule(network).optimizer.state_dict()["state"] for model in (a, b)]
        for index, state in states[0].items():
            for name, tensor in state.items():
                assert th.equal(tensor, states[1][index][name])
    assert (a.num_timesteps, a._episode_num, a._n_updates) == (b.num_timesteps, b._episode_num, b._n_updates)


def test_it_is_exported_and_is_an_sb3_algorithm() -> None:
    assert sb3_sparse.StreamAC is StreamAC and issubclass(StreamAC, BaseAlgorithm)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_save_load_predict(env: str, backend: str, tmp_path: Path) -> None:
    model = make(env, backend).learn(150)
    observations = np.stack([model.observation_space.sample() for _ in range(5)]).clip(-3, 3)
    model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    loaded = StreamAC.load(tmp_path / "model")
    assert_same_state(model, loaded)
    # The states are equal; torch rounds a product by where its operands lie in memory.
    actions = [m.predict(observations, deterministic=True)[0] for m in (model, loaded)]
    np.testing.assert_allclose(*actions, rtol=1e-6, atol=1e-7)
    action, _ = loaded.predict(observations[0])
    assert model.action_space.contains(action if env == "Pendulum-v1" else int(action))
    model.policy.save(tmp_path / "policy.pth")
    policy = StreamACPolicy.load(tmp_path / "policy.pth")
    np.testing.assert_array_equal(
        policy.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_reproduce(backend: str) -> None:
    first, second, other = (make(backend=backend, seed=seed).learn(120) for seed in (1, 1, 2))
    assert_same_state(first, second)
    assert not np.array_equal(vector(first), vector(other))


def test_a_model_without_a_seed_follows_the_global_ones() -> None:
    def trained(seed: int) -> StreamAC:
        set_random_seed(seed)
        env = pendulum()
        env.reset(seed=0)
        return make(env, seed=None).learn(60)

    first, second, other = (trained(seed) for seed in (1, 1, 2))
    assert_same_state(first, second)
    assert not np.array_equal(vector(first), vector(other))


@pytest.mark.parametrize("env", [pendulum, lambda: gym.make("CartPole-v1"), lambda: gym.make("FrozenLake-v1")])
def test_any_environment_that_flattens(env: Any) -> None:
    model = make(env()).learn(120)
    assert np.isfinite(vector(model)).all()
    wrapped = StreamWrapper(Monitor(env()))
    assert np.isfinite(evaluate_policy(model, wrapped, 2)[0])
    assert model.observation_space == wrapped.observation_space


class Dictionary(gym.Env):
    observation_space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2, 2), np.float32), "b": spaces.Discrete(3)})
    action_space = spaces.Box(-2.0, 1.0, (2, 2), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return {"a": np.ones((2, 2), np.float32), "b": 2}, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return *self.reset()[:1], 1.0, bool(self.np_random.random() < 0.1), False, {}


def test_dictionaries_are_flattened_and_no_time_limit_means_no_time_feature() -> None:
    model = make(Dictionary()).learn(60)
    assert model.observation_space.shape == (7,) and not model.time_feature
    assert model.policy.normalizer.normalized_dim == 7
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    assert not StreamAC.load(buffer).time_feature
    assert model.predict(np.zeros(7, np.float32))[0].shape == (2, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_ways_to_give_an_environment_are_one(backend: str) -> None:
    ways = [
        pendulum(),
        StreamWrapper(Monitor(pendulum())),
        DummyVecEnv([pendulum]),
        make_vec_env(pendulum, 1, wrapper_class=StreamWrapper),
        VecMonitor(make_vec_env(pendulum, 1, wrapper_class=StreamWrapper)),
    ]
    models = [make(env, backend).learn(160) for env in ways]
    for model in models[1:]:
        assert_same_state(models[0], model)


def test_the_seed_of_a_vectorized_environment_is_kept() -> None:
    starts = [make(make_vec_env(pendulum, 1, seed=seed), seed=None) for seed in (5, 5, 6)]
    first, second, other = (model.learn(1).env.env_method("training_state")[0]["episode"] for model in starts)  # type: ignore[union-attr]
    assert first.reset_arguments == second.reset_arguments == {"seed": 5} and other.reset_arguments == {"seed": 6}


def test_an_environment_in_another_process() -> None:
    vec_env = make_vec_env(pendulum, 1, wrapper_class=StreamWrapper, vec_env_cls=SubprocVecEnv)
    model, other = make(vec_env).learn(120), make(pendulum()).learn(120)
    assert_same_state(model, other)
    buffer = io.BytesIO()
    model.save(buffer)
    vec_env.close()
    buffer.seek(0)
    assert_same_state(
        StreamAC.load(buffer, env=pendulum()).learn(60, reset_num_timesteps=False), other.learn(60, reset_num_timesteps=False)
    )


class Spy(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.seen: list[dict[str, Any]] = []
        self.rollouts = [0, 0]

    def _on_rollout_start(self) -> None:
        self.rollouts[0] += 1

    def _on_rollout_end(self) -> None:
        self.rollouts[1] += 1

    def _on_step(self) -> bool:
        self.rewards.append(float(self.locals["rewards"][0]))
        self.seen.append({key: self.locals[key] for key in ("dones", "infos", "new_obs", "actions")})
        return True


class Blind(BaseCallback):
    """A callback that says that it reads no local variables."""

    reads_locals = False

    def _on_step(self) -> bool:
        return True


def test_variables_of_steps_are_collected_only_for_callbacks_that_read_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(StreamAC, "_locals", lambda *_: pytest.fail("nobody reads them"))
    make().learn(5, [Blind(), ExactCheckpointCallback(tmp_path)])
    monkeypatch.undo()
    spy = Spy()
    make().learn(5, [Blind(), spy])
    assert len(spy.rewards) == 5


@pytest.mark.parametrize("vectorized", [False, True])
def test_monitor_callbacks_and_logger_see_the_environment_s_rewards(vectorized: bool, tmp_path: Path) -> None:
    env: Any = Monitor(pendulum(), str(tmp_path / "monitor.csv"))
    if vectorized:  # the way that does not look into the vectorised environment
        env = VecMonitor(DummyVecEnv([lambda: StreamWrapper(Monitor(pendulum(), str(tmp_path / "monitor.csv")))]))
    model, spy = make(env), Spy()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(150, spy, log_interval=1)
    episodes = np.array(spy.rewards).reshape(3, 50).sum(1)
    assert (np.array(spy.rewards) <= 0).all() and episodes.min() < -50  # as Pendulum gives them, not scaled
    monitored = np.genfromtxt(tmp_path / "monitor.csv", delimiter=",", names=True, skip_header=1)
    np.testing.assert_allclose(monitored["r"], episodes, rtol=1e-4)
    log = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    assert log["time/total_timesteps"].tolist() == [50, 100, 150]
    assert log["rollout/ep_rew_mean"][2] == pytest.approx(episodes.mean(), rel=1e-4)
    for name in ("step_size", "trace_norm", "parameter_norm"):
        assert (log[f"train/actor_{name}"] > 0).all() and (log[f"train/critic_{name}"] > 0).all()
    ends = [bool(seen["dones"][0]) for seen in spy.seen]
    assert [i for i, end in enumerate(ends) if end] == [49, 99, 149]
    last, following = spy.seen[49], spy.seen[50]
    info = last["infos"][0]
    assert info["TimeLimit.truncated"] and info["episode"]["l"] == 50
    assert info["terminal_observation"][-1] == pytest.approx(-0.5 + 49 / 50) and last["new_obs"][0, -1] == -0.5
    assert following["infos"][0]["TimeLimit.truncated"] is False and following["actions"].shape == (1, 1)
    assert spy.rollouts == [4, 3]


def test_callbacks_of_sb3(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        StreamWrapper(Monitor(pendulum())), eval_freq=50, n_eval_episodes=1, log_path=str(tmp_path), verbose=0
    )
    checkpoints = CheckpointCallback(60, str(tmp_path))
    make(pendulum()).learn(120, [evaluation, checkpoints, StopTrainingOnMaxEpisodes(100)])
    assert evaluation.evaluations_timesteps == [50, 100]
    assert {"evaluations.npz", "rl_model_60_steps.zip", "rl_model_120_steps.zip"} == {p.name for p in tmp_path.iterdir()}
    model = make(pendulum()).learn(1_000, StopTrainingOnMaxEpisodes(2))
    assert model.num_timesteps == 100


def test_progress_bar() -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("rich")
    assert make().learn(20, progress_bar=True).num_timesteps == 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_learning_rate_schedule_bounds_the_steps(backend: str) -> None:
    model = make(backend=backend, learning_rate=lambda remaining: 1e-9 * remaining)
    before = vector(model)
    model.learn(50)
    assert 0 < np.abs(vector(model) - before).max() < 1e-6
    # That of the last of 50 updates.
    assert {optimizer.group["lr"] for optimizer in model._learner.optimizers} == {1e-9 * (1 - 49 / 50)}  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bootstrapping_at_truncation_is_a_choice(backend: str) -> None:
    plain, bootstrapping = (make(pendulum(10), backend, bootstrap_truncated=choice) for choice in (False, True))
    plain.learn(9), bootstrapping.learn(9)
    np.testing.assert_array_equal(vector(plain), vector(bootstrapping))
    plain.learn(1, reset_num_timesteps=False), bootstrapping.learn(1, reset_num_timesteps=False)
    assert not np.array_equal(vector(plain), vector(bootstrapping))


@pytest.mark.parametrize("optimizer", ["obgd", "adaptive_obgd"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [30, 50, 77])
def test_a_saved_run_goes_on_bit_for_bit(steps: int, backend: str, optimizer: str) -> None:
    whole = make(pendulum(), backend, optimizer=optimizer).learn(130)
    part = make(pendulum(), backend, optimizer=optimizer).learn(steps)
    buffer = io.BytesIO()
    part.save(buffer)
    buffer.seek(0)
    # Evaluating in the training environment disturbs neither.
    evaluate_policy(part, part.get_env(), 1)
    part.learn(130 - steps, reset_num_timesteps=False)
    assert_same_state(whole, part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = StreamAC.load(buffer, env=pendulum()).learn(130 - steps, reset_num_timesteps=False)
    assert_same_state(whole, loaded)
    assert loaded.ep_info_buffer is not None and whole.ep_info_buffer is not None
    assert [info["r"] for info in loaded.ep_info_buffer] == [info["r"] for info in whole.ep_info_buffer]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_frozen_pattern_stays_in_training_files_and_resumed_runs(backend: str) -> None:
    whole, part = (make(Circling(), backend, policy_kwargs=FROZEN) for _ in range(2))
    masks = [layer.topology.mask() for _, layer in sparse_layers(whole.policy)]
    before = vector(whole)
    whole.learn(130), part.learn(70)
    assert len(masks) == 7 and not np.array_equal(before, vector(whole))
    buffer = io.BytesIO()
    part.save(buffer)
    buffer.seek(0)
    th.manual_seed(1)  # the pattern is the file's, not one that is drawn anew
    loaded = StreamAC.load(buffer, env=Circling()).learn(60, reset_num_timesteps=False)
    assert_same_state(whole, loaded)
    for (_, layer), mask in zip(sparse_layers(loaded.policy), masks, strict=True):
        assert th.equal(layer.topology.mask(), mask) and (layer.weight[~mask] == 0).all() and (layer.values != 0).all()


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_a_run_may_change_its_back_end() -> None:
    whole = make(pendulum(), "torch").learn(120)
    buffer = io.BytesIO()
    make(pendulum(), "torch").learn(60).save(buffer)
    buffer.seek(0)
    loaded = StreamAC.load(buffer, env=pendulum(), backend="numba").learn(60, reset_num_timesteps=False)
    np.testing.assert_allclose(vector(loaded), vector(whole), atol=1e-5)


class Forgetful(gym.Wrapper):
    """An environment whose randomness is not that of ``np_random``."""

    rng = np.random.default_rng(0)

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return observation + self.rng.standard_normal(3).astype(np.float32), *rest


def test_an_episode_that_cannot_be_replayed_is_given_up_with_a_warning() -> None:
    buffer = io.BytesIO()
    make(Forgetful(pendulum())).learn(70).save(buffer)
    buffer.seek(0)
    model = StreamAC.load(buffer, env=Forgetful(pendulum()))
    with pytest.warns(UserWarning, match="A new episode begins"):
        model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == 100


def test_long_episodes_are_not_recorded_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper_module, "MAX_RECORDED_STEPS", 20)
    model = make(pendulum()).learn(40)
    assert model.env is not None
    state = model.env.env_method("training_state")[0]
    assert len(state["episode"].actions) == 21
    model.learn(5, reset_num_timesteps=False)  # goes on where it is, for nothing needs replaying
    evaluate_policy(model, model.get_env(), 1)
    with pytest.warns(UserWarning, match="takes too long"):
        model.learn(5, reset_num_timesteps=False)


def test_another_environment_takes_over_the_statistics_and_starts_an_episode() -> None:
    model = make(pendulum()).learn(70)
    assert model.env is not None
    before = model.env.env_method("training_state")[0]["reward_scaling"]
    model.set_env(pendulum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(30, reset_num_timesteps=False)
    after = model.env.env_method("training_state")[0]
    assert after["reward_scaling"].count == before.count == 100 and len(after["episode"].actions) == 30


def test_an_interrupted_step_is_not_continued() -> None:
    class Interrupt(gym.Wrapper):
        left = 60

        def step(self, action: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return self.env.step(action)

    model = make(Interrupt(pendulum()))
    with pytest.raises(KeyboardInterrupt):
        model.learn(100)
    assert model.num_timesteps == 59
    model.learn(41, reset_num_timesteps=False)
    assert model.num_timesteps == 100


KILLED = """
import sys, gymnasium as gym
from stable_baselines3.common.callbacks import CheckpointCallback
from sb3_sparse import StreamAC
env = gym.make("Pendulum-v1", max_episode_steps=50)
model = StreamAC("MlpPolicy", env, backend=sys.argv[2], policy_kwargs=dict(width=16, sparsity=0.3), seed=0)
model.learn(10**9, CheckpointCallback(10, sys.argv[1]))
"""


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), BACKENDS[1]])
def test_a_killed_run_goes_on_bit_for_bit(backend: str, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), backend])
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("rl_model_*.zip"))) < 8 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng().random() / 10)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Whenever it was killed, no checkpoint is half-written.
    latest = max(tmp_path.glob("rl_model_*.zip"), key=lambda path: int(path.stem.split("_")[2]))
    loaded = StreamAC.load(latest, env=pendulum())
    total = loaded.num_timesteps + 33
    loaded.learn(33, reset_num_timesteps=False)
    assert_same_state(make(pendulum(), backend).learn(total), loaded)


FRESH = """
import hashlib
from sb3_sparse import StreamAC, diagnostics
for sparsity in (0.0, 0.5):
    model = StreamAC("MlpPolicy", "Pendulum-v1", backend="numba", policy_kwargs=dict(width=64, sparsity=sparsity), seed=0)
    print(hashlib.sha256(model.learn(600).policy.parameters_to_vector().tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_the_process_that_compiles_learns_what_those_with_a_cache_do(tmp_path: Path) -> None:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", FRESH], env=env, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc")) and first == second != ""


class _Progress(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        self.seen.append(self.model._current_progress_remaining)
        return True


def test_callbacks_are_told_how_much_of_training_is_left() -> None:
    callback = _Progress()
    make().learn(4, callback=callback)
    assert callback.seen == [1.0, 0.75, 0.5, 0.25]


NO_CACHE = """
from numba.core import caching
caching.CompileResultCacheImpl._locator_classes = []  # as in a read-only container without a home
import sb3_sparse.sparsity.products.kernels
import sb3_sparse.stream_ac.kernels
import numpy as np
features = np.empty(3, np.float32)
assert sb3_sparse.stream_ac.kernels.observe(np.ones(3), np.zeros(3), np.zeros(3), np.zeros(1), features)
assert not features.any()
"""


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_kernels_compile_where_nothing_can_be_kept() -> None:
    subprocess.run([sys.executable, "-c", NO_CACHE], check=True)


def test_recapture_after_parameters_were_replaced() -> None:
    pytest.importorskip("numba")
    model, other = make(backend="numba"), make(backend="numba", seed=5)

    class Replace(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 10:
                model.set_parameters(other.get_parameters())
            return True

    model.learn(11, Replace())
    for (name, mine), theirs in zip(model.policy.state_dict().items(), other.policy.state_dict().values(), strict=True):
        if name.endswith(("values", "weight", "bias")):
            assert float((mine - theirs).abs().max()) < 0.5
        elif name.endswith("indices"):
            assert th.equal(mine, theirs)
    model.learn(50, reset_num_timesteps=False)
    assert np.isfinite(vector(model)).all()


def test_hidden_activations_for_diagnostics() -> None:
    model = make().learn(30)
    activations = model.policy.hidden_activations(th.zeros(7, 4))
    assert {name: [tuple(a.shape) for a in layers] for name, layers in activations.items()} == {
        "actor": [(7, 16), (7, 16)],
        "critic": [(7, 16), (7, 16)],
    }


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma": 1.5}, r"gamma must be a number in \[0, 1\]"),
        ({"trace_lambda": -0.1}, "trace_lambda must be a number in"),
        ({"kappa_actor": 0}, "kappa_actor must be a positive number"),
        ({"ent_coef": float("nan")}, "ent_coef must be a number"),
        ({"optimizer": "adam"}, "optimizer must be one of .*'obgd'.*got 'adam'"),
        ({"backend": "jax"}, "backend must be one of .*'numba'.*got 'jax'"),
        ({"policy_kwargs": {"width": 0}}, "width must be an integer of at least 2"),
        ({"policy_kwargs": {"init": "zeros"}}, "Unknown init 'zeros'.*'dense'"),
        ({"policy_kwargs": {"init": "frozen_sparse"}}, "a layer of 4 inputs would have none left.*init='sparse'"),
        ({"policy_kwargs": {"sparsity": 1.0}}, r"sparsity must lie in \[0, 1\)"),
        ({"policy_kwargs": {"optimizer": "obgd"}}, "optimizer is an argument of StreamAC"),
        ({"policy_kwargs": {"time_feature": False}}, "time_feature is an argument of StreamWrapper"),
    ],
)
def test_bad_options_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("pruning", [{"sparsity": 0.5}, {"sparsity": {"actor": 0.0, "critic": 0.5}}, {"skip": "actor.mu"}])
def test_a_mask_of_its_own_leaves_nothing_to_prune(pruning: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="init='frozen_sparse' is a mask of its own"):
        make(Circling(), policy_kwargs={**FROZEN, **pruning})


def test_policies_of_other_algorithms_are_refused() -> None:
    with pytest.raises(ValueError, match="policy of its own, got SparseSimBaPolicy"):
        StreamAC(sb3_sparse.SparseSimBaPolicy, "Pendulum-v1")  # type: ignore[arg-type]


class Images(gym.Env):
    observation_space = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    action_space = spaces.Discrete(2)


class ImagesInside(Images):
    observation_space = spaces.Dict({"camera": Images.observation_space})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: make_vec_env("Pendulum-v1", 2), "one environment, one step at a time, got 2"),
        (Images, "learns from vectors.*images"),
        (ImagesInside, "learns from vectors.*images"),
        (lambda: VecNormalize(DummyVecEnv([pendulum])), "leave out VecNormalize"),
        (lambda: VecMonitor(DummyVecEnv([pendulum])), "wrapper_class=StreamWrapper"),
    ],
)
def test_bad_environments_are_refused(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(env())


def test_the_time_feature_needs_a_time_limit() -> None:
    with pytest.raises(ValueError, match="has no time limit"):
        StreamWrapper(Dictionary(), time_feature=True)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StreamWrapper(Dictionary(), time_limit=0)
    assert StreamWrapper(Dictionary(), time_limit=10).observation_space.shape == (8,)
    assert StreamWrapper(pendulum(), time_feature=False).observation_space.shape == (3,)


def test_evaluation_without_the_wrapper_is_explained() -> None:
    model = make().learn(10)
    with pytest.raises(ValueError, match=r"vectors of 4 entries, the last one the time.*StreamWrapper"):
        evaluate_policy(model, Monitor(pendulum()), 1)


class Broken(gym.Wrapper):
    """Returns something that is no number at one step, counted from the start."""

    def __init__(self, env: gym.Env, step: int, reward: float | None, observation: float | None):
        super().__init__(env)
        self.left, self.wrong = step, (reward, observation)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        self.left -= 1
        if self.left == 0:
            reward = reward if self.wrong[0] is None else self.wrong[0]
            observation = observation if self.wrong[1] is None else observation * [1.0, self.wrong[1], 1.0]
        return observation, reward, *rest


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["reward", "observation"])
def test_what_is_no_number_never_enters(where: str, bad: float, backend: str) -> None:
    reference = make(pendulum(), backend).learn(60)
    broken = Broken(pendulum(), 61, bad if where == "reward" else None, bad if where == "observation" else None)
    model = make(broken, backend)
    message = r"reward of (nan|inf) at step 61" if where == "reward" else r"not finite, in entries \[1\] of 4"
    with pytest.raises(ValueError, match=message):
        model.learn(100)
    np.testing.assert_array_equal(vector(model), vector(reference))
    for name in ("mean", "squares", "count"):
        assert th.equal(getattr(model.policy.normalizer, name), getattr(reference.policy.normalizer, name))
    model.save(io.BytesIO())
    model.learn(30, reset_num_timesteps=False)  # with a new episode
    assert np.isfinite(vector(model)).all() and model.num_timesteps == 90


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_that_is_not_finite_changes_no_weight(backend: str) -> None:
    model = make(backend=backend).learn(20)
    with th.no_grad():
        model.policy.actor.get_submodule("pre_std").bias.fill_(-200.0)  # a standard deviation of zero
    before = vector(model)
    with pytest.raises(FloatingPointError, match="networks were left as they"):
        model.learn(1, reset_num_timesteps=False)
    np.testing.assert_array_equal(vector(model), before)
    for network in (model.policy.actor, model.policy.critic):
        assert all((state["trace"] == 0).all() for state in network.optimizer.state.values())


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "numba" else found(name, *args))
    with pytest.raises(ImportError, match=re.escape(f"needs numba, run: {install_command('streaming')}")):
        make(backend="numba")
    with pytest.warns(UserWarning, match="numba is not installed"):
        make(backend="auto").learn(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(backend="torch").learn(5)


def test_numba_needs_the_cpu() -> None:
    pytest.importorskip("numba")
    with pytest.raises(ValueError, match="runs on the CPU, not on meta"):
        make(backend="numba", device="meta")


@pytest.mark.gpu
def test_torch_learns_on_a_gpu_what_it_learns_on_the_cpu() -> None:
    on_gpu, on_cpu = (make(pendulum(), device=device).learn(120) for device in ("cuda", "cpu"))
    assert on_gpu.policy.device.type == "cuda"
    np.testing.assert_allclose(vector(on_gpu), vector(on_cpu), atol=1e-4)


def test_learning_needs_an_environment() -> None:
    buffer = io.BytesIO()
    make().save(buffer)
    buffer.seek(0)
    with pytest.raises(ValueError, match="no environment"):
        StreamAC.load(buffer).learn(10)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_cartpole_is_learned() -> None:
    model = StreamAC("MlpPolicy", "CartPole-v1", seed=0).learn(100_000)
    assert evaluate_policy(model, StreamWrapper(Monitor(gym.make("CartPole-v1"))), 20)[0] > 150


@pytest.mark.parametrize("steps", [100, 300])
def test_dormant_units_of_the_last_observations_are_logged(steps: int) -> None:
    model, spy = make(pendulum()), Spy()
    model.set_logger(configure(None, []))
    model.learn(steps, spy, log_interval=None)
    with th.no_grad():  # a network of few steps has no dormant units of its own
        for network in (model.policy.actor, model.policy.critic.vf):
            network.trunk[0].weight[:4] = 0.0
            network.trunk[0].bias[:4] = 0.0
    model._log_training()
    seen = th.as_tensor(np.concatenate([step["new_obs"] for step in spy.seen[-256:]]))
    with th.no_grad():
        expected = model.policy.hidden_activations(seen)
    for name, layers in expected.items():
        ratio = diagnostics.dormant_ratio(layers, 0.1)
        assert model.logger.name_to_value[f"plasticity/{name}/dormant_0.1"] == pytest.approx(ratio)
