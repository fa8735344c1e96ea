"""Exported policies do what the model's own ``predict`` does."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

import sb3_sparse
from sb3_sparse import (
    DER,
    DrQv2,
    SparseSimBaCrossQPolicy,
    SparseSimBaExtractor,
    SparseSimBaPolicy,
    SparseSimBaTD3Policy,
    SparseSimBaTQCPolicy,
    StreamAC,
    sparsify,
)
from sb3_sparse.cli.command_line import main
from sb3_sparse.installation import install_command
from sb3_sparse import deployment
from sb3_sparse.deployment import export, load_policy, runtime
from sb3_sparse.deployment.loading import load_model

ALGORITHMS = {
    "sac": (SAC, SparseSimBaPolicy),
    "ddpg": (DDPG, SparseSimBaTD3Policy),
    "td3": (TD3, SparseSimBaTD3Policy),
    "tqc": (TQC, SparseSimBaTQCPolicy),
}
SMALL = {"sparsity": 0.7, "width_scale": 0.125}
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='needs extra "export"',
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "sparse"]
VECTORS = spaces.Box(-3.0, 5.0, (6,), np.float32)
PARTS = spaces.Dict(x=VECTORS, y=spaces.Box(-1, 1, (3,)))


class Env(gym.Env):
    """Random observations, and actions in a lopsided box."""

    action_space = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([1.0, 3.0], np.float32))

    def __init__(self, observation_space: spaces.Space = VECTORS):
        self.observation_space = observation_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return self.observation_space.sample(), float(action.sum()), False, bool(self.np_random.random() < 0.2), {}


def trained(algorithm: str, policy: str = "ours", env: gym.Env | None = None, **kwargs: Any) -> BaseAlgorithm:
    """A model after some updates, so that its statistics are not those it started with."""
    algorithm_class, ours = ALGORITHMS[algorithm]
    env = Env() if env is None else env
    settings = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16, "seed": 0, "device": "cpu", **kwargs}
    if policy == "ours":
        model = algorithm_class(ours, env, policy_kwargs=dict(SMALL), **settings)
    else:
        model = algorithm_class(policy, env, policy_kwargs={"net_arch": [32, 40]}, **settings)
        sparsify(model, 0.7)
    return model.learn(40)


@pytest.fixture
def unpickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """While the list holds something, an object of a pickle raises, whoever reads it but numba, which caches kernels."""
    blocked: list[str] = []

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event == "pickle.find_class"
            and blocked
            and not any("numba" in frame.filename for frame in traceback.extract_stack())
        ):
            raise PermissionError(f"unpickling is blocked, and {'.'.join(map(str, arguments))} was asked for")

    sys.addaudithook(guard)  # for good, hence the list
    yield blocked
    blocked.clear()


def run(path: Path, format: str, observations: np.ndarray) -> np.ndarray:
    if format == "sparse":
        return load_policy(path)(observations)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["observation"]
    return session.run(["action"], {"observation": observations})[0]


def assert_same_actions(actions: np.ndarray, expected: np.ndarray) -> None:
    assert actions.shape == expected.shape
    assert np.abs(actions - expected).max() <= 1e-5
    assert np.ptp(expected, axis=0).max() > 1e-3, "actions that are all the same would prove nothing"


# Every combination is exported as active weights; ONNX, which takes seconds, from both kinds of actors.
CASES = [("sparse", a, p) for a in ALGORITHMS for p in ("ours", "MlpPolicy")]
ONNX_CASES = [("onnx", "sac", "ours"), ("onnx", "td3", "ours")]


@pytest.mark.parametrize(
    ("format", "algorithm", "policy"), [*CASES, *(pytest.param(*case, marks=needs_onnx) for case in ONNX_CASES)]
)
def test_exported_policy_acts_as_the_model(tmp_path: Path, format: str, algorithm: str, policy: str) -> None:
    model, path = trained(algorithm, policy), tmp_path / "policy.out"
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    written = export(model, path, format)
    observations = 3 * np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    for batch in (1, 7, 50):
        assert_same_actions(run(path, format, observations[:batch]), expected[:batch]) if batch > 1 else None
    assert np.abs(run(path, format, observations[:1]) - expected[:1]).max() <= 1e-5
    assert written.bytes == path.stat().st_size
    assert 0 <= written.largest_error <= 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["policy.out"], "nothing else is left"
    assert all(map(th.equal, before.values(), model.policy.state_dict().values()))
    assert any("values" in name for name in before), "the model itself stays sparse"


class OtherActions(Env):
    """Random observations, and other actions."""

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space = VECTORS):
        super().__init__(observation_space)
        self.action_space = action_space

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return self.observation_space.sample(), float(np.sum(action)), False, bool(self.np_random.random() < 0.2), {}


BOX, FOUR = Env.action_space, spaces.Discrete(4)
PIXELS = spaces.Box(0, 255, (3, 36, 36), np.uint8)
LAYERS = {"net_arch": [16, 12]}
SIMBA = {"net_arch": [], "features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": SMALL}
OFF = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16}
ON = {"n_steps": 20}
NO_RAINBOW = {"distributional": False, "dueling": False, "noisy": False}
# Algorithm, action space, arguments, formats; ONNX takes seconds.
OTHERS = {
    "PPO": (PPO, BOX, {**ON, "batch_size": 10, "policy_kwargs": LAYERS}, "sparse onnx"),
    "PPO, extractor": (PPO, FOUR, {**ON, "batch_size": 10, "policy_kwargs": SIMBA}, "sparse onnx"),
    "PPO, several": (PPO, spaces.MultiDiscrete([2, 3]), {**ON, "batch_size": 10, "policy_kwargs": LAYERS}, "sparse onnx"),
    "PPO, binary": (PPO, spaces.MultiBinary(3), {**ON, "batch_size": 10, "policy_kwargs": LAYERS}, "sparse onnx"),
    "A2C": (A2C, FOUR, {**ON, "policy_kwargs": LAYERS}, "sparse"),
    "SAC, gSDE": (SAC, BOX, {**OFF, "use_sde": True, "policy_kwargs": LAYERS}, "sparse onnx"),
    "TQC, gSDE": (TQC, BOX, {**OFF, "use_sde": True, "policy_kwargs": {**LAYERS, "clip_mean": 0.1}}, "sparse onnx"),
    "PPO, gSDE": (PPO, BOX, {**ON, "batch_size": 10, "use_sde": True, "policy_kwargs": LAYERS}, "sparse onnx"),
    "A2C, squashed": (A2C, BOX, {**ON, "use_sde": True, "policy_kwargs": {**LAYERS, "squash_output": True}}, "sparse onnx"),
    "TRPO": (TRPO, BOX, {**ON, "batch_size": 10, "policy_kwargs": LAYERS}, "sparse"),
    "DQN": (DQN, FOUR, {**OFF, "policy_kwargs": LAYERS}, "sparse onnx"),
    "QRDQN": (QRDQN, FOUR, {**OFF, "policy_kwargs": LAYERS}, "sparse onnx"),
    "CrossQ": (CrossQ, BOX, {**OFF, "policy_kwargs": LAYERS}, "sparse onnx"),
    "CrossQ, ours": (CrossQ, BOX, {**OFF, "policy_kwargs": dict(SMALL)}, "sparse"),
    "SAC, BroNet": (SAC, BOX, {**OFF, "policy_kwargs": {**SMALL, "network": "bronet"}}, "sparse"),
    "DER": (DER, FOUR, {**OFF, "policy_kwargs": {"net_arch": [16], "sparsity": 0.5}}, "sparse onnx"),
    "DER, plain": (DER, FOUR, {**OFF, "policy_kwargs": {"net_arch": [16], **NO_RAINBOW}}, "sparse"),
    "StreamAC": (StreamAC, BOX, {"policy_kwargs": {"width": 16, "sparsity": 0.5}}, "sparse onnx"),
    "StreamAC, discrete": (StreamAC, FOUR, {"policy_kwargs": {"width": 16}}, "sparse onnx"),
    "DrQv2": (DrQv2, BOX, {**OFF, "policy_kwargs": {"hidden_dim": 16}, "frame_stack": 1}, "onnx"),
}


QUICK = ("PPO, several", "SAC, gSDE", "DER", "StreamAC, discrete", "DrQv2")


@pytest.mark.filterwarnings("ignore:Your observation  has an unconventional shape")
@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((name, "sparse") for name, case in OTHERS.items() if "sparse" in case[-1]),
        *(
            pytest.param(name, "onnx", marks=[needs_onnx] if name in QUICK else [needs_onnx, pytest.mark.slow])
            for name, case in OTHERS.items()
            if "onnx" in case[-1]
        ),
    ],
)
def test_other_algorithms_act_as_the_model(tmp_path: Path, name: str, format: str) -> None:
    algorithm, action_space, arguments, _ = OTHERS[name]
    env = OtherActions(action_space, PIXELS if name == "DrQv2" else VECTORS)
    policy: Any = {"DrQv2": "CnnPolicy", "CrossQ, ours": SparseSimBaCrossQPolicy, "SAC, BroNet": SparseSimBaPolicy}.get(
        name, "MlpPolicy"
    )
    arguments = {**arguments, "policy_kwargs": dict(arguments["policy_kwargs"])}  # SB3 writes into it
    model = algorithm(policy, env, seed=0, device="cpu", **arguments).learn(40)
    model.save(tmp_path / "model.zip")
    export(load_model(tmp_path / "model.zip"), tmp_path / "policy", format)
    env.observation_space.seed(1)
    observations = np.stack([model.observation_space.sample() for _ in range(40)])
    expected = model.predict(observations, deterministic=True)[0]
    actions = run(tmp_path / "policy", format, observations)
    assert actions.shape == expected.shape and actions.dtype.kind == (expected.dtype.kind if name != "PPO, binary" else "f")
    assert np.abs(actions - expected).max() <= 1e-5
    assert np.ptp(expected, axis=0).max() > 1e-4, "actions that are all the same would prove nothing"
    if format == "sparse":
        assert np.allclose(load_policy(tmp_path / "policy")(observations[0]), actions[0], atol=1e-6)


@pytest.fixture(params=["compiled", "numpy"])
def back_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs the policies that are loaded."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    monkeypatch.setattr(runtime, "_numba_is_there", lambda: request.param == "compiled")
    return request.param


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU])
def test_active_weights_give_the_same_actions(tmp_path: Path, back_end: str, activation: type[nn.Module]) -> None:
    kwargs = {"net_arch": [32, 300], "activation_fn": activation}
    model = sparsify(SAC("MlpPolicy", Env(), policy_kwargs=kwargs, buffer_size=10, seed=0), 0.8)
    assert export(model, tmp_path / "policy", "sparse").largest_error <= 1e-5
    observations = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    actions = load_policy(tmp_path / "policy")(observations)
    assert_same_actions(actions, model.predict(observations, deterministic=True)[0])


def test_empty_rows_and_dense_layers(tmp_path: Path, back_end: str) -> None:
    model = trained("sac")
    with th.no_grad():
        model.actor.latent_pi.projection.values[:40] = 0.0  # what is zero is not stored, nor are rows without any other
    export(model, tmp_path / "policy", "sparse")
    policy = load_policy(tmp_path / "policy")
    kinds = {step.name for step in policy.steps}
    assert {"sparse", "dense"} <= kinds
    assert any((np.diff(step.arrays["starts"]) == 0).any() for step in policy.steps if step.name == "sparse")
    observations = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    assert_same_actions(policy(observations), model.predict(observations, deterministic=True)[0])


def test_the_command_offers_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert f"{{{','.join([*deployment.FORMATS, deployment.SAFE_FORMAT])}}}" in capsys.readouterr().out


def test_stored_weights_are_the_active_ones(tmp_path: Path) -> None:
    model = trained("sac")
    export(model, tmp_path / "policy", "sparse")
    steps = load_policy(tmp_path / "policy").steps
    layer = model.actor.latent_pi.blocks[0].expand
    assert any(np.array_equal(s.arrays.get("values", []), layer.values.detach().numpy()) for s in steps if s.name == "sparse")


@pytest.mark.parametrize("format", FORMATS)
def test_dictionaries_are_taken_as_one_vector(tmp_path: Path, format: str) -> None:
    parts = {"b": spaces.Box(-1.0, 1.0, (2, 2), np.float32), "a": spaces.Box(-np.inf, np.inf, (3,), np.float64)}
    space = spaces.Dict(parts)
    model = trained("sac", "ours", Env(space))
    export(model, tmp_path / "policy", format)
    samples = [space.sample() for _ in range(20)]
    flat = np.stack([spaces.flatten(space, sample) for sample in samples]).astype(np.float32)
    expected = np.stack([model.predict(sample, deterministic=True)[0] for sample in samples])
    if format == "sparse":
        policy = load_policy(tmp_path / "policy")
        assert_same_actions(np.stack([policy(sample) for sample in samples]), expected)
        batch = {key: np.stack([sample[key] for sample in samples]) for key in ("b", "a")}
        assert_same_actions(policy(batch), expected)
    else:
        assert_same_actions(run(tmp_path / "policy", format, flat), expected)


@pytest.mark.parametrize(
    ("format", "space"),
    [pytest.param("onnx", PARTS, marks=needs_onnx), ("sparse", VECTORS), ("sparse", PARTS)],
    ids=["onnx-dict", "sparse-box", "sparse-dict"],
)
def test_vec_normalize_is_built_in(tmp_path: Path, format: str, space: spaces.Space) -> None:
    keys = ["x"] if isinstance(space, spaces.Dict) else None
    env = VecNormalize(DummyVecEnv([lambda: Env(space)]), clip_obs=1.5, norm_obs_keys=keys)
    policy = "MultiInputPolicy" if keys else "MlpPolicy"
    model = trained("td3", policy, env)
    env.save(str(tmp_path / "statistics.pkl"))
    model.save(tmp_path / "model")
    options = ["--format", format, "--vec-normalize", str(tmp_path / "statistics.pkl")]
    assert main(["export", str(tmp_path / "model.zip"), "-o", str(tmp_path / "policy"), *options]) == 0
    samples = [space.sample() for _ in range(30)]
    batch: Any = {key: np.stack([s[key] for s in samples]) for key in space.spaces} if keys else np.stack(samples)
    expected = model.predict(env.normalize_obs(batch), deterministic=True)[0]
    flat = np.stack([spaces.flatten(space, sample) for sample in samples]).astype(np.float32)
    actions = load_policy(tmp_path / "policy")(batch) if format == "sparse" else run(tmp_path / "policy", format, flat)
    assert_same_actions(actions, expected)
    raw = model.predict(batch, deterministic=True)[0]
    assert np.abs(actions - raw).max() > 1e-3


def under_vec_normalize(algorithm: type[BaseAlgorithm], policy: Any, space: spaces.Space, **options: Any) -> BaseAlgorithm:
    keys = ["x"] if isinstance(space, spaces.Dict) and options.get("norm_obs", True) else None
    env = VecNormalize(DummyVecEnv([lambda: Env(space)]), norm_obs_keys=keys, **options)
    arguments = {"n_steps": 20} if algorithm in (PPO, A2C) else OFF
    if policy == "MlpPolicy" and isinstance(space, spaces.Dict):
        policy = "MultiInputPolicy"
    size = {"net_arch": [16, 12]} if isinstance(policy, str) else SMALL
    return algorithm(policy, env, seed=0, device="cpu", policy_kwargs=dict(size), **arguments).learn(60)


def raw_observations(space: spaces.Space) -> tuple[Any, np.ndarray]:
    """A batch as the environment returns it, and as one vector each."""
    space.seed(1)
    samples = [space.sample() for _ in range(30)]
    flat = np.stack([spaces.flatten(space, sample) for sample in samples]).astype(np.float32)
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}, flat
    return np.stack(samples), flat


@pytest.mark.filterwarnings("ignore:The environment is wrapped in VecNormalize", "ignore:VecNormalize normalises")
@pytest.mark.parametrize(
    ("algorithm", "policy", "format", "space"),
    [
        (SAC, SparseSimBaPolicy, "sparse", VECTORS),
        (SAC, SparseSimBaPolicy, "sparse", PARTS),
        (PPO, "MlpPolicy", "sparse", PARTS),
        pytest.param(TD3, "MlpPolicy", "onnx", VECTORS, marks=needs_onnx),
    ],
)
def test_normalisation_of_the_models_environment_is_built_in(
    tmp_path: Path, algorithm: type[BaseAlgorithm], policy: Any, format: str, space: spaces.Space
) -> None:
    model = under_vec_normalize(algorithm, policy, space, clip_obs=0.9, epsilon=0.3)
    export(model, tmp_path / "policy", format)
    batch, flat = raw_observations(space)
    expected = model.predict(model.get_vec_normalize_env().normalize_obs(batch), deterministic=True)[0]
    actions = load_policy(tmp_path / "policy")(batch) if format == "sparse" else run(tmp_path / "policy", format, flat)
    assert_same_actions(actions, expected)
    assert np.abs(actions - model.predict(batch, deterministic=True)[0]).max() > 1e-3


def test_normalisation_of_rewards_changes_no_export(tmp_path: Path) -> None:
    for policy in (SparseSimBaPolicy, "MlpPolicy"):
        model = under_vec_normalize(SAC, policy, VECTORS, norm_obs=False)
        model.save(tmp_path / "model.zip")
        statistics = model.get_vec_normalize_env()
        batch, _ = raw_observations(VECTORS)
        for exported, given in ((model, None), (model, statistics), (load_model(tmp_path / "model.zip"), None)):
            export(exported, tmp_path / "policy", "sparse", given)
            assert_same_actions(load_policy(tmp_path / "policy")(batch), model.predict(batch, deterministic=True)[0])


OF_DOUBLES = spaces.Box(-np.inf, np.inf, (6,), np.float64)


@pytest.mark.filterwarnings("ignore:The environment is wrapped in VecNormalize")
@pytest.mark.parametrize(
    ("algorithm", "policy", "space"),
    [
        (sb3_sparse.SAC, "MlpPolicy", VECTORS),
        (SAC, SparseSimBaPolicy, VECTORS),
        (TQC, SparseSimBaTQCPolicy, VECTORS),
        (PPO, "MlpPolicy", VECTORS),
        (TD3, "MlpPolicy", OF_DOUBLES),
        (DQN, "MlpPolicy", spaces.Box(-0.1, 0.1, (6,), np.float32)),
    ],
)
def test_saved_model_is_not_exported_without_its_statistics(
    tmp_path: Path, algorithm: type[BaseAlgorithm], policy: Any, space: spaces.Box
) -> None:
    if algorithm is DQN:
        env = VecNormalize(DummyVecEnv([lambda: OtherActions(FOUR, space)]))
        model = DQN(policy, env, seed=0, device="cpu", policy_kwargs=LAYERS, **OFF).learn(60)
    else:
        model = under_vec_normalize(algorithm, policy, space)
    model.save(tmp_path / "model.zip")
    loaded, path = load_model(tmp_path / "model.zip"), tmp_path / "policy"
    with pytest.raises(ValueError, match=r"trained under VecNormalize.*<environment id>/vecnormalize\.pkl"):
        export(loaded, path, "sparse")
    export(loaded, path, "sparse", model.get_vec_normalize_env())
    batch = np.random.default_rng(1).uniform(-0.1, 0.1, (30, 6)).astype(np.float32)
    expected = model.predict(model.get_vec_normalize_env().normalize_obs(batch), deterministic=True)[0]
    assert np.abs(load_policy(path)(batch) - expected).max() <= 1e-5
    export(loaded, path, "sparse", False)
    assert np.abs(load_policy(path)(batch) - model.predict(batch, deterministic=True)[0]).max() <= 1e-5


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_saved_stock_model_of_raw_observations_is_exported(tmp_path: Path, algorithm: type[BaseAlgorithm]) -> None:
    arguments = ON if algorithm is PPO else OFF
    algorithm("MlpPolicy", Env(OF_DOUBLES), device="cpu", **arguments).learn(40).save(tmp_path / "model.zip")
    export(load_model(tmp_path / "model.zip"), tmp_path / "policy", "sparse")


@pytest.mark.filterwarnings("ignore:The environment is wrapped in VecNormalize")
@pytest.mark.parametrize("name", ["Env-v0.zip", "best_model.zip"])
def test_statistics_of_the_zoos_run_are_found(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = under_vec_normalize(SAC, SparseSimBaPolicy, VECTORS)
    model.save(tmp_path / name)
    command = ["export", str(tmp_path / name), "--format", "sparse", "-o", str(tmp_path / "policy")]
    assert main(command) == 1
    assert "its statistics are missing" in capsys.readouterr().err
    (tmp_path / "Env-v0").mkdir()
    model.get_vec_normalize_env().save(str(tmp_path / "Env-v0" / "vecnormalize.pkl"))
    (tmp_path / "Env-v0" / "config.yml").touch()
    assert main(command) == 0
    assert f"normalised with {tmp_path / 'Env-v0' / 'vecnormalize.pkl'}" in capsys.readouterr().out
    batch, _ = raw_observations(VECTORS)
    normalized = model.get_vec_normalize_env().normalize_obs(batch)
    assert_same_actions(load_policy(tmp_path / "policy")(batch), model.predict(normalized, deterministic=True)[0])
    assert main([*command, "--vec-normalize", "none"]) == 0
    assert_same_actions(load_policy(tmp_path / "policy")(batch), model.predict(batch, deterministic=True)[0])


@pytest.mark.filterwarnings("ignore:The environment is wrapped in VecNormalize", "ignore:VecNormalize normalises")
@pytest.mark.parametrize(("space", "norm_obs"), [(PARTS, True), (VECTORS, False)], ids=["observations", "rewards"])
def test_safe_files_keep_the_statistics(tmp_path: Path, space: spaces.Space, norm_obs: bool) -> None:
    pytest.importorskip("safetensors")
    model = under_vec_normalize(SAC, SparseSimBaPolicy, space, norm_obs=norm_obs)
    export(model, tmp_path / "model.safetensors", "safetensors")
    assert main(["import", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "model.zip")]) == 0
    batch, _ = raw_observations(space)
    normalized = model.get_vec_normalize_env().normalize_obs(batch)
    expected = model.predict(normalized, deterministic=True)[0]
    again = ["export", "--format", "safetensors", str(tmp_path / "model.zip"), "-o", str(tmp_path / "again.safetensors")]
    assert main(again) == 0
    for name in ("model.safetensors", "model.zip", "again.safetensors"):
        assert main(["export", "--format", "sparse", str(tmp_path / name), "-o", str(tmp_path / "policy")]) == 0
        assert_same_actions(load_policy(tmp_path / "policy")(batch), expected)
    env = VecNormalize.load(str(tmp_path / "model" / "vecnormalize.pkl"), DummyVecEnv([lambda: Env(space)]))
    assert env.ret_rms.var == model.get_vec_normalize_env().ret_rms.var
    env.reset()
    env.step(np.array([[0.0, 1.0]], np.float32))


def test_extractor_is_exported(tmp_path: Path) -> None:
    encoder = {"features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": SMALL}
    model = SAC("MlpPolicy", Env(), policy_kwargs={"net_arch": [16], **encoder}, learning_starts=20, buffer_size=99, seed=0)
    model.learn(40)
    export(model, tmp_path / "policy", "sparse")
    observations = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    assert_same_actions(load_policy(tmp_path / "policy")(observations), model.predict(observations, deterministic=True)[0])


@needs_onnx
def test_images_are_exported_as_onnx(tmp_path: Path) -> None:
    images = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    model = TD3("CnnPolicy", Env(images), policy_kwargs={"net_arch": [16]}, buffer_size=10, seed=0, device="cpu")
    sparsify(model, 0.5)
    export(model, tmp_path / "policy", "onnx")
    observations = np.stack([images.sample() for _ in range(4)])
    actions, expected = run(tmp_path / "policy", "onnx", observations), model.predict(observations, deterministic=True)[0]
    assert np.abs(actions - expected).max() <= 1e-5
    with pytest.raises(ValueError, match=r"looks at images\. That cannot be exported as active weights"):
        export(model, tmp_path / "other", "sparse")
    assert not (tmp_path / "other").exists()


LAST = spaces.Box(0, 255, (40, 36, 3), np.uint8)


def frames(space: spaces.Box, stack: int = 1) -> Any:
    env = DummyVecEnv([lambda: OtherActions(spaces.Discrete(4), space)])
    return VecFrameStack(env, stack) if stack > 1 else env


@needs_onnx
@pytest.mark.filterwarnings("ignore:Nothing tells how many frames", "ignore:Your observation")
@pytest.mark.parametrize(
    ("algorithm", "space", "stack", "is_saved"),
    [
        (DQN, LAST, 1, True),
        (PPO, LAST, 4, False),
        (DER, LAST, 2, True),
        (DQN, spaces.Box(0, 255, (3, 40, 36), np.uint8), 2, False),
        pytest.param(PPO, LAST, 4, True, marks=pytest.mark.slow),
        pytest.param(DER, LAST, 2, False, marks=pytest.mark.slow),
        pytest.param(DrQv2, LAST, 1, False, marks=pytest.mark.slow),
        pytest.param(DrQv2, LAST, 1, True, marks=pytest.mark.slow),
    ],
)
def test_images_are_taken_in_the_environments_order(
    tmp_path: Path, algorithm: type[BaseAlgorithm], space: spaces.Box, stack: int, is_saved: bool
) -> None:
    env: Any = Env(space) if algorithm is DrQv2 else frames(space, stack)
    arguments = {"n_steps": 20} if algorithm is PPO else {"buffer_size": 100}
    model = algorithm("CnnPolicy", env, seed=0, device="cpu", **arguments)
    exported: Any = model
    options: dict[str, Any] = {}
    if is_saved:
        model.save(tmp_path / "model.zip")
        exported = load_model(tmp_path / "model.zip")
        if algorithm in (DQN, PPO):  # stock files do not tell
            with pytest.warns(UserWarning, match="channels first or last"):
                export(exported, tmp_path / "policy", "onnx")
            options = {"channels_last": space is LAST}
    export(exported, tmp_path / "policy", "onnx", **options)
    returned = env.observation_space if algorithm is not DrQv2 else space
    observations = np.random.default_rng(0).integers(0, 256, (6, *returned.shape)).astype(np.uint8)
    actions, expected = run(tmp_path / "policy", "onnx", observations), model.predict(observations, deterministic=True)[0]
    assert actions.shape == expected.shape and np.abs(actions - expected).max() <= 1e-5


@needs_onnx
@pytest.mark.parametrize(
    "algorithm", ["sac", pytest.param("td3", marks=pytest.mark.slow), pytest.param("dqn", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("policy", ["ours", pytest.param("MlpPolicy", marks=pytest.mark.slow)])
def test_onnxruntimes_tools_quantize_the_file(tmp_path: Path, algorithm: str, policy: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Observations(CalibrationDataReader):
        rows = iter(np.random.default_rng(0).standard_normal((32, 1, 6)).astype(np.float32))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {"observation": row}

    if algorithm == "dqn":
        model = DQN("MlpPolicy", OtherActions(FOUR), policy_kwargs=SIMBA if policy == "ours" else LAYERS, device="cpu", **OFF)
    else:
        model = trained(algorithm, policy)
    path, small = tmp_path / "policy.onnx", tmp_path / "small.onnx"
    export(model, path, "onnx")
    observations = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    expected = run(path, "onnx", observations)
    for quantize in (quantize_dynamic, lambda *paths: quantize_static(*paths, Observations())):
        quantize(str(path), str(small))
        actions = run(small, "onnx", observations)
        assert actions.shape == expected.shape
        if algorithm != "dqn":
            assert np.abs(actions - expected).mean() < 0.1


def test_loaded_policy_can_be_evaluated(tmp_path: Path) -> None:
    model = trained("sac")
    export(model, tmp_path / "policy", "sparse")
    policy = load_policy(tmp_path / "policy")
    returns = []
    for actor in (model, policy):
        env = DummyVecEnv([Env])
        env.seed(0)
        env.envs[0].observation_space.seed(7)
        returns.append(evaluate_policy(actor, env, n_eval_episodes=3, warn=False))
    assert returns[0] == pytest.approx(returns[1], abs=1e-3)
    with pytest.raises(ValueError, match="deterministic=True"):
        policy.predict(np.zeros(6, np.float32), deterministic=False)


def test_loaded_policy_refuses_other_observations(tmp_path: Path) -> None:
    export(trained("sac"), tmp_path / "policy", "sparse")
    policy = load_policy(tmp_path / "policy")
    assert policy(np.zeros(6)).shape == (2,)
    assert policy(np.zeros((0, 6))).shape == (0, 2)
    for observation in (np.zeros(5), np.zeros((2, 5)), np.zeros((2, 2, 6)), np.float32(0.0)):
        with pytest.raises(ValueError, match=r"Expected observations of shape \(6,\), got"):
            policy(observation)
    with pytest.raises(ValueError, match=r"Expected observations with the entries \[''\], got \['x'\]"):
        policy({"x": np.zeros(6)})


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy of RecurrentPPO cannot be exported; those of these can: A2C, CrossQ"):
        export(RecurrentPPO("MlpLstmPolicy", Env(), device="cpu"), tmp_path / "policy")
    model = SAC("MlpPolicy", Env(), policy_kwargs={"activation_fn": nn.Softplus}, buffer_size=10)
    for format in ("sparse", "c"):
        with pytest.raises(ValueError, match=r"has a Softplus, and known are .* cannot be exported as active weights"):
            export(model, tmp_path / "policy.c", format)
    model.observation_space = spaces.Text(3)
    with pytest.raises(ValueError, match=r"the observation space is Text\("):
        export(model, tmp_path / "policy")
    model = SAC("MlpPolicy", Env(), buffer_size=10)
    with pytest.raises(ValueError, match="Unknown format 'tensorrt': choose one of 'onnx', 'torchscript', 'sparse', 'c'"):
        export(model, tmp_path / "policy", "tensorrt")
    for opset in (12, 19):
        with pytest.raises(ValueError, match=f"opset must lie between 13 and 18, got {opset}"):
            export(model, tmp_path / "policy", opset=opset)
    with pytest.raises(ValueError, match="opset belongs to the format \"onnx\", got 'sparse'"):
        export(model, tmp_path / "policy", "sparse", opset=13)
    with pytest.raises(ValueError, match=r"must begin with a letter, got 2nd\.c"):
        export(model, tmp_path / "2nd.c", "c")
    with pytest.raises(ValueError, match="there is no folder"):
        export(model, tmp_path / "missing" / "policy", "sparse")
    statistics = VecNormalize(DummyVecEnv([lambda: Env(spaces.Box(-1, 1, (4,)))]))
    with pytest.raises(ValueError, match=r"statistics are of shape \(4,\), the model's observations of \(6,\)"):
        export(model, tmp_path / "policy", "sparse", statistics)
    assert not list(tmp_path.iterdir())


class WrongPolicy:
    def act_on_vectors(self, flat: np.ndarray) -> np.ndarray:
        return np.full((len(flat), 2), np.nan)


def test_policy_that_deviates_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy"
    path.write_text("an older export")
    monkeypatch.setattr("sb3_sparse.deployment.exporting.load_policy", lambda path: WrongPolicy())
    with pytest.raises(RuntimeError, match="deviates from the model by nan"):
        export(SAC("MlpPolicy", Env(), buffer_size=10), path, "sparse")
    assert path.read_text() == "an older export"
    assert [file.name for file in tmp_path.iterdir()] == ["policy"]


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("sb3_sparse.installation.importlib.import_module", import_module)
    with pytest.raises(ImportError, match=re.escape(install_command("export"))):
        export(SAC("MlpPolicy", Env(), buffer_size=10), tmp_path / "policy", "onnx")


@pytest.mark.parametrize(
    "damage",
    ["text", "pickle", "array", "version", "unknown step", "columns", "starts", "shape", "type", "missing array", "empty"],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path, good = tmp_path / "policy", tmp_path / "good"
    model = sparsify(SAC("MlpPolicy", Env(), policy_kwargs={"net_arch": [32]}, buffer_size=10, seed=0), 0.8)
    export(model, good, "sparse")
    arrays = dict(np.load(good))
    damages = {
        "version": lambda: arrays.update(header=np.array(str(arrays["header"]).replace('"version": 2', '"version": 3'))),
        "unknown step": lambda: arrays.update(header=np.array(str(arrays["header"]).replace('"relu"', '"relax"'))),
        "columns": lambda: arrays["0.columns"].__setitem__(0, 6),
        "starts": lambda: arrays["0.starts"].__setitem__(1, 10**6),
        "shape": lambda: arrays.update({"0.bias": np.zeros(3, np.float32)}),
        "type": lambda: arrays.update({"0.values": arrays["0.values"].astype(np.float64)}),
        "missing array": lambda: arrays.pop("0.values"),
    }
    if damage == "text":
        path.write_text("no policy")
    elif damage == "pickle":
        model.save(path)
        path = path.with_suffix(".zip")
    elif damage == "array":
        np.save(path.open("wb"), np.zeros(3))
    elif damage == "empty":
        path.touch()
    else:
        damages[damage]()
        np.savez(path.open("wb"), **arrays)
    with pytest.raises(ValueError, match="is no policy that was exported"):
        load_policy(path)
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "missing")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("ddpg")
    model.save(tmp_path / "model.zip")
    assert main(["export", "--format", "sparse", str(tmp_path / "model.zip"), "-o", str(tmp_path / "policy")]) == 0
    size = (tmp_path / "policy").stat().st_size
    assert re.search(rf"policy: {size:,} bytes, deviates from the model by at most \d\.\de-\d\d", capsys.readouterr().out)
    observations = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    actions = load_policy(tmp_path / "policy")(observations)
    assert_same_actions(actions, model.predict(observations, deterministic=True)[0])


def test_command_line_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no model")
    ARS("MlpPolicy", Env(), device="cpu").save(tmp_path / "ars.zip")
    for name, message in {
        "missing.zip": "There is no file",
        "text": "is no model saved by Stable-Baselines3",
        "ars.zip": "a model with a ARSPolicy, of an unknown algorithm: known are SAC",
    }.items():
        assert main(["export", str(tmp_path / name), "-o", str(tmp_path / "policy")]) == 1
        assert message in capsys.readouterr().err
    trained("td3").save(tmp_path / "td3.zip")
    for path in ("text", "missing.pkl"):
        given = ["--vec-normalize", str(tmp_path / path)]
        assert main(["export", str(tmp_path / "td3.zip"), "-o", str(tmp_path / "policy"), *given]) == 1
        assert str(tmp_path / path) in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()


def test_model_is_loaded_without_environment_and_buffer(tmp_path: Path) -> None:
    env = BitFlippingEnv(n_bits=4, continuous=True)
    kwargs = {"replay_buffer_class": HerReplayBuffer, "buffer_size": 1_000, "learning_starts": 10}
    model = SAC("MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, **kwargs)
    sparsify(model, 0.5).learn(30)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model.zip")
    assert loaded.replay_buffer is None and loaded.replay_buffer_class is HerReplayBuffer and loaded.buffer_size == 1_000
    observation = {key: np.zeros(4, np.float32) for key in env.observation_space.spaces}
    assert np.array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )


@pytest.mark.parametrize(("algorithm", "format"), [("sac", "sparse"), pytest.param("td3", "onnx", marks=needs_onnx)])
def test_what_is_safe_to_read_is_exported_without_unpickling(
    algorithm: str, format: str, tmp_path: Path, unpickling: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    model = trained(algorithm)
    model.save(tmp_path / "model.zip")
    export(model, tmp_path / "model.safetensors", "safetensors")
    unpickling.append("from now on")
    command = ["export", "--format", format, "-o", str(tmp_path / "policy.npz")]
    assert main([*command, str(tmp_path / "model.safetensors")]) == 0
    observations = np.stack([model.observation_space.sample() for _ in range(5)])
    expected = model.predict(observations, deterministic=True)[0]
    assert np.allclose(run(tmp_path / "policy.npz", format, observations), expected, atol=1e-5)
    assert main([*command, str(tmp_path / "model.zip")]) == 1
    assert "unpickling is blocked" in capsys.readouterr().err


def test_other_algorithms_in_safe_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    model = RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", n_steps=16, batch_size=8, device="cpu")
    export(model, tmp_path / "model.safetensors", "safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "policy.onnx")]) == 1
    assert "A policy of RecurrentPPO cannot be exported" in capsys.readouterr().err
