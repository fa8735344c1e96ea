"""Files for other programs: C, ONNX and TorchScript, and what they carry."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_sparse import DER, SparseSimBaExtractor, SparseSimBaPolicy, StreamAC, sparsify, sparsity
from sb3_sparse.cli.command_line import main
from sb3_sparse.deployment import check, export, load_policy, onnx_file
from sb3_sparse.deployment.c_program import compiled_policy, compiler

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='needs extra "export"',
)
VECTORS = spaces.Box(-3.0, 5.0, (6,), np.float32)
BOX = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([1.0, 3.0], np.float32))
FOUR = spaces.Discrete(4)
LAST = spaces.Box(0, 255, (40, 36, 3), np.uint8)


def compiler_is_there() -> bool:
    try:
        compiler()
    except ValueError:
        return False
    return True


needs_safetensors = pytest.mark.skipif(importlib.util.find_spec("safetensors") is None, reason='needs extra "export"')
needs_compiler = pytest.mark.skipif(not compiler_is_there(), reason="needs a C compiler")
FORMATS = [
    pytest.param("onnx", "policy.onnx", marks=needs_onnx),
    ("torchscript", "policy.pt"),
    ("sparse", "policy.npz"),
    pytest.param("c", "policy.c", marks=needs_compiler),
    pytest.param("safetensors", "policy.safetensors", marks=needs_safetensors),
]


class Env(gym.Env):
    """Random observations."""

    def __init__(self, observation_space: spaces.Space = VECTORS, action_space: spaces.Space = BOX):
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), float(np.sum(action)), False, bool(self.np_random.random() < 0.2), {}


def batch_of(space: spaces.Space, number: int = 40) -> Any:
    space.seed(1)
    samples = [space.sample() for _ in range(number)]
    return {key: np.stack([s[key] for s in samples]) for key in space} if isinstance(space, spaces.Dict) else np.stack(samples)


SIMBA = {"features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": {"sparsity": 0.5, "width_scale": 0.1}}
OFF = {"learning_starts": 20, "buffer_size": 100, "batch_size": 16}
# Algorithm, actions, policy, arguments.
MODELS: dict[str, tuple[Any, spaces.Space, Any, dict[str, Any]]] = {
    "SAC": (SAC, BOX, SparseSimBaPolicy, {**OFF, "policy_kwargs": {"sparsity": 0.7, "width_scale": 0.25}}),
    "TD3, GELU": (TD3, BOX, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24], "activation_fn": nn.GELU}}),
    "TD3, ELU": (TD3, BOX, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24], "activation_fn": nn.ELU}}),
    "TD3, SiLU": (TD3, BOX, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24], "activation_fn": nn.SiLU}}),
    "CrossQ": (CrossQ, BOX, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24]}}),
    "PPO, several": (PPO, spaces.MultiDiscrete([2, 3]), "MlpPolicy", {"n_steps": 20, "batch_size": 10}),
    "PPO, binary": (PPO, spaces.MultiBinary(3), "MlpPolicy", {"n_steps": 20, "batch_size": 10, "policy_kwargs": SIMBA}),
    "DQN": (DQN, FOUR, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24]}}),
    "QR-DQN": (QRDQN, FOUR, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24]}}),
    "DER": (DER, FOUR, "MlpPolicy", {**OFF, "policy_kwargs": {"net_arch": [24], "sparsity": 0.5}}),
    "StreamAC": (StreamAC, BOX, "MlpPolicy", {"policy_kwargs": {"width": 16, "sparsity": 0.5}}),
}


def trained(name: str) -> BaseAlgorithm:
    algorithm, actions, policy, arguments = MODELS[name]
    arguments = {**arguments, **({"policy_kwargs": dict(arguments["policy_kwargs"])} if "policy_kwargs" in arguments else {})}
    model = algorithm(policy, Env(VECTORS, actions), seed=0, device="cpu", **arguments)
    return model.learn(40)


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_c_acts_as_the_model(tmp_path: Path, name: str) -> None:
    model, path = trained(name), tmp_path / "my-policy.c"
    assert export(model, path, "c").largest_error <= 1e-5
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-O2"]
    program = str(tmp_path / "check")
    subprocess.run([*compiler(), *strict, "-DSB3_SPARSE_MAIN", str(path), "-lm", "-o", program], check=True)
    shown = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert float(re.fullmatch(r"my_policy.c: deviates from the recorded actions by at most (\S+)\n", shown)[1]) <= 1e-5  # type: ignore[index]
    observations = batch_of(VECTORS)
    expected = model.predict(observations, deterministic=True)[0]
    policy = compiled_policy(path, "my_policy", expected.shape[1:], np.dtype(np.float32 if name in BOXES else np.int32))
    assert np.abs(policy({"": observations}) - expected).max() <= 1e-5
    assert np.ptp(expected, axis=0).max() > 1e-4, "actions that are all the same would prove nothing"
    assert "malloc" not in path.read_text()
    with pytest.raises(ValueError, match="refuses an observation"):
        policy({"": np.full((1, 6), np.nan, np.float32)})


BOXES = {name for name, case in MODELS.items() if case[1] is BOX}


@needs_compiler
def test_c_of_discrete_observations_and_normalisation(tmp_path: Path) -> None:
    space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-9, 9, (2,)))
    env = VecNormalize(DummyVecEnv([lambda: Env(space, FOUR)]), norm_obs_keys=["b"], clip_obs=1.0)
    model = DQN("MultiInputPolicy", env, policy_kwargs={"net_arch": [24]}, seed=0, device="cpu", **OFF).learn(40)
    export(model, tmp_path / "policy.c", "c")
    batch = batch_of(space)
    expected = model.predict(env.normalize_obs(batch), deterministic=True)[0]
    policy = compiled_policy(tmp_path / "policy.c", "policy", (), np.dtype(np.int32))
    assert np.array_equal(policy(batch), expected) and len(set(expected)) > 1
    with pytest.raises(ValueError, match="refuses an observation"):
        policy({"a": np.array([3]), "b": np.zeros((1, 2))})


@needs_compiler
def test_c_takes_four_bytes_a_weight_and_two_a_position(tmp_path: Path) -> None:
    kwargs = {"policy_kwargs": {"sparsity": 0.9}, "buffer_size": 10, "seed": 0}
    model = SAC(SparseSimBaPolicy, Env(spaces.Box(-1, 1, (67,)), spaces.Box(-1, 1, (21,))), **kwargs)
    export(model, tmp_path / "policy.c", "c")
    text, _, _ = (tmp_path / "policy.c").read_text().partition("static const float policy_recorded_observations")
    arrays = re.findall(r"^static const (\w+) \w+\[(\d+)\]", text, re.M)
    total = sum({"float": 4, "uint16_t": 2, "int32_t": 4}[kind] * int(number) for kind, number in arrays)
    layers = sparsity.sparse_layers(model.actor)
    active = sum(layer.topology.active for name, layer in layers if "log_std" not in name)
    assert 6 * active < total < 90_000


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_files_are_checked_where_they_run(tmp_path: Path, format: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = trained("TD3, ELU"), tmp_path / name
    export(model, path, format)
    assert check(path) <= 1e-5
    assert main(["check", str(path)]) == 0
    assert re.fullmatch(rf"{path}: deviates from the recorded actions by at most \d\.\de-\d\d\n", capsys.readouterr().out)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert main(["check", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_observations_can_be_given(tmp_path: Path, format: str, name: str) -> None:
    model = trained("DQN")
    observations = batch_of(VECTORS, 20)
    export(model, tmp_path / name, format, observations=observations)
    assert check(tmp_path / name) == 0.0
    with pytest.raises(ValueError, match=r"\(6,\)"):
        export(model, tmp_path / name, format, observations=observations[:, :5])
    if format != "safetensors":
        with pytest.raises(ValueError, match="at least one observation"):
            export(model, tmp_path / name, format, observations=observations[:0])


SPACES: dict[str, tuple[Any, spaces.Space, spaces.Space]] = {
    "bytes": (DQN, spaces.Box(0, 255, (12,), np.uint8), FOUR),
    "matrix of float64": (SAC, spaces.Box(-5, 5, (2, 3), np.float64), spaces.Box(-1, 1, (2, 2))),
    "matrix of bits": (PPO, spaces.MultiBinary((2, 3)), BOX),
    "integers": (PPO, spaces.Box(0, 10, (4,), np.int64), spaces.MultiBinary(4)),
    "number": (DQN, spaces.Discrete(6), FOUR),
    "parts": (
        PPO,
        spaces.Dict(z=spaces.Box(0, 255, (4,), np.uint8), a=spaces.Box(-1, 1, (2, 2)), m=spaces.MultiBinary(3)),
        BOX,
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_unusual_spaces(tmp_path: Path, name: str) -> None:
    algorithm, observations, actions = SPACES[name]
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    arguments = {"n_steps": 20} if algorithm is PPO else {"buffer_size": 10}
    model = algorithm(policy, Env(observations, actions), seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **arguments)
    for format, file in (("torchscript", "policy.pt"), ("sparse", "policy.npz"), ("c", "policy.c")):
        if format == "c" and not compiler_is_there():
            continue
        assert export(model, tmp_path / file, format).largest_error <= 1e-5
        assert check(tmp_path / file) <= 1e-5
    loaded = load_policy(tmp_path / "policy.npz")
    for sample in (observations.sample() for _ in range(5)):
        np.testing.assert_allclose(loaded(sample), model.predict(sample, deterministic=True)[0], atol=1e-5)


def test_the_command_takes_observations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, observations = trained("DQN"), batch_of(VECTORS, 20)
    model.save(tmp_path / "model.zip")
    np.save(tmp_path / "batch.npy", observations)
    (tmp_path / "text").write_text("no array")
    command = ["export", str(tmp_path / "model.zip"), "--format", "sparse", "-o", str(tmp_path / "policy")]
    assert main([*command, "--observations", str(tmp_path / "batch.npy")]) == 0
    recorded = load_policy(tmp_path / "policy").recorded
    assert recorded is not None and np.array_equal(recorded[0], observations[:16])
    assert main([*command, "--observations", str(tmp_path / "text")]) == 1
    assert "text was not written by numpy.save" in capsys.readouterr().err


@needs_onnx
def test_an_entry_called_as_the_output_is_refused(tmp_path: Path) -> None:
    space = spaces.Dict(action=spaces.Discrete(3), x=VECTORS)
    model = PPO("MultiInputPolicy", DummyVecEnv([lambda: Env(space, BOX)]), n_steps=20, device="cpu")
    with pytest.raises(ValueError, match="is called 'action', as the output"):
        export(model, tmp_path / "policy.onnx")


@needs_compiler
def test_edited_c_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "policy.c"
    export(trained("TD3, ELU"), path, "c")
    path.write_text(path.read_text().replace("return 0;", "return 0 ;", 1))
    with pytest.raises(ValueError, match="checksum is not that of its content"):
        check(path)


def test_c_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SAC("MlpPolicy", Env(), buffer_size=10)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="there is no C compiler"):
        export(model, tmp_path / "policy.c", "c")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler cannot be run"):
        export(model, tmp_path / "policy.c", "c")
    assert not list(tmp_path.iterdir())


def test_torchscript_acts_as_the_model(tmp_path: Path) -> None:
    for name, space in (("SAC", VECTORS), ("images", LAST)):
        if name == "SAC":
            model = trained(name)
        else:
            env = DummyVecEnv([lambda: Env(LAST, FOUR)])
            model = DQN("CnnPolicy", env, buffer_size=10, seed=0, device="cpu")
        path = tmp_path / f"{name}.pt"
        export(model, path, "torchscript")
        files = {"sb3_sparse.json": ""}
        policy = th.jit.load(path, _extra_files=files)
        assert json.loads(files["sb3_sparse.json"])["provenance"]["algorithm"] == type(model).__name__
        for number in (1, 7):
            batch = batch_of(space, number)
            expected = model.predict(batch, deterministic=True)[0]
            assert np.abs(policy(th.from_numpy(batch)).numpy() - expected).max() <= 1e-5


def session_of(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.parametrize(("name", "opset"), [("SAC", 13), ("SAC", 17), ("DER", 13), ("QR-DQN", 13), ("PPO, several", 13)])
def test_onnx_in_older_operators(tmp_path: Path, name: str, opset: int) -> None:
    import onnx

    model, path = trained(name), tmp_path / "policy.onnx"
    export(model, path, "onnx", opset=opset)
    graph = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    onnx.checker.check_model(graph, full_check=True)
    operators = {node.op_type for node in graph.graph.node}
    assert ("LayerNormalization" in operators) == (name == "SAC" and opset == 17)
    observations = batch_of(VECTORS)
    (actions,) = session_of(path).run(["action"], {"observation": observations})
    assert np.abs(actions - model.predict(observations, deterministic=True)[0]).max() <= 1e-5


@needs_onnx
def test_onnx_takes_every_entry_by_itself_where_there_are_images(tmp_path: Path) -> None:
    space = spaces.Dict(camera=LAST, mode=spaces.Discrete(3), switches=spaces.MultiDiscrete([2, 4]), x=VECTORS)
    env = VecNormalize(DummyVecEnv([lambda: Env(space, BOX)]), norm_obs_keys=["x"], clip_obs=0.7)
    model = PPO("MultiInputPolicy", env, n_steps=20, batch_size=10, seed=0, device="cpu").learn(20)
    for opset in (13, 18):
        path = tmp_path / f"{opset}.onnx"
        export(model, path, "onnx", opset=opset)
        session = session_of(path)
        inputs = {entry.name: (entry.type, entry.shape[1:]) for entry in session.get_inputs()}
        assert inputs == {
            "camera": ("tensor(uint8)", [40, 36, 3]),
            "mode": ("tensor(int64)", []),
            "switches": ("tensor(int64)", [2]),
            "x": ("tensor(float)", [6]),
        }
        batch = batch_of(space, 5)
        moved = {**batch, "camera": np.moveaxis(batch["camera"], -1, 1)}
        expected = model.predict(env.normalize_obs(moved), deterministic=True)[0]
        (actions,) = session.run(["action"], batch)
        assert np.abs(actions - expected).max() <= 1e-5 and np.ptp(expected) > 1e-4
        assert check(path) <= 1e-5


@needs_onnx
def test_onnx_tells_what_it_is(tmp_path: Path) -> None:
    export(trained("SAC"), tmp_path / "policy.onnx", "onnx")
    found = json.loads(session_of(tmp_path / "policy.onnx").get_modelmeta().custom_metadata_map["sb3_sparse"])
    assert found["observation"] == {"": {"shape": [6], "type": "float32"}}
    assert found["action"] == {"kind": "Box", "shape": [2], "low": ["-2.0", "0.5"], "high": ["1.0", "3.0"]}
    assert found["provenance"]["algorithm"] == "SAC" and "torch" in found["provenance"]["versions"]


@needs_onnx
def test_a_changed_graph_is_noticed(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "policy.onnx"
    export(trained("TD3, ELU"), path, "onnx")
    graph = onnx.load(path)
    for weight in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.ndim == 2:
            weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), weight.name))
    onnx.save(graph, path)
    with pytest.raises(ValueError, match="weights are not those that were exported"):
        check(path)
    (given,) = (entry for entry in graph.metadata_props if entry.key == "sb3_sparse.sha256")
    given.value = onnx_file._checksum_of_weights(graph)
    onnx.save(graph, path)
    with pytest.raises(ValueError, match="recorded actions are missed by"):
        check(path)


def test_changed_bytes_of_torchscript_are_noticed(tmp_path: Path) -> None:
    path, rng = tmp_path / "policy.pt", np.random.default_rng(0)
    export(trained("TD3, ELU"), path, "torchscript")
    with ZipFile(path) as file:
        weights = max((entry for entry in file.infolist() if "/constants/" in entry.filename), key=lambda e: e.file_size)
    content = path.read_bytes()
    start = content.index(weights.filename.encode()) + 200
    for place in start + rng.integers(0, weights.file_size // 2, 20):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"is damaged: .* in it has another checksum"):
            check(path)


@pytest.mark.parametrize("format", ["torchscript", "sparse"])
def test_recorded_observations_have_the_moments_of_the_normalisation(tmp_path: Path, format: str) -> None:
    # From a standard normal distribution all of them would be clipped.
    env = VecNormalize(DummyVecEnv([lambda: Env(spaces.Box(990.0, 1010.0, (6,)))]))
    model = sparsify(SAC("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", **OFF).learn(40), 0.5)
    export(model, tmp_path / "policy", format)
    assert check(tmp_path / "policy") <= 1e-5
    if format == "sparse":
        observations, actions = load_policy(tmp_path / "policy").recorded  # type: ignore[misc]
        assert 985 < observations.min() and observations.max() < 1015 and np.ptp(actions) > 1e-3
