"""DrQv2 as an SB3 algorithm: what a user of SB3 expects, callbacks, compiled updates and bad input."""

import copy
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from dot_env import SIZE, DotEnv
from graph_emulator import Waits, allow_capturable_on_cpu, emulate
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import sb3_sparse
from sb3_sparse import DrQv2, PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback, sparsify
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.buffers.frame_store import FrameStore
from sb3_sparse.callbacks import GradualPruning
from sb3_sparse.callbacks.measurement_file import read_measurements
from sb3_sparse.diagnostics import record
from sb3_sparse.drqv2 import DrQv2Policy
from sb3_sparse.envs import pixel_observations
from sb3_sparse.sparsity import sparse_layers
from sb3_sparse.training.batches import generators_on_device
from sb3_sparse.training.divergence import DivergenceError
from sb3_sparse.training.held_objects import all_optimizers
from sb3_sparse.training.live_optimizers import LiveOptimizers
from sb3_sparse.training.programs import WARM_UPS
from sb3_sparse.training.torch_settings import without_validation

NETWORK: dict[str, Any] = {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}}
SPARSE: dict[str, Any] = {**NETWORK, "sparsity": 0.6}
QUICK: dict[str, Any] = {"buffer_size": 500, "learning_starts": 24, "batch_size": 8, "seed": 0, "device": "cpu"}


def make(env: Any = None, policy: Any = "CnnPolicy", **kwargs: Any) -> DrQv2:
    policy_kwargs = dict(kwargs.pop("policy_kwargs", SPARSE))
    return DrQv2(policy, DotEnv() if env is None else env, policy_kwargs=policy_kwargs, **{**QUICK, **kwargs})


def observations(count: int = 5, channels: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, SIZE, SIZE), np.uint8)


def assert_same(first: Any, second: Any, tolerance: float = 0.0) -> None:
    pairs = zip(first.policy.state_dict().items(), second.policy.state_dict().items(), strict=True)
    for (name, one), (_, other) in pairs:
        np.testing.assert_allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, err_msg=name)


def test_it_is_exported_and_has_the_paper_s_defaults() -> None:
    assert sb3_sparse.DrQv2 is DrQv2 and issubclass(DrQv2, OffPolicyAlgorithm)
    model = DrQv2("CnnPolicy", DotEnv(), buffer_size=10, device="cpu")
    table_4 = {"gamma": 0.99, "learning_rate": 1e-4, "tau": 0.01, "batch_size": 256, "n_steps": 3, "learning_starts": 2_000}
    rest = {"stddev_clip": 0.3, "stddev_schedule": "linear(1.0, 0.1, 500000)", "shift_pixels": 4, "gradient_steps": 1}
    assert {name: getattr(model, name) for name in {**table_4, **rest}} == {**table_4, **rest}
    assert (model.train_freq.frequency, model.policy.feature_dim, model.policy.hidden_dim) == (2, 50, 1024)
    assert model.frame_stack == 3 and not model.replay_buffer.partial_returns


def test_updates_come_every_second_step_after_the_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn = make(), []
    sample = model.action_space.sample
    monkeypatch.setattr(model.action_space, "sample", lambda *args: drawn.append(model.num_timesteps) or sample(*args))
    model.learn(40)
    assert drawn == list(range(24))
    assert model._n_updates == (40 - 24) // 2


def test_save_load_predict(tmp_path: Path) -> None:
    model = make().learn(40)
    model.save(tmp_path / "model")
    loaded = DrQv2.load(tmp_path / "model", device="cpu")
    assert_same(model, loaded)
    assert loaded.replay_buffer is None  # it acts without one
    for optimizer, other in zip(all_optimizers(model), all_optimizers(loaded), strict=True):
        assert optimizer.state and len(optimizer.state) == len(other.state)
    actions = [m.predict(observations(), deterministic=True)[0] for m in (model, loaded)]
    np.testing.assert_allclose(*actions, rtol=1e-6, atol=1e-7)
    single, _ = loaded.predict(observations(1)[0])
    assert model.action_space.contains(single)
    model.policy.save(tmp_path / "policy.pth")
    policy = DrQv2Policy.load(tmp_path / "policy.pth", device="cpu")
    np.testing.assert_allclose(policy.predict(observations(), deterministic=True)[0], actions[1], rtol=1e-6, atol=1e-7)
    assert policy.actor.stddev == model.actor.stddev


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    model = make(stddev_schedule="linear(1.0, 0.0, 100)").learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DrQv2.load(tmp_path / "model", env=DotEnv(), device="cpu")
    assert loaded.replay_buffer is None
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.size() == 40
    assert loaded.stddev == pytest.approx(0.6)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 60 and loaded.stddev == pytest.approx(0.4)
    assert loaded._n_updates == model._n_updates + 10


