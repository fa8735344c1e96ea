"""The replay buffer that stores each frame once, against a list of everything that was put in."""

import io
import pickle
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from graph_emulator import Graph, Waits, emulate
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_policies import RandomEnv

from sb3_sparse.buffers import memory
from sb3_sparse.buffers.frame_layout import FrameLayout
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.buffers.frame_store import FrameStore

PIXELS = spaces.Box(0, 255, (9, 84, 84), np.uint8)
SMALL_PIXELS = spaces.Box(0, 255, (6, 2, 3), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
FIRST_STACKS = ("repeated", "zeros", "different")
GAMMA = 0.9


class OnDevice(FrameReplayBuffer):
    """Draws as if it lay on a GPU."""

    def _make_generator(self) -> th.Generator | None:
        return th.Generator("cpu")


@dataclass
class Transition:
    observation: np.ndarray
    next_observation: np.ndarray
    action: np.ndarray
    reward: float
    discount: float
    terminated: bool
    ended: bool
    episode: int


@dataclass
class Source:
    """Random episodes, as vectorised environments show them to a buffer."""

    space: spaces.Box
    frame_stack: int
    rng: np.random.Generator
    mean_length: int = 6
    with_discounts: bool = False
    episode: int = 0
    last: np.ndarray | None = None
    ended: bool = True
    history: list[Transition] = field(default_factory=list)

    def frame(self) -> np.ndarray:
        shape = (self.space.shape[0] // self.frame_stack, *self.space.shape[1:])
        values = self.rng.integers(0, 256, shape)
        return (
            values.astype(np.uint8) if self.space.dtype == np.uint8 else self.rng.normal(size=shape).astype(self.space.dtype)
        )

    def first_stack(self) -> np.ndarray:
        kind, newest = self.rng.choice(FIRST_STACKS), self.frame()
        older = {"repeated": lambda: newest, "zeros": lambda: np.zeros_like(newest), "different": self.frame}[kind]
        return np.concatenate([*(older() for _ in range(self.frame_stack - 1)), newest])

    def step(self) -> tuple[Transition, dict[str, Any]]:
        if self.ended:
            self.episode, self.ended = self.episode + 1, False
            # An episode may go on where the one before it ended, as after the loss of a life.
            if self.last is None or self.rng.random() < 0.7:
                self.last = self.first_stack()
        frame = self.frame()
        following = np.concatenate([self.last[len(frame) :], frame])
        done, timeout = self.rng.random(2) < (1 / self.mean_length, 0.5)
        discount = float(np.float32(self.rng.random())) if self.with_discounts else 1.0
        action = self.rng.uniform(-1, 1, 2).astype(np.float32)
        reward = float(np.float32(self.rng.normal()))
        transition = Transition(self.last, following, action, reward, discount, done and not timeout, done, self.episode)
        self.history.append(transition)
        # Now and then somebody resets the environment in the middle of an episode.
        broken_off = not done and self.rng.random() < 0.05
        self.last, self.ended = following, done or broken_off
        if broken_off:
            self.last = None
        info = {"TimeLimit.truncated": bool(done and timeout)} | ({"discount": discount} if self.with_discounts else {})
        return transition, info


def fill(buffers: list[FrameReplayBuffer], sources: list[Source], steps: int) -> None:
    for _ in range(steps):
        transitions, infos = zip(*(source.step() for source in sources), strict=True)
        parts = [
            np.stack([getattr(transition, name) for transition in transitions])
            for name in ("observation", "next_observation", "action", "reward", "ended")
        ]
        for buffer in buffers:
            buffer.add(*parts, list(infos))
        for part in parts:  # environments may use their arrays again
            part[...] = 0


def expected(history: list[Transition], start: int, n_steps: int, gamma: float) -> tuple[Any, ...] | None:
    """
    Follow an episode step by step.

    :return: Count of steps, and what a sample consists of
    """
    first, total, weight = history[start], 0.0, 1.0
    for count, step in enumerate(history[start : start + n_steps], 1):
        if step.episode != first.episode:
            count -= 1
            break
        total += weight * step.reward
        weight *= gamma * step.discount
    last = history[start + count - 1]
    return count, first.observation, first.action, last.next_observation, float(last.terminated), total, weight


def compare(buffer: FrameReplayBuffer, sources: list[Source]) -> int:
    """
    Read all that is stored and compare it with the episodes.

    :return: Number of possible starts
    """
    steps, starts = len(sources[0].history), 0
    for env, source in enumerate(sources):
        for step in range(steps - buffer.size(), steps):
            position = th.tensor([step % buffer.buffer_size * buffer.n_envs + env])
            count, *parts = expected(source.history, step, buffer.n_steps, buffer.gamma)
            assert buffer.is_start(position).item() == (buffer.partial_returns or count == buffer.n_steps)
            starts += buffer.is_start(position).item()
            assert_same(buffer.read(position), parts)
    return starts


def assert_same(found: ReplayBufferSamples, parts: list[Any]) -> None:
    observation, action, next_observation, terminal, total, weight = parts
    assert found.observations.numpy()[0].tobytes() == observation.tobytes()
    assert found.next_observations.numpy()[0].tobytes() == next_observation.tobytes()
    np.testing.assert_array_equal(found.actions.numpy()[0], action)
    np.testing.assert_allclose([found.rewards.item(), found.discounts.item()], [total, weight], rtol=1e-5, atol=1e-6)
    assert found.dones.item() == terminal
    assert [tuple(part.shape) for part in (found.rewards, found.dones, found.discounts)] == [(1, 1)] * 3


def make(
    space: spaces.Box,
    frame_stack: int,
    n_envs: int,
    rows: int = 40,
    seed: int = 0,
    kind: type = FrameReplayBuffer,
    **kwargs: Any,
) -> tuple[FrameReplayBuffer, list[Source]]:
    kwargs = {"gamma": GAMMA, "episode_length": 2, **kwargs}
    buffer = kind(rows * n_envs, space, ACTIONS, "cpu", n_envs, frame_stack=frame_stack, **kwargs)
    rng = np.random.default_rng(seed)
    return buffer, [Source(space, frame_stack, rng) for _ in range(n_envs)]


SPACES = [(SMALL_PIXELS, 3), (SMALL_PIXELS, 2), (VECTOR, 1), (VECTOR, 4)]
each_space = pytest.mark.parametrize(("space", "frame_stack"), SPACES, ids=["3 frames", "2 frames", "vector", "4 numbers"])


@each_space
@pytest.mark.parametrize("partial_returns", [True, False], ids=["partial", "whole"])
@pytest.mark.parametrize("n_steps", [1, 3, 7])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_reads_what_was_stored(space: spaces.Box, frame_stack: int, n_steps: int, n_envs: int, partial_returns: bool) -> None:
    kwargs = {"n_steps": n_steps, "partial_returns": partial_returns}
    buffer, sources = make(space, frame_stack, n_envs, seed=n_steps, **kwargs)
    for source in sources:
        source.with_discounts = n_envs == 3
    for steps in (1, 5, 33, 1, 3, 90):  # one, a few, almost full, just full, wrapped, wrapped again
        fill([buffer], sources, steps)
        starts = compare(buffer, sources)
        drawn = buffer.draw(50).numpy() if starts else np.zeros(0, int)
        assert buffer.is_start(th.from_numpy(drawn)).all()
    assert buffer.size() == 40
    assert np.unique(buffer.draw(20 * starts)).size == starts


def test_agrees_with_stable_baselines3() -> None:
    ours, sources = make(VECTOR, 1, 1, n_steps=3)
    theirs = NStepReplayBuffer(40, VECTOR, ACTIONS, "cpu", n_steps=3, gamma=GAMMA)
    # SB3 does not notice that an environment was reset in the middle of an episode.
    sources[0].rng = _WithoutBreaks(sources[0].rng)
    fill([ours, theirs], sources, 57)
    positions = np.arange(40)
    for mine, other in zip(ours.read(th.from_numpy(positions)), theirs._get_samples(positions), strict=True):
        th.testing.assert_close(mine, other)


class _WithoutBreaks:
    """A generator whose single uniform draws are never small."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)

    def random(self, *size: int) -> Any:
        return self.rng.random(*size) if size else 1.0


@each_space
def test_drawn_batches_are_what_is_read(space: spaces.Box, frame_stack: int) -> None:
    buffer, sources = make(space, frame_stack, 2, n_steps=3)
    fill([buffer], sources, 50)
    np.random.seed(3)
    positions = buffer.draw(20)
    np.random.seed(3)
    for part, other in zip(buffer.sample(20), buffer.read(positions), strict=True):
        assert th.equal(part, other)


@pytest.mark.parametrize("kind", [FrameReplayBuffer, OnDevice])
@pytest.mark.parametrize("partial_returns", [True, False])
def test_draws_are_uniform_and_seeded(kind: type, partial_returns: bool) -> None:
    buffer, sources = make(VECTOR, 1, 2, kind=kind, n_steps=3, partial_returns=partial_returns)
    fill([buffer], sources, 55)

    def seed() -> None:
        np.random.seed(1)
        buffer.seed(1)

    seed()
    drawn = buffer.draw(40_000)
    starts = buffer.is_start(th.arange(80)).numpy()
    counts = np.bincount(drawn, minlength=80)
    assert (counts[~starts] == 0).all()
    mean = 40_000 / starts.sum()
    # Chi-squared, at most 79 degrees of freedom: beyond 124.9 once in a thousand.
    assert ((counts[starts] - mean) ** 2 / mean).sum() < 124.9
    seed()
    assert th.equal(drawn, buffer.draw(40_000))


@pytest.fixture
def memory_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of batches: from torch, not from NumPy."""

    def empty(store: FrameStore, count: int, pinned: bool = False) -> th.Tensor:
        return th.empty(count, *store.frame_shape, dtype=store.torch_type)

    monkeypatch.setattr(FrameStore, "_empty", empty)


@pytest.mark.usefixtures("memory_as_on_a_gpu")
def test_nothing_waits_for_a_gpu() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 2, kind=OnDevice, n_steps=3, partial_returns=False)
    fill([buffer], sources, 50)
    with Waits() as waits:
        buffer.sample(8)
    assert waits.operations
    assert not waits.found


@pytest.mark.usefixtures("memory_as_on_a_gpu")
def test_sampling_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replay reads is what is stored by then."""
    emulate(monkeypatch)
    buffer, sources = make(SMALL_PIXELS, 3, 2, kind=OnDevice, n_steps=3, partial_returns=False)
    twin, _ = make(SMALL_PIXELS, 3, 2, kind=OnDevice, n_steps=3, partial_returns=False)
    fill([buffer, twin], sources, 20)
    graph = Graph()
    graph.register_generator_state(buffer.generator)
    with th.cuda.graph(graph):
        batch = buffer.sample(8)
    for steps in (0, 1, 30):
        fill([buffer, twin], sources, steps)
        graph.replay()
        for part, other in zip(batch, twin.sample(8), strict=True):
            assert th.equal(part, other)


@pytest.mark.parametrize("kind", [FrameReplayBuffer, OnDevice])
@pytest.mark.parametrize("steps", [3, 39, 40, 75])
@each_space
def test_pickle(space: spaces.Box, frame_stack: int, steps: int, kind: type) -> None:
    buffer, sources = make(space, frame_stack, 2, kind=kind, n_steps=2, partial_returns=False)
    fill([buffer], sources, steps)
    buffer.draw(3)
    loaded = pickle.loads(pickle.dumps(buffer, pickle.HIGHEST_PROTOCOL))
    loaded.device = "cpu"
    for number in (0, 1, 60):
        fill([buffer, loaded], sources, number)
        compare(loaded, sources)
        np.random.seed(0)
        expected_positions = buffer.draw(30)
        np.random.seed(0)
        assert th.equal(loaded.draw(30), expected_positions)


def test_pickle_holds_what_is_filled_only() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 1, rows=200_000)
    fill([buffer], sources, 10)
    assert buffer.nbytes > 10_000_000
    assert len(pickle.dumps(buffer)) < 20_000


def test_reset() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 2, n_steps=3, partial_returns=False)
    fill([buffer], sources, 50)
    buffer.reset()
    unused, _ = make(SMALL_PIXELS, 3, 2, n_steps=3, partial_returns=False)
    assert len(pickle.dumps(buffer)) < len(pickle.dumps(unused)) + 100
    with pytest.raises(ValueError, match="collect more"):
        buffer.sample(1)
    for source in sources:
        source.history.clear()
    fill([buffer], sources, 45)
    compare(buffer, sources)


def test_hooks_tell_which_positions_can_be_drawn() -> None:
    buffer, sources = make(VECTOR, 1, 2, n_steps=3, partial_returns=False, kind=Watching, episode_length=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(120):
            fill([buffer], sources, 1)
            assert buffer.starts == set(np.flatnonzero(buffer.is_start(th.arange(80))))


class Watching(FrameReplayBuffer):
    """Keeps a set of the possible starts."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.starts: set[int] = set()

    def _dropped(self, positions: np.ndarray) -> None:
        assert set(positions) <= self.starts
        self.starts -= set(positions)

    def _started(self, positions: np.ndarray) -> None:
        assert not set(positions) & self.starts
        self.starts |= set(positions)


def test_short_episodes_use_up_the_frames() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 2, rows=200, episode_length=50)
    for source in sources:
        source.mean_length = 2
    with pytest.warns(UserWarning, match=r"shorter than 50 steps .* of 400 transitions.*smaller episode_length"):
        fill([buffer], sources, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        fill([buffer], sources, 300)
    for _ in range(10):
        fill([buffer], sources, 1)
        assert 100 < buffer.size() < 200
        compare(buffer, sources)


def test_forgotten_steps_complete_no_sums() -> None:
    """One environment's episodes are so short that fewer steps are left of the other than are summed."""
    buffer, sources = make(SMALL_PIXELS, 3, 2, n_steps=25, partial_returns=False, episode_length=1_000)
    for source, mean_length in zip(sources, (1_000, 1), strict=True):
        source.mean_length, source.rng = mean_length, _WithoutBreaks(source.rng)
    with pytest.warns(UserWarning, match="episode_length"):
        fill([buffer], sources, 100)
    assert 1 < buffer.size() < 25
    assert compare(buffer, sources) == 0
    with pytest.raises(ValueError, match=r"no sequence of 25 steps.*partial_returns=True"):
        buffer.sample(1)


def test_long_episodes_do_not() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 2, rows=200, episode_length=25)
    for source in sources:
        source.mean_length, source.rng = 60, _WithoutBreaks(source.rng)
    fill([buffer], sources, 600)
    assert buffer.size() == 200
    compare(buffer, sources)


