"""The runtime of active weights: NumPy alone, and numbers from torch."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from torch import nn

from sb3_sparse import SparseSimBaPolicy, sparsify
from sb3_sparse.cli.command_line import main
from sb3_sparse.deployment import export, load_policy, runtime
from sb3_sparse.deployment.runtime import SparsePolicy, Step, check_steps
from sb3_sparse.networks import steps as compiled_steps

RNG = np.random.default_rng(0)
# Blocks what a device does not have.
BLOCKED = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"
TORCH = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium")


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = SAC(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={"sparsity": 0.8}, buffer_size=10, seed=0)
    path = tmp_path_factory.mktemp("runtime") / "policy.npz"
    export(model, path, "sparse")
    return path


def in_a_process(code: str, *blocked: str, folder: Path) -> str:
    command = [sys.executable, "-c", BLOCKED.format(names=blocked) + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


ACT = """
import time, numpy as np
from {module} import load_policy
start = time.process_time()
policy = load_policy("policy.npz")
print(time.process_time() - start)
print(*policy(np.array([0.6, 0.8, 1.0])), type(policy._pass).__name__)
"""


@pytest.mark.parametrize(
    ("module", "blocked", "passes"),
    [
        ("sb3_sparse.deployment.runtime", (*TORCH, "numba"), "_NumPyPass"),
        ("sb3_sparse.deployment", TORCH, "CompiledProgram"),
        ("runtime", (*TORCH, "sb3_sparse"), "_NumPyPass"),
    ],
    ids=["package", "with numba", "copied file"],
)
def test_policies_act_without_torch(
    tmp_path: Path, policy_file: Path, module: str, blocked: tuple[str, ...], passes: str
) -> None:
    if passes == "CompiledProgram":
        pytest.importorskip("numba")
    shutil.copy(policy_file, tmp_path)
    shutil.copy(runtime.__file__, tmp_path)
    seconds, acted = in_a_process(ACT.format(module=module), *blocked, folder=tmp_path).splitlines()
    *action, kind = acted.split()
    assert float(action[0]) == pytest.approx(float(load_policy(policy_file)(np.array([0.6, 0.8, 1.0]))[0]), abs=2e-5)
    assert kind == passes
    if passes == "_NumPyPass":
        assert float(seconds) < 0.2


def test_the_command_and_the_copied_file_check_without_torch(tmp_path: Path, policy_file: Path) -> None:
    shutil.copy(policy_file, tmp_path)
    shutil.copy(runtime.__file__, tmp_path)
    code = "from sb3_sparse.cli.command_line import main; sys.exit(main(['check', '{}']))"
    shown = in_a_process(code.format("policy.npz"), *TORCH, "numba", folder=tmp_path)
    assert shown.startswith("policy.npz: deviates from the recorded actions by at most ")
    done = subprocess.run([sys.executable, "runtime.py", "policy.npz"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("policy.npz: deviates")
    (tmp_path / "policy.npz").write_bytes(policy_file.read_bytes()[:-100])
    failing = BLOCKED.format(names=TORCH) + code.format("policy.npz")
    for command in ([sys.executable, "runtime.py", "policy.npz"], [sys.executable, "-c", failing]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and "policy.npz" in done.stderr and "Traceback" not in done.stderr


def test_compiled_passes_know_the_same_steps() -> None:
    assert {name: tuple(arrays) for name, arrays in runtime.ARGUMENTS.items()} == compiled_steps.ARGUMENTS


# Steps that take a vector of 12, and what torch makes of it.
STEPS: dict[str, tuple[dict[str, np.ndarray], Callable[[th.Tensor], th.Tensor]]] = {
    "relu": ({}, F.relu),
    "tanh": ({}, th.tanh),
    "sigmoid": ({}, th.sigmoid),
    "silu": ({}, F.silu),
    "gelu": ({}, F.gelu),
    "gelu_tanh": ({}, lambda x: F.gelu(x, approximate="tanh")),
    "elu": ({"alpha": np.array([0.7], np.float32)}, lambda x: F.elu(x, 0.7)),
    "leaky_relu": ({"slope": np.array([0.1], np.float32)}, lambda x: F.leaky_relu(x, 0.1)),
    "hardtanh": (
        {"min": np.array([-0.5], np.float32), "max": np.array([1.5], np.float32)},
        lambda x: F.hardtanh(x, -0.5, 1.5),
    ),
    "dueling": (
        {"atoms": np.array([3], np.int32)},
        lambda x: (x.view(-1, 4, 3)[:, 3:] + x.view(-1, 4, 3)[:, :3] - x.view(-1, 4, 3)[:, :3].mean(1, keepdim=True)).flatten(
            1
        ),
    ),
    "expectation": (
        {"support": np.array([-1.0, 0.5, 2.0], np.float32)},
        lambda x: th.softmax(x.view(-1, 4, 3), dim=2) @ th.tensor([-1.0, 0.5, 2.0]),
    ),
    "argmax": ({}, lambda x: x.argmax(1, keepdim=True).float()),
    "argmax_of_each": (
        {"sizes": np.array([2, 7, 3], np.int32)},
        lambda x: th.stack([part.argmax(1).float() for part in x.split([2, 7, 3], dim=1)], dim=1),
    ),
    "is_positive": ({}, lambda x: (x > 0).float()),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", STEPS)
def test_steps_do_what_torch_does(name: str, compiled: bool) -> None:
    if compiled:
        pytest.importorskip("numba")
    arrays, expected = STEPS[name]
    x = 3.0 * floats(50, 12)
    x[0], x[1] = 100.0, -100.0
    wanted = expected(th.from_numpy(x)).numpy()
    policy = SparsePolicy({"": (12,)}, wanted.shape[1:], [Step(name, arrays)], compiled)
    np.testing.assert_allclose(policy(x), wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])
def test_discrete_entries_become_one_hot_vectors(compiled: bool) -> None:
    if compiled:
        pytest.importorskip("numba")
    sizes = np.array([0, 3, 0, 2], np.int32)
    policy = SparsePolicy({"": (4,)}, (7,), [Step("one_hot", {"sizes": sizes})], compiled)
    assert policy(np.array([5.5, 2, -1.5, 0])).tolist() == [5.5, 0, 0, 1, -1.5, 1, 0]
    for wrong, message in {3.0: "one of 0 to 2 at position 1, got 3", 0.5: "got 0.5", -1.0: "got -1"}.items():
        with pytest.raises(ValueError, match=message):
            policy(np.array([5.5, wrong, -1.5, 0]))


@pytest.mark.parametrize(
    ("name", "arrays", "size"),
    [
        ("dueling", {"atoms": np.array([5], np.int32)}, 12),
        ("dueling", {"atoms": np.array([12], np.int32)}, 12),
        ("dueling", {"atoms": np.array([-3], np.int32)}, 12),
        ("dueling", {"atoms": np.zeros(0, np.int32)}, 12),
        ("expectation", {"support": floats(5)}, 12),
        ("expectation", {"support": floats(0)}, 12),
        ("argmax_of_each", {"sizes": np.array([2, 7], np.int32)}, 12),
        ("argmax_of_each", {"sizes": np.array([14, -2], np.int32)}, 12),
        ("one_hot", {"sizes": np.array([0, -1], np.int32)}, 2),
        ("one_hot", {"sizes": np.array([2], np.int32)}, 2),
        ("elu", {"alpha": floats(2)}, 2),
        ("dense", {"weight": floats(3, 2), "bias": np.float32(1.0).reshape(())}, 2),
        ("add", {}, 2),
    ],
)
def test_steps_that_do_not_fit_are_refused(name: str, arrays: dict[str, np.ndarray], size: int) -> None:
    with pytest.raises((ValueError, TypeError)):
        check_steps([Step(name, arrays)], size)


def test_bad_observations(policy_file: Path) -> None:
    policy = load_policy(policy_file)
    for observation, message in (
        (np.array([0.0, np.nan, 0.0]), "finite, got nan at position 1"),
        (np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.inf]]), "finite, got inf at position 2"),
        (np.array([0.0, 0.0, 1e300]), "finite, got inf at position 2"),
        (np.array(["0", "1", "2"]), "of numbers, got the type <U1"),
        (np.array([0, 1, None], object), "of numbers, got the type object"),
        (np.array([1j, 0, 0]), "of numbers, got the type complex"),
        (np.zeros(4), r"of shape \(3,\), got \(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            policy(observation)


def test_bytes_that_change_are_noticed(tmp_path: Path, policy_file: Path) -> None:
    # Wherever it is: in an array, a header, or the zip's own tables, of which some hold dates alone.
    content, rng, path = policy_file.read_bytes(), np.random.default_rng(0), tmp_path / "policy"
    expected = load_policy(policy_file).steps
    for place in rng.integers(0, len(content), 300):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            policy = load_policy(path, compiled=False)
        except ValueError as error:
            assert "no policy that was exported" in str(error)
        else:
            for step, other in zip(policy.steps, expected, strict=True):
                assert all(np.array_equal(array, other.arrays[key]) for key, array in step.arrays.items())
    for size in range(0, len(content), 997):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="no policy that was exported"):
            load_policy(path)


def test_edited_weights_are_noticed(tmp_path: Path, policy_file: Path) -> None:
    arrays = dict(np.load(policy_file))
    name = next(name for name in arrays if name.endswith(".values"))
    arrays[name] = arrays[name] * np.float32(1.0001)
    np.savez(tmp_path / "policy.npz", **arrays)
    with pytest.raises(ValueError, match="checksum is not that of its content"):
        load_policy(tmp_path / "policy.npz")
    # Whoever writes another checksum is told what the file was made to do.
    header = str(arrays.pop("header"))
    del arrays["sha256"]
    arrays[name] = arrays[name] * np.float32(1.1)
    checksum = runtime._checksum(header, arrays)
    np.savez(tmp_path / "policy.npz", header=np.array(header), sha256=np.array(checksum), **arrays)
    with pytest.raises(ValueError, match="recorded actions are missed by"):
        load_policy(tmp_path / "policy.npz")


def test_a_file_tells_what_it_is(policy_file: Path) -> None:
    policy = load_policy(policy_file)
    assert policy.metadata["observation"] == {"": {"shape": [3], "type": "float32"}}
    assert policy.metadata["action"] == {"kind": "Box", "shape": [1], "low": ["-2.0"], "high": ["2.0"]}
    assert policy.metadata["provenance"]["algorithm"] == "SAC" and json.dumps(policy.metadata)
    assert policy.recorded is not None and len(policy.recorded[0]) == 16


def test_a_compiled_pass_that_is_missing_is_an_error(policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_sparse.networks.compiled_program", None)
    with pytest.raises(ImportError, match="needs sb3-sparse and its extra fast"):
        load_policy(policy_file, compiled=True)


class Discrete(gym.Env):
    """Observations of discrete entries."""

    action_space = spaces.Discrete(3)

    def __init__(self, space: spaces.Space):
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        return self.observation_space.sample(), {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5),
        spaces.MultiDiscrete([4, 3, 2]),
        spaces.MultiBinary(6),
        spaces.Dict(a=spaces.Discrete(4), b=spaces.Box(-1, 1, (3,)), c=spaces.MultiDiscrete([2, 3])),
    ],
    ids=lambda space: type(space).__name__,
)
def test_discrete_observations(tmp_path: Path, space: spaces.Space) -> None:
    policy_name = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = DQN(policy_name, Discrete(space), policy_kwargs={"net_arch": [32]}, buffer_size=10, seed=0, device="cpu")
    sparsify(model, 0.5)
    for name, parameter in model.q_net.named_parameters():
        nn.init.normal_(parameter, std=0.0 if "bias" in name else 1.0)  # so that no action is the best everywhere
    export(model, tmp_path / "policy.npz", "sparse")
    policy = load_policy(tmp_path / "policy.npz")
    space.seed(1)
    samples = [space.sample() for _ in range(30)]
    expected = [int(model.predict(sample, deterministic=True)[0]) for sample in samples]
    assert [int(policy(sample)) for sample in samples] == expected
    assert len(set(expected)) > 1


def test_check_of_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "model.zip")
    (tmp_path / "text").write_text("no policy")
    for name, message in {"model.zip": "export it first", "text": "no file that was exported", "missing": "no file"}.items():
        assert main(["check", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


def test_half_range_of_unbounded_actions() -> None:
    from sb3_sparse.deployment.recording import half_range

    space = spaces.Box(np.array([-np.inf, -2.0, 1.0]), np.array([np.inf, 4.0, 1.0]), dtype=np.float64)
    found = half_range(space)
    assert found is not None and found.tolist() == [1.0, 3.0, 1.0]
    assert runtime.deviation(np.array([[math.nan, 0.0, 0.0]]), np.zeros((1, 3)), found) is not None