def test_a_loaded_model_updates_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = make().learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DrQv2.load(tmp_path / "model", env=DotEnv(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.set_logger(model.logger)
    for m in (model, loaded):
        np.random.seed(1)
        th.manual_seed(1)
        m.train(3, 8)
    assert_same(model, loaded, tolerance=1e-6)


def test_a_loaded_model_needs_no_memory_to_act_and_gets_a_buffer_to_learn(tmp_path: Path) -> None:
    model = make().learn(30)
    model.buffer_size = 10**12
    model.save(tmp_path / "model")
    loaded = DrQv2.load(tmp_path / "model", env=DotEnv(), device="cpu")
    assert np.isfinite(evaluate_policy(loaded, loaded.get_env(), 1)[0])
    with pytest.raises(MemoryError, match="buffer_size"):
        loaded.learn(10)
    loaded = DrQv2.load(tmp_path / "model", env=DotEnv(), device="cpu", buffer_size=100)
    loaded.learn(30)
    assert isinstance(loaded.replay_buffer, FrameReplayBuffer) and loaded.replay_buffer.size() == 30
    assert loaded._n_updates == model._n_updates + 3


def test_a_run_that_goes_on_without_its_buffer_waits_for_what_it_can_learn_from(tmp_path: Path) -> None:
    model = make().learn(30)
    model.save(tmp_path / "model")
    loaded = DrQv2.load(tmp_path / "model", env=DotEnv(), device="cpu").learn(30, reset_num_timesteps=False)
    # 3-step returns: none after 2 steps, an update after 4, 6, ..., 30.
    assert loaded._n_updates == model._n_updates + 14
    # Episodes that are too short for them altogether are an error, not a wait without an end.
    with pytest.raises(ValueError, match="no sequence of 3 steps within one episode yet"):
        make(DotEnv(length=2)).learn(30)


def test_seeds_reproduce() -> None:
    first, second, other = (make(seed=seed).learn(40) for seed in (1, 1, 2))
    assert_same(first, second)
    assert not th.equal(first.actor.trunk.projection.weight, other.actor.trunk.projection.weight)


def test_a_loaded_buffer_sums_rewards_as_the_model_does(tmp_path: Path) -> None:
    model = make().learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DrQv2.load(tmp_path / "model", device="cpu", gamma=0.5)
    with pytest.warns(UserWarning, match=r"gamma=0.99; from now on it is 3 and 0.5"):
        loaded.load_replay_buffer(tmp_path / "buffer")
    assert float(loaded.replay_buffer.sample(8).discounts.max()) == pytest.approx(0.5**3)
    loaded = DrQv2.load(tmp_path / "model", device="cpu", n_steps=1)
    with pytest.raises(ValueError, match="filled for returns of n_steps=3 and cannot change to 1"):
        loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer is None


def test_copies_and_pickles_train_on() -> None:
    model = make().learn(40)
    for other in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        np.testing.assert_array_equal(
            other.predict(observations(), deterministic=True)[0], model.predict(observations(), deterministic=True)[0]
        )


def test_parameters_as_a_vector() -> None:
    model = make().learn(30)
    vector = model.policy.parameters_to_vector()
    model.policy.load_from_vector(2 * vector)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), 2 * vector)
    model.train(1, 8)


def test_target_shares_masks_and_follows() -> None:
    model = make().learn(30)
    layers, targets = (dict(sparse_layers(network)) for network in (model.critic, model.critic_target))
    assert layers.keys() == targets.keys() and len(layers) > 0
    assert all(layers[name].topology is targets[name].topology for name in layers)
    features, actions = th.rand(4, model.encoder.features_dim), th.zeros(4, 2)
    before = model.critic_target(features, actions)[0].detach().clone()
    model.train(1, 8)
    assert not th.equal(before, model.critic_target(features, actions)[0])