@pytest.mark.parametrize("space", [VECTOR, SMALL_PIXELS], ids=["float", "uint8"])
def test_wrong_frame_stack(space: spaces.Box) -> None:
    _, (source,) = make(space, 2, 1)
    buffer = FrameReplayBuffer(20, space, ACTIONS, "cpu", frame_stack=space.shape[0])
    with pytest.raises(ValueError, match=rf"frame_stack={space.shape[0]} is wrong .*frame_stack=2 fits"):
        fill([buffer], [source], 5)
    assert buffer.size() == 0


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (SMALL_PIXELS, {"frame_stack": 4}, r"frame_stack must .* has 6 entries .*got 4"),
        (SMALL_PIXELS, {"frame_stack": 0}, "frame_stack must .*got 0"),
        (SMALL_PIXELS, {"frame_stack": 1.5}, "frame_stack must .*got 1.5"),
        (SMALL_PIXELS, {"n_steps": 0}, "n_steps must be an integer of at least 1, got 0"),
        (SMALL_PIXELS, {"n_steps": 30, "partial_returns": False}, "n_steps=30 does not fit into a buffer of 20"),
        (SMALL_PIXELS, {"gamma": 1.1}, r"gamma must be a number in \[0, 1\], got 1.1"),
        (SMALL_PIXELS, {"optimize_memory_usage": True}, "leave optimize_memory_usage=False"),
        (SMALL_PIXELS, {"episode_length": 0}, "episode_length must be an integer of at least 1, got 0"),
        (spaces.Discrete(3), {}, "observations of a Box"),
        (spaces.Dict(camera=SMALL_PIXELS), {}, "observations of a Box"),
    ],
)
def test_bad_arguments(space: spaces.Space, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameReplayBuffer(20, space, ACTIONS, "cpu", **kwargs)


@pytest.mark.parametrize("discount", [2.0, float("nan"), "3 %"])
def test_bad_discount(discount: Any) -> None:
    observation = np.zeros((1, 4), np.float32)
    step = (observation, observation, np.zeros((1, 2)), np.ones(1), np.zeros(1), [{"discount": discount}])
    with pytest.raises(ValueError, match=rf"info\['discount'\].*got {discount!r}: .*environment_discounts=False"):
        FrameReplayBuffer(20, VECTOR, ACTIONS, "cpu").add(*step)
    buffer = FrameReplayBuffer(20, VECTOR, ACTIONS, "cpu", environment_discounts=False, gamma=GAMMA)
    buffer.add(*step)
    assert buffer.sample(1).discounts.item() == pytest.approx(GAMMA)


@pytest.mark.parametrize(
    "observation",
    [np.zeros((1, 2, 3, 6), np.uint8), np.zeros((2, 6, 2, 3), np.uint8), np.zeros((1, 6, 2, 3), np.float32)],
    ids=["channels last", "two environments", "floats"],
)
def test_other_observations_than_the_spaces(observation: np.ndarray) -> None:
    buffer = FrameReplayBuffer(20, SMALL_PIXELS, ACTIONS, "cpu", frame_stack=2)
    with pytest.raises(ValueError, match=r"must have shape \(1, 6, 2, 3\) and type uint8.* got shape .* and type"):
        buffer.add(observation, observation, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])


