"""The replay buffer on the device, against those of Stable-Baselines3; here on the CPU, which runs the same code."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_policies import RandomEnv

from sb3_sparse.buffers.batch_gatherer import BatchGatherer
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DICT = spaces.Dict(position=spaces.Box(-1, 1, (2, 2)), angle=spaces.Box(-1, 1, (1,)), choice=spaces.Discrete(3))
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def batch_of(space: spaces.Space, n_envs: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: batch_of(part, n_envs) for key, part in space.spaces.items()}
    return np.stack([space.sample() for _ in range(n_envs)])


def fill(buffers: list[ReplayBuffer], count: int, n_envs: int, space: spaces.Space = VECTOR) -> None:
    rng = np.random.default_rng(0)
    space.seed(0)
    for _ in range(count):
        observations, following = batch_of(space, n_envs), batch_of(space, n_envs)
        actions, rewards = rng.uniform(-1, 1, (n_envs, 2)), rng.normal(size=n_envs)
        dones, timeouts = rng.random(n_envs) < 0.3, rng.random(n_envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(done and timeout)} for done, timeout in zip(dones, timeouts, strict=True)]
        for buffer in buffers:
            buffer.add(observations, following, actions, rewards, dones, infos)


def assert_equal(first: Any, second: Any) -> None:
    for a, b in zip(first, second, strict=True):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            assert_equal(a.values(), b.values())
        elif a is None:
            assert b is None
        else:
            assert th.allclose(th.as_tensor(a).float(), th.as_tensor(b).float(), atol=1e-5), (a, b)


def of_same_transitions(
    theirs: ReplayBuffer, ours: DeviceReplayBuffer, monkeypatch: pytest.MonkeyPatch, env: Any = None
) -> None:
    """Read every transition of every environment from both."""
    last = theirs.buffer_size if theirs.full else theirs.pos
    for number in range(theirs.n_envs):
        steps = np.arange(last)
        monkeypatch.setattr(np.random, "randint", lambda *_, number=number, size=None, **__: np.full(size, number))
        expected = theirs._get_samples(steps, env=env)
        assert_equal(expected, ours._read(th.as_tensor(steps * ours.n_envs + number), env))


@pytest.mark.parametrize("count", [1, 7, 10, 23], ids=["one", "part", "full", "wrapped"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("space", [VECTOR, DICT], ids=["vector", "dict"])
def test_transitions(count: int, n_envs: int, space: spaces.Space, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    theirs, ours = (
        kind(10 * n_envs, space, ACTIONS, "cpu", n_envs),
        DeviceReplayBuffer(10 * n_envs, space, ACTIONS, "cpu", n_envs),
    )
    fill([theirs, ours], count, n_envs, space)
    assert (ours.size(), ours.pos, ours.full) == (theirs.size(), theirs.pos, theirs.full)
    of_same_transitions(theirs, ours, monkeypatch)


@pytest.mark.parametrize("count", [2, 7, 10, 23])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [2, 3, 5])
def test_n_step_returns(count: int, n_envs: int, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {"n_steps": n_steps, "gamma": 0.9}
    theirs = NStepReplayBuffer(10 * n_envs, VECTOR, ACTIONS, "cpu", n_envs, **kwargs)
    ours = DeviceReplayBuffer(10 * n_envs, VECTOR, ACTIONS, "cpu", n_envs, **kwargs)
    fill([theirs, ours], count, n_envs)
    of_same_transitions(theirs, ours, monkeypatch)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_normalised_environment(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    env.reset()
    for _ in range(30):
        env.step(np.zeros((1, 2), np.float32))
    theirs = NStepReplayBuffer(10, VECTOR, ACTIONS, "cpu", n_steps=n_steps)
    ours = DeviceReplayBuffer(10, VECTOR, ACTIONS, "cpu", n_steps=n_steps)
    fill([theirs, ours], 8, 1)
    last = np.arange(8)
    monkeypatch.setattr(np.random, "randint", lambda *_, size=None, **__: np.zeros(size, int))
    expected, found = theirs._get_samples(last, env=env), ours._read(th.as_tensor(last), env)
    assert_equal(expected[:5], found[:5])


def test_draws_are_uniform_and_seeded() -> None:
    buffer = DeviceReplayBuffer(40, spaces.Box(0, 40, (1,)), ACTIONS, "cpu", n_envs=2)
    for step in range(15):  # observations name the transition
        observations = np.array([[2 * step], [2 * step + 1]], np.float32)
        buffer.add(observations, observations, np.zeros((2, 2)), np.zeros(2), np.zeros(2), [{}, {}])
    buffer.seed(0)
    drawn = buffer.sample(30_000).observations.flatten().long()
    counts = th.bincount(drawn, minlength=30)
    assert len(counts) == 30
    # Chi-squared with 29 degrees of freedom: beyond 58.3 once in a thousand.
    assert ((counts - 1000.0).square() / 1000.0).sum() < 58.3
    buffer.seed(0)
    assert th.equal(drawn, buffer.sample(30_000).observations.flatten().long())


def test_without_a_seed_batches_follow_that_of_torch() -> None:
    def first_draws(seed: int) -> tuple[th.Tensor, th.Tensor]:
        th.manual_seed(seed)
        buffer = DeviceReplayBuffer(40, spaces.Box(0, 40, (1,)), ACTIONS, "cpu")
        untouched = th.rand(3)
        fill([buffer], 40, 1, spaces.Box(0, 40, (1,)))
        return buffer.sample(20).rewards, untouched

    (drawn, untouched), (again, _), (others, _) = first_draws(1), first_draws(1), first_draws(2)
    assert th.equal(drawn, again) and not th.equal(drawn, others)
    th.manual_seed(1)
    assert th.equal(untouched, th.rand(3))


def test_does_not_touch_the_stream_of_numpy() -> None:
    buffer = DeviceReplayBuffer(10, VECTOR, ACTIONS, "cpu")
    fill([buffer], 5, 1)
    np.random.seed(0)
    expected = np.random.get_state()[1].copy()
    buffer.sample(4)
    assert (np.random.get_state()[1] == expected).all()


@pytest.mark.parametrize("count", [4, 13])
def test_pickle(count: int) -> None:
    buffer = DeviceReplayBuffer(10, DICT, ACTIONS, "cpu")
    fill([buffer], count, 1, DICT)
    buffer.sample(3)
    loaded = pickle.loads(pickle.dumps(buffer))
    assert_equal(buffer.sample(5), loaded.sample(5))
    fill([buffer, loaded], 3, 1, DICT)
    assert_equal(buffer.sample(5), loaded.sample(5))
    assert (loaded.pos, loaded.full) == (buffer.pos, buffer.full)


def test_naming_the_same_device_keeps_the_stream() -> None:
    """SB3 names it after loading, without a number."""
    buffer = DeviceReplayBuffer(10, VECTOR, ACTIONS, "cpu")
    fill([buffer], 10, 1)
    buffer.seed(0)
    buffer.sample(3)
    twin = pickle.loads(pickle.dumps(buffer))
    twin.device = "cpu:0"
    assert_equal(buffer.sample(5), twin.sample(5))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_load_without_the_former_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cuda, "device_count", lambda: 0)
    buffer = DeviceReplayBuffer(20, VECTOR, ACTIONS, "cpu", n_envs=2)
    fill([buffer], 7, 2)
    state = {**buffer.__getstate__(), "_device": device}
    loaded = DeviceReplayBuffer.__new__(DeviceReplayBuffer)
    loaded.__setstate__(state)
    assert loaded.device == th.device("cpu")
    everything = th.arange(14)
    assert_equal(buffer._read(everything, None), loaded._read(everything, None))
    assert len(loaded.sample(500).rewards.unique()) == 14


def test_pickle_holds_what_is_filled_only() -> None:
    buffer = DeviceReplayBuffer(100_000, VECTOR, ACTIONS, "cpu")
    fill([buffer], 10, 1)
    assert len(pickle.dumps(buffer)) < 20_000


@pytest.mark.parametrize("n_envs", [1, 2])
def test_reset(n_envs: int) -> None:
    buffer = DeviceReplayBuffer(10, VECTOR, ACTIONS, "cpu", n_envs)
    fill([buffer], 7, n_envs)
    buffer.reset()
    fill([buffer], 1, n_envs)
    assert len(buffer.sample(50).rewards.unique()) <= n_envs


def test_stock_algorithm_trains_with_it() -> None:
    kwargs: dict[str, Any] = {"replay_buffer_class": DeviceReplayBuffer, "learning_starts": 10, "buffer_size": 50}
    model = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, **kwargs)
    model.learn(20)
    file = io.BytesIO()
    model.save_replay_buffer(file)
    file.seek(0)
    model.load_replay_buffer(file)
    model.learn(5, reset_num_timesteps=False)
    assert model._n_updates == 15


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), {}),
        (spaces.Dict(camera=spaces.Box(0, 255, (3, 8, 8), np.uint8)), {}),
        (VECTOR, {"optimize_memory_usage": True}),
    ],
)
def test_what_it_does_not_take(space: spaces.Space, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A replay buffer on the device takes vectors"):
        DeviceReplayBuffer(10, space, ACTIONS, "cpu", **kwargs)


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise th.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(th, "zeros", refuse)
    with pytest.raises(th.OutOfMemoryError, match=r"400,000,000 transitions needs 8\.9 GiB.*replay_buffer_device='cpu'"):
        DeviceReplayBuffer(400_000_000, spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), "cpu")


@pytest.mark.parametrize("space", [VECTOR, spaces.Box(-1, 1, (2, 2), np.float64), spaces.Discrete(3)])
@pytest.mark.parametrize(("count", "n_envs"), [(5, 1), (25, 1), (25, 3)])
def test_gathered_batches_are_those_of_sb3(space: spaces.Space, count: int, n_envs: int) -> None:
    buffer = ReplayBuffer(20 * n_envs, space, ACTIONS, "cpu", n_envs=n_envs)
    fill([buffer], count, n_envs, space)
    assert BatchGatherer.takes(buffer, None)
    gatherer = BatchGatherer(buffer, 64)
    for _ in range(3):
        state = np.random.get_state()
        expected, following = buffer.sample(64), np.random.rand()
        np.random.set_state(state)
        found = gatherer.sample()
        assert np.random.rand() == following
        for ours, theirs in zip(found[:5], expected[:5], strict=True):
            assert th.equal(ours, theirs) and ours.dtype == theirs.dtype
        buffer.dones = 1.0 - buffer.dones  # other arrays are read, too


def test_other_buffers_draw_for_themselves() -> None:
    others = [
        NStepReplayBuffer(8, VECTOR, ACTIONS, n_steps=3),
        ReplayBuffer(8, VECTOR, ACTIONS, optimize_memory_usage=True, handle_timeout_termination=False),
        DeviceReplayBuffer(8, VECTOR, ACTIONS, device="cpu"),
    ]
    assert not any(BatchGatherer.takes(buffer, None) for buffer in others)