def test_gradients_of_each_network() -> None:
    model = make().learn(40)
    for name in ("encoder", "actor", "critic"):
        gradients = model.gradients(name)
        assert gradients.keys() == {key for key, _ in getattr(model, name).named_parameters()}
        assert any(float(gradient.abs().sum()) > 0 for gradient in gradients.values())


# Environments


class LastChannel(gym.ObservationWrapper):
    """Images with the colours last, one frame each."""

    def __init__(self, env: DotEnv):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.moveaxis(observation, 0, -1)


class Hidden(gym.ObservationWrapper):
    """An environment that does not tell how many frames it stacks."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.inner = env

    def get_wrapper_attr(self, name: str) -> Any:
        if name == "frame_stack":
            raise AttributeError(name)
        return super().get_wrapper_attr(name)

    def has_wrapper_attr(self, name: str) -> bool:
        return name != "frame_stack" and super().has_wrapper_attr(name)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation


class Gray(gym.ObservationWrapper):
    """Images without colours, (height, width)."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[0]


def gray_stack() -> gym.Env:
    return gym.wrappers.FrameStackObservation(Gray(Hidden(DotEnv(frame_stack=1))), 4)


def vec_frame_stack() -> VecFrameStack:
    return VecFrameStack(DummyVecEnv([lambda: LastChannel(Hidden(DotEnv(frame_stack=1)))]), n_stack=3)