def test_bytes_of_a_transition() -> None:
    """Three RGB frames of 84x84: 21,168 bytes of pixels, and 4 % for ends of episodes; SB3 stores six frames of them."""
    transitions = 500_000
    needed = FrameLayout.of(transitions, PIXELS, spaces.Box(-1, 1, (12,), np.float32), frame_stack=3).nbytes
    assert 21_168 < needed / transitions < 1.05 * 21_168
    assert needed < 11.1e9
    sb3 = transitions * 2 * 9 * 84 * 84
    assert needed < 0.18 * sb3


@pytest.mark.parametrize(("space", "frame_stack"), SPACES)
def test_bytes_are_those_of_the_tensors(space: spaces.Box, frame_stack: int) -> None:
    buffer, _ = make(space, frame_stack, 3)
    tensors = [buffer._places, buffer._actions, buffer._outcomes]
    assert buffer.nbytes == buffer._frames.nbytes + buffer._starts.nbytes + sum(tensor.nbytes for tensor in tensors)
    assert buffer.nbytes == FrameLayout.of(120, space, ACTIONS, 3, frame_stack=frame_stack, episode_length=2).nbytes


def test_too_little_memory() -> None:
    with pytest.raises(MemoryError, match=r"of 10,000,000,000 transitions needs 2\d\d,(\d{3},?){4} bytes .*smaller"):
        FrameReplayBuffer(10_000_000_000, PIXELS, ACTIONS, "cpu", frame_stack=3)


def test_memory_is_used_as_transitions_come() -> None:
    """The pages of a buffer that is larger than what will be stored are not touched."""
    before = _resident_bytes()
    buffer = FrameReplayBuffer(20_000, PIXELS, ACTIONS, "cpu", frame_stack=3)
    assert buffer.nbytes > 400e6
    assert _resident_bytes() - before < 50e6


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_limit_of_a_container(tmp_path: Any) -> None:
    assert memory._of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    for name, text in {"max": "1000\n", "current": "700\n", "stat": "anon 500\ninactive_file 150\nslab 1\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._of_container(tmp_path) == 450


def test_memory_of_the_system(tmp_path: Any) -> None:
    assert memory._of_linux(tmp_path / "missing") is None
    (tmp_path / "meminfo").write_text("MemTotal:       20 kB\nMemAvailable:   12 kB\nHugePages_Total:       0\n")
    assert memory._of_linux(tmp_path / "meminfo") == 12 * 1024
    assert memory.available_memory() > 1e6


def test_normalised_environment() -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(VECTOR)]))
    env.reset()
    for _ in range(30):
        env.step(np.zeros((1, 2), np.float32))
    buffer, sources = make(VECTOR, 1, 1)
    fill([buffer], sources, 8)
    positions = th.arange(8)
    plain, found = buffer.read(positions), buffer.read(positions, env)
    np.testing.assert_allclose(found.observations, env.normalize_obs(plain.observations.numpy()))
    np.testing.assert_allclose(found.rewards, env.normalize_reward(plain.rewards.numpy()), rtol=1e-6)