@pytest.mark.parametrize(
    ("env", "frames", "shape"),
    [
        (DotEnv, 3, (9, SIZE, SIZE)),
        (lambda: DotEnv(frame_stack=1), 1, (3, SIZE, SIZE)),
        (lambda: LastChannel(Hidden(DotEnv(frame_stack=1))), 1, (3, SIZE, SIZE)),
        (gray_stack, 4, (4, SIZE, SIZE)),
        (vec_frame_stack, 3, (9, SIZE, SIZE)),
    ],
    ids=["ours", "one frame", "channels last", "gymnasium's stack", "SB3's stack"],
)
def test_environments_and_how_many_frames_they_stack(env: Any, frames: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = make(VecMonitor(env()) if env is vec_frame_stack else env()).learn(40)
    assert model.frame_stack == model.replay_buffer.frame_stack == frames
    assert model.observation_space.shape == shape and model._n_updates == 8
    evaluated = VecMonitor(env()) if env is vec_frame_stack else env()
    assert evaluate_policy(model, evaluated, 1, return_episode_rewards=True, warn=False)[1] == [20]
    model.save(tmp_path / "model")
    assert DrQv2.load(tmp_path / "model").frame_stack == frames


@pytest.mark.usefixtures("rendering")
@pytest.mark.parametrize("env_id", ["dm_control/cartpole-swingup-pixels-v0", "Pendulum-v1"])
def test_environments_of_pixels(env_id: str) -> None:
    if env_id == "Pendulum-v1":
        pytest.importorskip("pygame")
        pytest.importorskip("cv2")
        env = pixel_observations(gym.make(env_id, render_mode="rgb_array"), image_size=20, frame_stack=2)
    else:
        env = gym.make(env_id, image_size=20, frame_stack=2, fast_rendering=True)
    model = make(env).learn(30)
    assert model.frame_stack == model.replay_buffer.frame_stack == 2 and model._n_updates == 3


def test_a_frame_stack_that_nothing_tells_is_given_or_warned_of() -> None:
    with pytest.warns(UserWarning, match="give frame_stack=3"):
        assert make(Hidden(DotEnv())).frame_stack == 1
    model = make(Hidden(DotEnv()), frame_stack=3)
    assert model.replay_buffer.nbytes < 0.5 * make(DotEnv(), frame_stack=1).replay_buffer.nbytes
    model.learn(30)


def test_a_wrong_frame_stack_is_refused_at_the_first_steps() -> None:
    with pytest.raises(ValueError, match="frame_stack=9 is wrong"):
        make(Hidden(DotEnv()), frame_stack=9).learn(30)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_several_environments_update_at_the_same_ratio(n_envs: int) -> None:
    env = DummyVecEnv([DotEnv] * n_envs)
    model = make(VecMonitor(env), learning_starts=24).learn(24 + 12 * n_envs)
    assert model.gradient_steps == n_envs
    assert model._n_updates == 6 * n_envs
    assert np.isfinite(evaluate_policy(model, DotEnv(), 1, warn=False)[0])


def test_a_loaded_model_keeps_the_ratio_with_another_number_of_environments(tmp_path: Path) -> None:
    make().learn(30).save(tmp_path / "model")
    env = VecMonitor(DummyVecEnv([DotEnv] * 3))
    loaded = DrQv2.load(tmp_path / "model", env=env, device="cpu")
    assert (loaded.gradient_steps, loaded.n_envs) == (3, 3)
    before = loaded._n_updates
    loaded.learn(48)
    assert loaded._n_updates - before == (48 - 24) // 2
    assert DrQv2.load(tmp_path / "model", env=env, device="cpu", gradient_steps=1).gradient_steps == 1


def test_actions_are_scaled_to_the_environment_s_bounds() -> None:
    env = DotEnv()
    env.action_space = spaces.Box(np.float32([-3, 0]), np.float32([1, 2]))
    model = make(env, stddev_schedule=0.0, learning_starts=0)
    action, _ = model.predict(observations(1)[0], deterministic=True)
    with th.no_grad():
        raw = model.actor(model.policy.encode(th.from_numpy(observations(1))))[0].numpy()
    np.testing.assert_allclose(action, [-1 + 2 * raw[0], 1 + raw[1]], rtol=1e-5)


def test_callbacks_of_sb3(tmp_path: Path) -> None:
    evaluation = EvalCallback(VecMonitor(DummyVecEnv([DotEnv])), n_eval_episodes=1, eval_freq=20, log_path=str(tmp_path))
    checkpoint = CheckpointCallback(20, str(tmp_path), save_replay_buffer=True)
    make().learn(40, callback=[evaluation, checkpoint])
    assert len(evaluation.evaluations_timesteps) == 2
    assert len(list(tmp_path.glob("*.zip"))) == 2 and len(list(tmp_path.glob("*.pkl"))) == 2


def test_other_encoders(tmp_path: Path) -> None:
    policy_kwargs = {
        "hidden_dim": 16,
        "features_extractor_class": NatureCNN,
        "features_extractor_kwargs": {"features_dim": 32},
    }
    model = make(DotEnv(size=36), policy_kwargs=policy_kwargs).learn(28)
    assert isinstance(model.encoder, NatureCNN) and model.actor.trunk.projection.in_features == 32
    model.save(tmp_path / "model")
    assert_same(model, DrQv2.load(tmp_path / "model", device="cpu"))


def test_other_replay_buffers() -> None:
    model = make(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99}).learn(40)
    assert type(model.replay_buffer) is NStepReplayBuffer and model._n_updates == 8
    model = make(replay_buffer_class=ReplayBuffer, n_steps=1).learn(40)
    assert model._n_updates == 8
    assert make(replay_buffer_kwargs={"partial_returns": True}).replay_buffer.partial_returns


def test_rewards_can_be_normalised() -> None:
    env = VecNormalize(VecMonitor(DummyVecEnv([DotEnv])), norm_obs=False)
    assert make(env).learn(40)._n_updates == 8


def test_autocast_rounds_and_no_more() -> None:
    plain, rounded = (make(autocast=autocast, stddev_schedule=0.1).learn(30) for autocast in (False, True))
    state, other = plain.policy.state_dict(), rounded.policy.state_dict()
    assert all(value.dtype == other[name].dtype for name, value in state.items())
    assert not th.equal(state["encoder.encoder.layers.0.weight"], other["encoder.encoder.layers.0.weight"])
    assert_same(plain, rounded, tolerance=5e-3)


# Callbacks of this package