def test_stock_algorithm_trains_with_it() -> None:
    kwargs: dict[str, Any] = {"replay_buffer_class": FrameReplayBuffer, "learning_starts": 10, "buffer_size": 50}
    model = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, **kwargs)
    model.learn(20)
    file = io.BytesIO()
    model.save_replay_buffer(file)
    file.seek(0)
    model.load_replay_buffer(file)
    model.learn(15)
    assert model._n_updates == 15
    assert model.replay_buffer.size() == 35
    # The second learn() reset the environment in the middle of an episode.
    assert model.replay_buffer._outcomes[:35, 0, 2].flatten().nonzero().flatten().tolist() == [19]


@pytest.mark.gpu
@pytest.mark.parametrize("storage_device", ["cpu", "cuda"])
def test_on_a_gpu(storage_device: str) -> None:
    kwargs = {"n_steps": 3, "partial_returns": False, "gamma": GAMMA, "episode_length": 2}
    buffer = FrameReplayBuffer(80, SMALL_PIXELS, ACTIONS, "cuda", 2, frame_stack=3, storage_device=storage_device, **kwargs)
    twin, sources = make(SMALL_PIXELS, 3, 2, **kwargs)
    fill([buffer, twin], sources, 75)
    for copy in (buffer, pickle.loads(pickle.dumps(buffer))):
        positions = copy.draw(40)
        for part, other in zip(copy.read(positions), twin.read(positions.cpu()), strict=True):
            assert part.is_cuda
            th.testing.assert_close(part.cpu(), other)


@pytest.mark.gpu
def test_captured_on_a_gpu() -> None:
    buffer, sources = make(SMALL_PIXELS, 3, 2, n_steps=3, storage_device="cuda")
    buffer.device = th.device("cuda")
    fill([buffer], sources, 20)
    buffer.sample(8)
    graph = th.cuda.CUDAGraph()
    graph.register_generator_state(buffer.generator)
    with th.cuda.graph(graph):
        positions = buffer.draw(8)
        batch = buffer.read(positions)
    for steps in (0, 30):
        fill([buffer], sources, steps)
        graph.replay()
        for part, other in zip(batch, buffer.read(positions), strict=True):
            assert th.equal(part, other)