def test_plasticity_is_measured_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "plasticity.csv"
    callback = PlasticityCallback(log_freq=16, batch_size=16, covariance_freq=16, path=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        watched = make().learn(48, callback=callback)
    assert_same(watched, make().learn(48))
    lines = [line for line in read_measurements(path) if not line.layer]
    found = {(line.network, line.metric) for line in lines}
    measures = ("dormant_0.1", "active", "srank", "feature_norm", "parameter_norm", "gradient_norm")
    assert found >= {(network, measure) for network in ("encoder", "actor", "critic") for measure in measures}
    assert ("critic", "gradient_interference") in found
    assert all(np.isfinite(line.value) for line in lines)


def test_measured_units_are_those_of_trunk_and_hidden_layers(tmp_path: Path) -> None:
    path = tmp_path / "plasticity.csv"
    model = make().learn(40, callback=PlasticityCallback(log_freq=16, batch_size=16, path=path))
    lines = [line for line in read_measurements(path) if line.network == "critic" and line.metric == "active"]
    assert {line.layer for line in lines} == {"", "trunk.squash", "qf0.1", "qf0.3", "qf1.1", "qf1.3"}
    batch = model.replay_buffer.sample(16)
    with th.no_grad():
        joined = th.cat([model.critic.trunk(model.policy.encode(batch.observations)), batch.actions], dim=1)
    network = model.policy.measured_networks()["critic"]
    assert th.equal(
        record(network.module, lambda: network.forward(batch)).post["qf0.1"], model.critic.qf0[:2](joined).detach()
    )


def test_all_units_of_the_encoder_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "plasticity.csv"
    model = make().learn(40, callback=PlasticityCallback(log_freq=16, batch_size=16, path=path))
    lines = [line for line in read_measurements(path) if line.network == "encoder" and line.metric == "active"]
    assert {line.layer for line in lines} == {"", *(f"encoder.layers.{i}" for i in (1, 3, 5, 7))}
    batch = model.replay_buffer.sample(16)
    network = model.policy.measured_networks()["encoder"]
    recording = record(network.module, lambda: network.forward(batch), is_encoder=True)
    with th.no_grad():
        features = model.policy.encode(batch.observations)
    assert recording.output_layers == () and th.equal(recording.features["encoder.layers.7"], features)
    assert [chain.producer for chain in recording.chains] == [f"encoder.layers.{i}" for i in (0, 2, 4)]


@pytest.mark.parametrize("part", ["agent", "critic", "last_layers"])
def test_resets(part: str) -> None:
    model = make().learn(40)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    callback = ResetCallback(reset_freq=20, part=part)
    callback.init_callback(model)
    callback.reset()
    changed = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    assert not any("topology" in name for name in changed)
    roots = {name.split(".")[0] for name in changed}
    assert (
        roots
        == {
            "agent": {"encoder", "actor", "critic", "critic_target"},
            "critic": {"critic", "critic_target"},
            "last_layers": {"actor", "critic", "critic_target"},
        }[part]
    )
    if part == "agent":
        assert all(not value.any() for o in all_optimizers(model) for s in o.state.values() for value in s.values())
    model.learn(10, reset_num_timesteps=False)


def test_redo_draws_orthogonal_weights() -> None:
    model = make(policy_kwargs={**NETWORK, "hidden_dim": 64}).learn(40)
    with th.no_grad():
        for layer in (model.critic.qf0[0], model.actor.mu[0]):
            layer.weight[:3] = 0.0
            layer.bias[:3] = -1.0
        convolution = model.encoder.encoder.layers[2]
        convolution.weight[1] = 0.0
        convolution.bias[1] = -1.0
    callback = ReDoCallback(redo_freq=20, tau=0.0, batch_size=16)
    callback.init_callback(model)
    counts = callback.recycle()
    assert counts["critic"] >= 3 and counts["actor"] >= 3 and counts["encoder"] >= 1
    # A row of an orthogonal matrix times sqrt(2); uniform weights as torch's would have a norm of about 0.58.
    assert float(convolution.weight[1].detach().norm()) == pytest.approx(2**0.5, rel=1e-4) and convolution.bias[1] == 0.0
    assert not model.encoder.encoder.layers[4].weight[:, 1].any()
    weight = model.critic.qf0[0].weight
    # Rows of a (64, 10) matrix with orthonormal columns; torch's own initialisation is uniform, with norms about 0.58.
    assert 0 < float(weight[:3].detach().norm()) < 1.2 and not model.critic.qf0[0].bias[:3].any()
    assert not model.critic.qf0[2].weight[:, :3].any()
    model.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("method", ["set", "rigl", "pruning"])
def test_masks_can_move(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"set": {}, "rigl": {"batch_size": 8}, "pruning": {"final_sparsity": 0.8}}[method]
    model = make()
    before = [layer.indices.clone() for _, layer in sparse_layers(model.critic)]
    model.learn(60, callback=SparseTopologyCallback(method, update_freq=15, **options))
    after = [layer.indices for _, layer in sparse_layers(model.critic)]
    assert any(a.shape != b.shape or not th.equal(a, b) for a, b in zip(before, after, strict=False))
    assert not list(sparse_layers(model.actor)) and not list(sparse_layers(model.encoder))
    model.save(tmp_path / "model")
    assert_same(model, DrQv2.load(tmp_path / "model", device="cpu"))


def test_sparsify_refers_to_the_policy() -> None:
    with pytest.raises(ValueError, match="give sparsity in policy_kwargs"):
        sparsify(make(), 0.5)


# Compiled updates, as a GPU runs them: see graph_emulator


def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw batches from a generator of the buffer's own, within the graph, into memory that torch hands out."""

    def empty(store: FrameStore, count: int, pinned: bool = False) -> th.Tensor:
        return th.empty(count, *store.frame_shape, dtype=store.torch_type)

    monkeypatch.setattr(FrameStore, "_empty", empty)
    monkeypatch.setattr(FrameReplayBuffer, "_make_generator", lambda self: th.Generator())


@pytest.mark.parametrize("buffer_on_device", [False, True])
@pytest.mark.parametrize("network", [NETWORK, SPARSE, {**SPARSE, "width_scale": 2.0, "prune_modules": "q_heads"}])
def test_replays_update_as_single_operations_do(
    network: dict[str, Any], buffer_on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if buffer_on_device:
        on_device(monkeypatch)
    eager = make(policy_kwargs=network, stddev_schedule="linear(1.0, 0.0, 60)").learn(60)
    emulate(monkeypatch)
    graphs = make(policy_kwargs=network, stddev_schedule="linear(1.0, 0.0, 60)").learn(60)
    (program,) = graphs._programs.programs.values()
    assert program.graph.replays == program.runs - WARM_UPS > 10
    assert len(program.graph.generators) == int(buffer_on_device)
    assert_same(eager, graphs, tolerance=1e-4)
    for name in ("encoder", "actor", "critic"):
        assert graphs.gradients(name).keys() == eager.gradients(name).keys() != set()


def test_other_algorithms_draw_frames_within_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> sb3_sparse.SAC:
        buffer = {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"frame_stack": 3, "n_steps": 2}}
        network = {"net_arch": [8], "features_extractor_class": FlattenExtractor}
        return sb3_sparse.SAC("CnnPolicy", DotEnv(), policy_kwargs=network, **buffer, **QUICK).learn(34)

    on_device(monkeypatch)
    eager = trained()
    emulate(monkeypatch)
    graphs = trained()
    (program,) = graphs._programs.programs.values()
    assert program.graph.replays == program.runs - WARM_UPS > 5
    assert program.graph.generators == [graphs.replay_buffer.generator]
    assert_same(eager, graphs, tolerance=1e-4)


def test_frames_on_another_device_are_fed_to_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph takes generators of its own device only."""
    on_device(monkeypatch)
    model = make()
    assert generators_on_device(model) == [model.replay_buffer.generator]
    model.replay_buffer.generator = SimpleNamespace(device=th.device("cuda:1"))
    assert generators_on_device(model) == []


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("network", [NETWORK, SPARSE])
def test_nothing_waits_for_the_device(network: dict[str, Any], autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_capturable_on_cpu(monkeypatch)
    on_device(monkeypatch)
    model = make(policy_kwargs=network, autocast=autocast).learn(30)
    optimizers = LiveOptimizers(all_optimizers(model), model.device)
    for _ in range(2):
        with (
            optimizers.capturing(),
            without_validation(),
            Waits() as waits,
            model._weights.dense.serving(model.policy),
        ):
            model.gradient_step(model.replay_buffer.sample(8), True)
    assert not waits.found and len(waits.operations) > 100


@pytest.mark.parametrize("change", ["shift_pixels", "autocast", "stddev_clip", "tau"])
def test_replays_notice_changed_settings(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"shift_pixels": 0, "autocast": True, "stddev_clip": 0.0, "tau": 1.0}[change]
    eager = make().learn(40)
    emulate(monkeypatch)
    graphs = make().learn(40)
    monkeypatch.undo()
    for model in (eager, graphs):
        setattr(model, change, value)
        if model is graphs:
            emulate(monkeypatch)
        np.random.seed(0)
        th.manual_seed(0)
        model.train(6, 8)
    assert_same(eager, graphs, tolerance=1e-3)


def test_an_optimizer_that_cannot_be_captured_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3_sparse.training.compiled_training.CompiledTraining, "_runs_on_gpu", lambda model: True)
    model = make(policy_kwargs={**NETWORK, "optimizer_class": th.optim.Adagrad})
    with pytest.warns(UserWarning, match="kernel by kernel.*Adagrad"):
        model.learn(30)
    assert model._n_updates == 3


def test_divergence_stops_training() -> None:
    model = make().learn(26)
    with th.no_grad():
        model.critic.qf0[4].bias.fill_(th.nan)
    with pytest.raises(DivergenceError, match="critic_loss"):
        model.train(1, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("network", [NETWORK, SPARSE])
def test_training_on_a_gpu(network: dict[str, Any], tmp_path: Path) -> None:
    model = make(policy_kwargs=network, device="cuda").learn(80)
    (program,) = model._programs.programs.values()
    assert program.graph is not None and model.replay_buffer.storage_device.type == "cuda"
    host = make(policy_kwargs=network, device="cuda", replay_buffer_device="cpu", autocast=True).learn(80)
    assert host.replay_buffer.storage_device.type == "cpu"
    model.save(tmp_path / "model")
    loaded = DrQv2.load(tmp_path / "model", device="cpu")
    actions = [m.predict(observations(), deterministic=True)[0] for m in (model, loaded)]
    np.testing.assert_allclose(*actions, atol=1e-3)


# Bad input


class Observing(DotEnv):
    """An environment with another observation space."""

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.observation_space = space


class Acting(DotEnv):
    """An environment with another action space."""

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.action_space = space


IMAGE = (9, SIZE, SIZE)
BAD_ENVS = [
    (lambda: Observing(spaces.Box(-1, 1, (24,), np.float32)), "learns from images"),
    (lambda: Observing(spaces.Box(0, 1, IMAGE, np.float32)), "must be uint8"),
    (lambda: Observing(spaces.Box(0, 1, IMAGE, np.uint8)), "must be uint8"),
    (lambda: Observing(spaces.Box(0, 255, (3, SIZE, SIZE, 3), np.uint8)), "join stacked frames"),
    (lambda: Observing(spaces.Box(0, 255, (9, 14, 14), np.uint8)), "too small: four convolutions need 15"),
    (lambda: Acting(spaces.Discrete(3)), "needs continuous actions"),
    (lambda: Acting(spaces.MultiBinary(3)), "needs continuous actions"),
]


@pytest.mark.parametrize(("env", "message"), BAD_ENVS, ids=[message for _, message in BAD_ENVS])
def test_environments_that_do_not_fit(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(env())


def test_a_dictionary_is_refused() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, IMAGE, np.uint8)})
    with pytest.raises(ValueError, match="take the image out"):
        make(Observing(space), policy=DrQv2Policy)


BAD_ARGUMENTS = [
    ({"frame_stack": 0}, "frame_stack must be an integer of at least 1"),
    ({"frame_stack": 2}, "2 frames cannot make up 9 channels"),
    ({"n_steps": 0}, "n_steps must be an integer of at least 1"),
    ({"n_steps": 1.5}, "n_steps must be"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"shift_pixels": -1}, "shift_pixels must be"),
    ({"learning_starts": -1}, "learning_starts must be"),
    ({"gradient_steps": -2}, "gradient_steps must be"),
    ({"train_freq": (1, "episode")}, "give gradient_steps"),
    ({"tau": 2.0}, "tau must be a number in"),
    ({"gamma": -0.1}, "gamma must be a number in"),
    ({"stddev_clip": -0.3}, "stddev_clip must be a number"),
    ({"matmul_precision": "low"}, "matmul_precision must be one of"),
    ({"replay_buffer_device": "disk"}, "replay_buffer_device must be one of"),
    ({"replay_buffer_class": ReplayBuffer}, "ReplayBuffer must be told of n_steps=3"),
    ({"policy_kwargs": {"prune_modules": "encoder"}}, "prune_modules must be one of 'critic', 'q_heads'"),
    ({"policy_kwargs": {"sparsity": {"actor": 0.5, "critic": 0.5}}}, "prunes its critic only"),
    ({"policy_kwargs": {"sparsity": 1.5}}, "sparsity"),
    ({"policy_kwargs": {"width_scale": 0.0}}, "width_scale must be a positive number"),
    ({"policy_kwargs": {"width_scale": 0.01, "hidden_dim": 16}}, "leaves the critic without units"),
    ({"policy_kwargs": {"hidden_dim": 0}}, "hidden_dim must be"),
    ({"policy_kwargs": {"features_extractor_kwargs": {"channels": 0}}}, "channels must be"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=[message[:30] for _, message in BAD_ARGUMENTS])
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_arguments_of_other_policies_are_refused() -> None:
    with pytest.raises(TypeError, match=r"unknown argument net_arch=\[64\].*hidden_dim"):
        make(policy_kwargs={"net_arch": [64]})


def test_a_policy_of_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match='give "CnnPolicy"'):
        make(policy=sb3_sparse.SparseSimBaPolicy)
    with pytest.raises(ValueError, match="MlpPolicy unknown"):
        make(policy="MlpPolicy")


def test_a_buffer_that_does_not_fit_into_memory_is_refused_before_anything_else() -> None:
    with pytest.raises(MemoryError, match=r"bytes.*buffer_size"):
        make(DotEnv(size=84), buffer_size=10**10)


def test_images_of_another_size_are_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros((9, SIZE + 1, SIZE), np.uint8))


def test_checkpoints_of_another_sparsity_are_refused() -> None:
    dense, sparse = make(policy_kwargs=NETWORK), make()
    with pytest.raises(RuntimeError, match="topology does not fit"):
        sparse.policy.load_state_dict(dense.policy.state_dict())


def test_a_buffer_of_another_number_of_environments_is_refused(tmp_path: Any) -> None:
    make().learn(30).save_replay_buffer(tmp_path / "buffer")
    model = make(DummyVecEnv([DotEnv] * 2))
    with pytest.raises(ValueError, match="transitions of 1 environments, the model has 2 environments"):
        model.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize(
    ("frozen", "untrained"),
    [(("actor",), "actor"), (("encoder",), None), (("critic",), None), (("critic", "encoder"), "encoder and critic")],
)
def test_frozen_networks_are_not_trained(frozen: tuple[str, ...], untrained: str | None) -> None:
    model = make().learn(40)
    for name in frozen:
        model.policy.get_submodule(name).requires_grad_(False)
    trained = {name: value for name, value in model.policy.named_parameters() if "target" not in name}
    before = {name: value.clone() for name, value in trained.items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.train(3, 8)
    skipped = [str(w.message) for w in said if "does not train" in str(w.message)]
    assert len(skipped) == (untrained is not None) and all(f"train {untrained}:" in message for message in skipped)
    moved = {
        name.partition(".")[0]
        for name, value in model.policy.named_parameters()
        if not th.equal(before.get(name, value), value)
    }
    assert moved == {"encoder", "actor", "critic"} - set(frozen)


def test_pruning_of_a_network_that_is_not_pruned_by_itself_is_refused() -> None:
    for name in ("actor", "encoder"):
        with pytest.raises(
            ValueError, match=rf"does not prune the '{name}' as a network of its own: name one of \['critic'\]"
        ):
            make().learn(5, callback=SparseTopologyCallback({name: GradualPruning(0.9)}))
