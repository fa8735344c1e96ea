"""DER as an SB3 algorithm."""

import copy
import warnings
from contextlib import nullcontext
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from catch_env import Catch
from graph_emulator import emulate
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage
from torch.testing import assert_close

from sb3_sparse import DER, PlasticityCallback, ReDoCallback, ResetCallback, sparsity
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.buffers.frame_store import FrameStore
from sb3_sparse.der import CnnPolicy, PrioritizedFrameReplayBuffer
from sb3_sparse.der.sum_tree import SumTree
from sb3_sparse.experiments.benchmarks.der_cost import der_cost, format_der_table
from sb3_sparse.training.divergence import DivergenceError
from sb3_sparse.zoo.hyperparameter_files import our_hyperparameters

SMALL = {"learning_starts": 20, "buffer_size": 300, "batch_size": 8, "n_steps": 3, "target_update_interval": 10, "seed": 0}
VECTORS: dict[str, Any] = {"policy": "MlpPolicy", "env": "CartPole-v1", "policy_kwargs": {"net_arch": [16], "v_max": 100.0}}
PIXELS: dict[str, Any] = {"policy": "CnnPolicy", "env": Catch, "policy_kwargs": {"net_arch": [16], "width_scale": 0.125}}
MODELS = {
    "vectors": VECTORS,
    "pixels": PIXELS,
    "sparse vectors": {**VECTORS, "policy_kwargs": {**VECTORS["policy_kwargs"], "sparsity": 0.5}},
    "sparse pixels": {**PIXELS, "policy_kwargs": {**PIXELS["policy_kwargs"], "sparsity": 0.5}},
    "plain DQN": {
        **VECTORS,
        "policy_kwargs": {"net_arch": [16], "distributional": False, "dueling": False, "noisy": False},
        "double_q": False,
        "prioritized": False,
        "n_steps": 1,
        "tau": 0.5,
    },
    "two hidden layers, clipped": {**VECTORS, "policy_kwargs": {"net_arch": [16, 8], "v_max": 50.0}, "max_grad_norm": 1.0},
}
each_model = pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)


def build(arguments: dict[str, Any], **changes: Any) -> DER:
    arguments = {**SMALL, **arguments, **changes}
    policy, env = arguments.pop("policy"), arguments.pop("env")
    env = env() if isinstance(env, type) else env
    return DER(policy, env, device="cpu", **copy.deepcopy(arguments) if isinstance(env, str) else arguments)


def parameters(model: DER) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def assert_same(first: dict[str, th.Tensor], second: dict[str, th.Tensor], **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert_close(first[name], second[name], msg=name, **(tolerance or {"rtol": 0, "atol": 0}))


@each_model
def test_learns_and_reproduces(arguments: dict[str, Any]) -> None:
    models = [build(arguments).learn(35) for _ in range(2)]
    assert models[0]._n_updates == 15
    assert_same(*map(parameters, models))
    before = parameters(build(arguments))
    moved = [name for name, value in parameters(models[0]).items() if not th.equal(value, before[name])]
    trained = [name for name, _ in models[0].q_net.named_parameters()]
    assert {f"q_net.{name}" for name in trained} <= set(moved)
    assert {"train/loss", "train/q_value"} <= models[0].logger.name_to_value.keys()


@each_model
def test_save_and_load(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = build(arguments).learn(40)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DER.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert_same(parameters(model), parameters(loaded))
    observations = np.stack([model.observation_space.sample() for _ in range(5)])
    assert (model.predict(observations, deterministic=True)[0] == loaded.predict(observations, deterministic=True)[0]).all()
    assert loaded.replay_buffer.size() == 40 and type(loaded.replay_buffer) is type(model.replay_buffer)
    if model.prioritized:
        places = th.arange(40)
        assert th.equal(model.replay_buffer.priorities(places), loaded.replay_buffer.priorities(places))
        assert float(loaded.replay_buffer.max_priority) == float(model.replay_buffer.max_priority)
    before = loaded._n_updates
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps == 50 and loaded._n_updates == before + 10
    alone = DER.load(tmp_path / "model.zip", device="cpu")
    assert alone.frame_stack == model.frame_stack
    assert (alone.predict(observations, deterministic=True)[0] == model.predict(observations, deterministic=True)[0]).all()
    path = tmp_path / "policy.pth"
    model.policy.save(str(path))
    policy = type(model.policy).load(str(path), device="cpu")
    assert (policy.predict(observations, deterministic=True)[0] == model.predict(observations, deterministic=True)[0]).all()


def test_a_continued_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Same batches, noise and priorities: the model's and the buffer's state is all that updates depend on."""
    model = build(PIXELS).learn(40)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DER.load(tmp_path / "model.zip", env=Catch(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.set_logger(model.logger)
    for each in (model, loaded):
        np.random.seed(1)
        th.manual_seed(1)
        each.train(5, 8)
    assert_same(parameters(model), parameters(loaded))
    assert th.equal(model.replay_buffer._tree.leaves, loaded.replay_buffer._tree.leaves)


@pytest.mark.parametrize(
    "arguments", [MODELS["sparse pixels"], VECTORS, MODELS["plain DQN"]], ids=["pixels", "vectors", "DQN"]
)
@pytest.mark.parametrize("on_device", [False, True])
def test_captured_update_is_the_eager_one(arguments: dict[str, Any], on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA graphs emulated: batches drawn within the graph, as from a buffer on the GPU, or fed to it."""

    def empty(store: FrameStore, count: int, pinned: bool = False) -> th.Tensor:
        return th.empty(count, *store.frame_shape, dtype=store.torch_type)

    if on_device:
        monkeypatch.setattr(FrameStore, "_empty", empty)  # as on a GPU; on a CPU NumPy makes it

    def trained() -> dict[str, th.Tensor]:
        model = build(arguments, priority_beta_final=1.0) if arguments is not MODELS["plain DQN"] else build(arguments)
        if on_device:
            model.replay_buffer.generator = th.Generator().manual_seed(0)
        model.learn(50)
        result = parameters(model)
        if model.prioritized:
            result["priorities"] = model.replay_buffer.priorities(th.arange(50))
        return result

    eager = trained()
    emulate(monkeypatch)
    graph = trained()
    assert_same(eager, graph, rtol=1e-4, atol=1e-6)


def test_each_captured_program_renews_the_priorities_of_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch size that changes to and fro goes back to a graph, which must not be taken for the one in between."""

    def trained() -> tuple[dict[str, th.Tensor], th.Tensor]:
        model = build(VECTORS, learning_starts=40).learn(40)
        model.set_logger(configure(None, []))
        for batch_size in (8, 4, 8, 4):
            model.train(5, batch_size)
        return parameters(model), model.replay_buffer.priorities(th.arange(40))

    eager = trained()
    emulate(monkeypatch)
    graph = trained()
    assert_same(eager[0], graph[0], rtol=1e-4, atol=1e-6)
    assert_close(eager[1], graph[1], rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("replay_buffer_device", ["auto", "cpu"])
def test_on_a_gpu(arguments: dict[str, Any], replay_buffer_device: str, tmp_path: Path) -> None:
    """Updates are captured, learn, and renew priorities; the file goes on on a CPU."""
    arguments = {**SMALL, **arguments, "replay_buffer_device": replay_buffer_device}
    policy, env = arguments.pop("policy"), arguments.pop("env")
    model = DER(policy, env() if isinstance(env, type) else env, device="cuda", **copy.deepcopy(arguments))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*kernel by kernel.*")
        model.learn(80)
    programs = list(model._programs.programs.values())
    assert programs and all(program.graph is not None for program in programs if program.runs > 3)
    buffer = model.replay_buffer
    assert buffer.storage_device.type == ("cuda" if replay_buffer_device == "auto" else "cpu")
    if model.prioritized:
        assert len(set(buffer.priorities(th.arange(80, device=buffer.storage_device)).tolist())) > 40
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DER.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert_same({name: tensor.cpu() for name, tensor in parameters(model).items()}, parameters(loaded))


@pytest.mark.gpu
def test_sum_tree_on_a_gpu() -> None:
    on_cpu, on_gpu = SumTree(5_000), SumTree(5_000, "cuda")
    generator = th.Generator().manual_seed(0)
    for _ in range(20):
        positions = th.randperm(5_000, generator=generator)[:300]
        numbers = th.rand(300, dtype=th.float64, generator=generator)
        on_cpu.set(positions, numbers)
        on_gpu.set(positions.cuda(), numbers.cuda())
    fractions = th.rand(1_000, dtype=th.float64, generator=generator)
    assert_close(on_gpu.find(fractions.cuda()).cpu(), on_cpu.find(fractions))


def test_target_network_is_a_copy_every_so_many_agent_steps() -> None:
    model = build(VECTORS, target_update_interval=30, learning_starts=5)
    gaps = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        pairs = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
        gaps.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
        return True

    model.learn(65, callback=note)
    # Called before the copy of its step: the 30th copies, then one update has been made when the 31st is reached.
    assert gaps[29] > gaps[30] > 0 and gaps[59] > gaps[60] > 0
    model._on_step = lambda: None  # type: ignore[method-assign]
    model._weights.average(model.q_net, model.q_net_target, 1.0)
    online, target = model.q_net.state_dict(), model.q_net_target.state_dict()
    assert all(th.equal(online[name], target[name]) for name in online)


def test_output_of_the_sparse_target_network_moves() -> None:
    model = build(MODELS["sparse vectors"], target_update_interval=1_000).learn(40)
    observations = th.randn(3, 4)
    before = model.q_net_target(observations)
    assert not th.allclose(before, model.q_net(observations))
    model._weights.average(model.q_net, model.q_net_target, 1.0)
    assert_close(model.q_net_target(observations), model.q_net(observations))


def test_double_q_evaluates_the_online_network_s_choice() -> None:
    samples = build(VECTORS).learn(30).replay_buffer.sample(8)
    for double_q in (True, False):
        model = build(VECTORS, double_q=double_q)
        with th.no_grad():
            for network, best in ((model.q_net, 0), (model.q_net_target, 1)):
                for parameter in network.parameters():
                    parameter.zero_()
                # Logits of the upper atoms: action `best` is worth more.
                network.head.advantage.bias_mu.view(2, -1)[best, 40:] = 3.0
        chosen = 0 if double_q else 1
        expected = model.q_net_target.expectation(model.q_net_target(samples.next_observations))[:, chosen]
        target, _ = model._target(
            samples._replace(rewards=th.zeros(8, 1), discounts=th.ones(8, 1), dones=th.zeros(8, 1)), False
        )
        assert_close(target @ model.q_net.support, expected)


def test_exploration() -> None:
    noisy, greedy = build(VECTORS), build(MODELS["plain DQN"], exploration_final_eps=0.5)
    observation = np.tile(np.array([0.01, 0.02, -0.01, 0.03], np.float32), (400, 1))
    assert len(set(noisy.predict(observation, deterministic=True)[0])) == 1
    # One draw of noise serves the batch, so explore one observation at a time.
    actions = {int(noisy.predict(observation[0], deterministic=False)[0]) for _ in range(60)}
    assert actions == {0, 1} and noisy.exploration_rate == 0.0
    greedy.learn(60)
    assert greedy.exploration_rate == 0.5
    best = int(greedy.predict(observation[0], deterministic=True)[0])
    explored = greedy.predict(observation, deterministic=False)[0]
    # A quarter of the actions differ; five standard errors are 0.11.
    assert abs((explored != best).mean() - 0.25) < 0.11
    assert np.shape(greedy.predict(observation[0])[0]) == ()


def test_returns_of_three_steps_by_hand() -> None:
    """Two games of Catch, of nine steps each, with rewards at their ends only."""
    model = build(PIXELS, learning_starts=100, gamma=0.5).learn(20)
    batch = model.replay_buffer.read(th.arange(20))
    for first in (0, 9):
        end = float(batch.rewards[first + 8])
        assert abs(end) == 1.0
        assert batch.rewards[first : first + 9].flatten().tolist() == [0.0] * 6 + [0.25 * end, 0.5 * end, end]
        assert batch.dones[first : first + 9].flatten().tolist() == [0.0] * 6 + [1.0] * 3
        assert batch.discounts[first : first + 9].flatten().tolist() == [0.125] * 7 + [0.25, 0.5]
        assert th.equal(batch.next_observations[first : first + 6], batch.observations[first + 3 : first + 9])
    # The third game goes on: one step of it is known after the last transition but one.
    assert batch.discounts[18:].flatten().tolist() == [0.25, 0.5] and not batch.dones[18:].any()


def test_nothing_is_bootstrapped_after_the_end() -> None:
    """The target of a game's last three transitions is their return; that of the others is what the target network says."""
    model = build(PIXELS, learning_starts=100).learn(10)
    with th.no_grad():
        model.q_net_target.head.value.bias_mu[45:] += 10.0  # worth 9 everywhere
    batch = model.replay_buffer.read(th.arange(9))
    target, clipped = model._target(batch, noisy=False)
    means = target @ model.q_net.support
    assert_close(means[6:], batch.rewards[6:, 0], atol=1e-4, rtol=0)
    assert (means[:6] > 7).all() and float(clipped["clipped_targets"]) == 0.0
    assert_close(target.sum(1), th.ones(9))


def test_new_transitions_come_with_the_largest_priority() -> None:
    model = build(VECTORS, learning_starts=100).learn(30)
    buffer = model.replay_buffer
    assert isinstance(buffer, PrioritizedFrameReplayBuffer)
    assert buffer.priorities(th.arange(31)).tolist() == [1.0] * 30 + [0.0]
    buffer.update_priorities(th.tensor([3, 4]), th.tensor([7.0, 0.25]))
    model.learn(1, reset_num_timesteps=False)
    assert buffer.priorities(th.tensor([3, 4, 5, 30])).tolist() == [7.0, 0.25, 1.0, 7.0]
    buffer.update_priorities(th.tensor([3]), th.tensor([2.0]))
    assert float(buffer.max_priority) == 7.0  # that there has been, not that there is


def test_weights_by_hand() -> None:
    model = build(VECTORS, learning_starts=100)
    model.learn(4)
    buffer = model.replay_buffer
    buffer.update_priorities(th.arange(4), th.tensor([1.0, 4.0, 4.0, 16.0]))
    for beta, weights in {0.5: [1.0, 0.5, 0.5, 0.25], 1.0: [1.0, 0.25, 0.25, 1 / 16], 0.0: [1.0] * 4}.items():
        buffer.set_beta(beta)
        np.random.seed(0)
        batch = buffer.sample(2_000)
        assert_close(batch.weights.squeeze(1), th.tensor(weights)[batch.positions])
    counts = th.bincount(batch.positions, minlength=4) / 2_000
    assert_close(counts, th.tensor([1.0, 4.0, 4.0, 16.0]) / 25, atol=0.06, rtol=0)  # five standard errors


def test_beta_is_annealed() -> None:
    model = build(VECTORS, priority_beta=0.4, priority_beta_final=1.0)
    model.learn(60)
    assert model.beta_schedule(model._current_progress_remaining) == pytest.approx(1.0)
    assert float(model.replay_buffer.beta) == pytest.approx(1.0)
    assert build(VECTORS).beta_schedule(0.3) == 0.5


BUFFERS: dict[str, dict[str, Any]] = {
    "enough frames": {"episode_length": 9},
    "frames used up": {"episode_length": 1_000, "frame_stack": 1},
    "whole returns": {"episode_length": 9, "partial_returns": False},
}


@pytest.mark.filterwarnings("ignore:Episodes are shorter than")
@pytest.mark.parametrize("options", BUFFERS.values(), ids=BUFFERS)
def test_overwritten_transitions_lose_their_priority(options: dict[str, Any]) -> None:
    """In a buffer that has gone round, what can be drawn has a priority, and nothing else."""
    model = build(PIXELS, buffer_size=60, replay_buffer_kwargs=options, train_freq=4)
    model.learn(190)
    buffer, places = model.replay_buffer, th.arange(60)
    starts = buffer.is_start(places)
    assert 20 < int(starts.sum()) and (options["episode_length"] == 9 and options.get("partial_returns", True)) == starts.all()
    assert th.equal(buffer.priorities(places) > 0, starts)
    assert float(buffer._tree.total()) == pytest.approx(float(buffer.priorities(places).sum()))
    drawn = buffer.draw(500)
    assert buffer.is_start(drawn).all()
    buffer.reset()
    with pytest.raises(ValueError, match="collect more"):
        buffer.sample(3)


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0, float("inf")])
def test_bad_priorities(bad: float) -> None:
    model = build(VECTORS, learning_starts=100).learn(10)
    before = model.replay_buffer.priorities(th.arange(10))
    with pytest.raises(ValueError, match="must be positive and finite, got"):
        model.replay_buffer.update_priorities(th.tensor([1, 2]), th.tensor([1.0, bad]))
    assert th.equal(model.replay_buffer.priorities(th.arange(10)), before)


def test_divergence_ends_training_and_leaves_priorities_sound() -> None:
    model = build(VECTORS).learn(30)
    with th.no_grad():
        model.q_net.head.value.weight_mu[0, 0] = float("nan")
    with pytest.raises(DivergenceError, match="loss"):
        model.train(1, 8)
    assert th.isfinite(model.replay_buffer._tree.leaves).all()


def test_a_support_that_is_too_narrow_is_told_once() -> None:
    arguments = {**VECTORS, "policy_kwargs": {"net_arch": [16], "v_min": -0.5, "v_max": 0.5}}
    with pytest.warns(UserWarning, match=r"beyond the support \[-0.5, 0.5\]") as caught:
        build(arguments).learn(150)
    assert sum("beyond the support" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*support.*")
        build(VECTORS).learn(150)


class Turned(gym.ObservationWrapper):
    """One frame, channels last."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (10, 10, 1), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[-1][:, :, None]


STACKS = {
    "an attribute": (Catch, 2),
    "VecFrameStack": (lambda: VecFrameStack(VecTransposeImage(DummyVecEnv([lambda: Turned(Catch())])), 3), 3),
    "nothing tells": (lambda: gym.wrappers.TransformObservation(_Anonymous(), np.copy, Catch.observation_space), 1),
}


class _Anonymous(gym.Env):
    observation_space, action_space = Catch.observation_space, Catch.action_space

    def __init__(self) -> None:
        self.catch = Catch()

    def reset(self, **kwargs: Any) -> Any:
        return self.catch.reset(**kwargs)

    def step(self, action: int) -> Any:
        return self.catch.step(action)


@pytest.mark.parametrize(("make", "frames"), STACKS.values(), ids=STACKS)
def test_frames_are_stored_once_where_it_is_known_how_many_are_stacked(make: Any, frames: int) -> None:
    warned = pytest.warns(UserWarning, match="Nothing tells.*frame_stack=2 if they are grey") if frames == 1 else nullcontext()
    with warned:
        model = DER("CnnPolicy", make(), device="cpu", policy_kwargs=PIXELS["policy_kwargs"], **SMALL)
    assert model.frame_stack == model.replay_buffer.frame_stack == frames
    model.learn(30)
    batch = model.replay_buffer.sample(8)
    assert batch.observations.shape[1:] == model.observation_space.shape and batch.observations.dtype == th.uint8


@pytest.mark.parametrize(
    "given", [{"frame_stack": 2}, {"replay_buffer_kwargs": {"frame_stack": 2}}], ids=["argument", "buffer's"]
)
def test_frames_can_be_told(given: dict[str, Any], tmp_path: Path) -> None:
    env = STACKS["nothing tells"][0]()
    model = DER("CnnPolicy", env, device="cpu", policy_kwargs=PIXELS["policy_kwargs"], **SMALL, **given).learn(20)
    model.save(tmp_path / "model")
    assert model.frame_stack == model.replay_buffer.frame_stack == 2
    for loaded in (DER.load(tmp_path / "model", env=env), DER.load(tmp_path / "model")):
        assert loaded.frame_stack == 2 and loaded.replay_buffer is None


def test_gymnasium_s_frame_stack() -> None:
    env = FrameStackObservation(gym.make("CartPole-v1"), 4)
    model = DER("MlpPolicy", env, device="cpu", policy_kwargs=VECTORS["policy_kwargs"], **SMALL)
    assert model.frame_stack == 4
    assert model.learn(40).replay_buffer.size() == 40


def test_several_environments_and_normalised_ones() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3))
    model = DER("MlpPolicy", env, device="cpu", policy_kwargs=VECTORS["policy_kwargs"], **SMALL)
    model.learn(90)
    assert model.replay_buffer.size() == 30 and model._n_calls == 30
    assert model._n_updates == 24


def test_other_extractors() -> None:
    kwargs = {"features_extractor_class": NatureCNN, "features_extractor_kwargs": {"features_dim": 8}, "net_arch": [8]}

    class Large(Catch):
        observation_space = spaces.Box(0, 255, (2, 40, 40), np.uint8)

        def _observation(self) -> np.ndarray:
            return np.kron(super()._observation(), np.ones((4, 4), np.uint8))

    model = DER("CnnPolicy", Large(), device="cpu", policy_kwargs={**kwargs, "sparsity": 0.5}, **SMALL).learn(30)
    assert sparsity.summary(model.q_net).sparsity == pytest.approx(0.5, abs=0.01)
    nature = DER("CnnPolicy", Large(), device="cpu", policy_kwargs={"encoder": "nature", "width_scale": 0.125}, **SMALL)
    assert nature.q_net.features_extractor.features_dim == 8
    with pytest.raises(ValueError, match="options of ImageExtractor"):
        DER("CnnPolicy", Large(), device="cpu", policy_kwargs={**kwargs, "width_scale": 2.0}, **SMALL)


@pytest.mark.parametrize("arguments", [MODELS["sparse pixels"], MODELS["sparse vectors"]], ids=["pixels", "vectors"])
def test_callbacks(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = build(arguments)
    masks = [layer.indices.clone() for _, layer in sparsity.sparse_layers(model.q_net)]
    plasticity = PlasticityCallback(20, batch_size=16, covariance_freq=20, path=tmp_path / "plasticity.csv")
    redo = ReDoCallback(15, tau=0.3, batch_size=16)
    model.learn(60, callback=[plasticity, redo, ResetCallback(50)])
    text = (tmp_path / "plasticity.csv").read_text()
    for metric in ("dormant_0.1", "srank", "gradient_norm", "parameter_norm", "gradient_interference"):
        assert f",{metric}," in text, metric
    assert redo.recycled["q_net"] > 0
    after = [layer.indices for _, layer in sparsity.sparse_layers(model.q_net)]
    assert all(th.equal(a, b) for a, b in zip(masks, after, strict=True))


def test_recycled_units_are_drawn_as_the_network_draws_them() -> None:
    """LeCun-normal within IMPALA's blocks: no weight beyond two standard deviations before truncation, and no bias."""
    model = build(MODELS["sparse pixels"]).learn(30)
    block = model.q_net.features_extractor.encoder.stacks[2].blocks[0]
    with th.no_grad():
        block.first.bias.fill_(-100.0)
    callback = ReDoCallback(1_000, tau=0.0, batch_size=16)
    callback.init_callback(model)
    assert callback.recycle()["q_net"] >= len(block.first.bias)
    bound = 2 * (1 / 36) ** 0.5 / 0.8796  # of 4 channels with 3x3 weights each
    weights = block.first.weight.detach()
    assert not block.first.bias.any() and 0.1 < float(weights.abs().max()) <= bound
    assert not block.second.weight.any()


def test_reset_draws_noisy_networks_anew() -> None:
    model = build(MODELS["sparse pixels"]).learn(40)
    callback = ResetCallback(1_000)
    callback.init_callback(model)
    callback.reset()
    hidden = model.q_net.head.hidden[0]
    assert_close(hidden.sigma_values, th.full_like(hidden.sigma_values, 0.5 / hidden.in_features**0.5))
    assert all(th.equal(a, b) for a, b in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "continuous actions": ({**VECTORS, "env": "Pendulum-v1"}, "Discrete|discrete"),
    "support": ({**VECTORS, "policy_kwargs": {"v_min": 1.0, "v_max": 1.0}}, "v_min must be less than v_max"),
    "infinite support": ({**VECTORS, "policy_kwargs": {"v_max": float("inf")}}, "v_min must be less than v_max"),
    "atoms": ({**VECTORS, "policy_kwargs": {"n_atoms": 1}}, "n_atoms must be an integer of at least 2"),
    "sigma": ({**VECTORS, "policy_kwargs": {"sigma_0": 0.0}}, "sigma_0"),
    "width": ({**PIXELS, "policy_kwargs": {"width_scale": 0.001}}, "leaves a layer without channels"),
    "encoder": ({**PIXELS, "policy_kwargs": {"encoder": "resnet"}}, "'impala', 'nature'"),
    "small images": ({**PIXELS, "policy_kwargs": {"encoder": "nature"}}, "too small"),
    "vectors for a CNN": ({**VECTORS, "policy": "CnnPolicy", "policy_kwargs": {}}, "takes images"),
    "sparsity": ({**VECTORS, "policy_kwargs": {"sparsity": 1.0}}, "sparsity"),
    "by network": ({**VECTORS, "policy_kwargs": {"sparsity": {"actor": 0.5, "critic": 0.5}}}, "one network"),
    "n_steps": ({**VECTORS, "n_steps": 0}, "n_steps must be an integer of at least 1"),
    "buffer's n_steps": ({**VECTORS, "replay_buffer_kwargs": {"n_steps": 5}}, "argument of DER"),
    "two frame stacks": (
        {**PIXELS, "frame_stack": 1, "replay_buffer_kwargs": {"frame_stack": 2}},
        "frame_stack=1, but replay_buffer_kwargs has frame_stack=2",
    ),
    "exponent": ({**VECTORS, "priority_exponent": -0.1}, r"priority_exponent must be a number in \[0, 1\]"),
    "beta": ({**VECTORS, "priority_beta_final": 1.5}, "priority_beta_final"),
    "tau": ({**VECTORS, "tau": "1"}, "tau must be a number"),
    "gradient norm": ({**VECTORS, "max_grad_norm": 0.0}, "max_grad_norm"),
    "another policy": ({**VECTORS, "policy": "MultiInputPolicy"}, "unknown|Unknown"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, AssertionError, TypeError), match=message):
        build(arguments)


def test_a_buffer_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = build(VECTORS).learn(30)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    uniform = build(VECTORS, prioritized=False)
    kept = uniform.replay_buffer
    with pytest.raises(ValueError, match="prioritized=False needs a FrameReplayBuffer"):
        uniform.load_replay_buffer(tmp_path / "buffer.pkl")
    assert uniform.replay_buffer is kept and type(kept) is FrameReplayBuffer
    longer = build(VECTORS, n_steps=5)
    with pytest.warns(UserWarning, match="n_steps=3"):
        longer.load_replay_buffer(tmp_path / "buffer.pkl")
    assert longer.replay_buffer.n_steps == 5


def test_a_buffer_of_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    build(VECTORS).learn(30).save_replay_buffer(tmp_path / "buffer.pkl")
    model = build(VECTORS, env=DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2))
    with pytest.raises(ValueError, match="transitions of 1 environments, the model has 2 environments"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")


def test_a_frozen_network_is_not_trained() -> None:
    model = build(VECTORS).learn(30)
    model.q_net.requires_grad_(False)
    before = parameters(model)
    with pytest.warns(UserWarning, match=r"DER does not train policy: all parameters are frozen"):
        model.train(3, 8)
    assert all(th.equal(before[name], value) for name, value in parameters(model).items())


def test_model_card_tells_sizes_of_the_online_network() -> None:
    model_card = pytest.importorskip("sb3_sparse.zoo.model_card")
    policy = build(MODELS["sparse pixels"]).policy
    (line,) = model_card._sizes(model_card._networks(policy))
    assert line[0] == "q_net" and float(line[3]) == pytest.approx(0.5, abs=0.01)
    assert ("encoder, width scale", "impala, 0.125") in list(model_card._pruning(policy))


def test_loading_with_another_discount(tmp_path: Path) -> None:
    options = {"episode_length": 5}
    model = build(VECTORS, replay_buffer_kwargs=options).learn(25)
    assert options == {"episode_length": 5}
    model.save(tmp_path / "model.zip")
    loaded = DER.load(tmp_path / "model.zip", env=model.get_env(), device="cpu", gamma=0.9, n_steps=5)
    loaded.learn(30)
    assert (loaded.replay_buffer.gamma, loaded.replay_buffer.n_steps) == (0.9, 5)
    assert loaded.replay_buffer_kwargs == {"episode_length": 5}


def test_a_loaded_buffer_sums_rewards_as_the_model_does(tmp_path: Path) -> None:
    build(VECTORS).learn(25).save_replay_buffer(tmp_path / "buffer.pkl")
    model = build(VECTORS, n_steps=5, gamma=0.9)
    with pytest.warns(UserWarning, match="from now on it is 5 and 0.9"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert float(model.replay_buffer.sample(30).discounts.min()) == pytest.approx(0.9**5)


def test_copies_are_independent() -> None:
    model = build(MODELS["sparse vectors"]).learn(30)
    twin = copy.deepcopy(model.policy)
    before = parameters(model)
    with th.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert_same(before, parameters(model))
    assert isinstance(twin, type(model.policy)) and not isinstance(twin, CnnPolicy)


def test_benchmark() -> None:
    costs = der_cost([0.0625], [0.5], rounds=1, updates=1, device="cpu")
    plain, ours = costs
    assert ours.parameters == pytest.approx(plain.parameters / 2, rel=0.01)
    assert all(time > 0 for cost in costs for time in cost.update_ms)
    assert "DER, S=0.5" in format_der_table(costs)
    with pytest.raises(ValueError, match="at least 1"):
        der_cost([1.0], [0.5], rounds=0)


def test_catch_is_a_sound_environment() -> None:
    check_env(Catch(), warn=False)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("overall", [0.0, 0.5])
def test_learns_pixels(overall: float) -> None:
    kwargs = {"net_arch": [64], "width_scale": 0.25, "v_min": -1.5, "v_max": 1.5, "n_atoms": 21, "sparsity": overall}
    arguments = {"learning_starts": 200, "learning_rate": 5e-4, "n_steps": 3, "target_update_interval": 100, "seed": 0}
    model = DER("CnnPolicy", Catch(), policy_kwargs=kwargs, device="cpu", **arguments).learn(10_000)
    # Without moving, three columns in ten are caught: a mean return of -0.4.
    assert evaluate_policy(model, Monitor(Catch()), n_eval_episodes=100)[0] > 0.8


@pytest.fixture
def cartpole() -> Iterator[dict[str, Any]]:
    entry = our_hyperparameters("der", "CartPole-v1")
    assert entry is not None
    yield entry


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_solves_cartpole(cartpole: dict[str, Any], seed: int) -> None:
    """By the zoo's command of the README, without the zoo."""
    steps, kwargs = int(cartpole.pop("n_timesteps")), eval(cartpole.pop("policy_kwargs"))
    rate = cartpole.pop("learning_rate")
    assert cartpole.pop("policy") == "sb3_sparse.der.MlpPolicy" and rate.startswith("lin_")
    initial = float(rate.removeprefix("lin_"))
    model = DER(
        "MlpPolicy", "CartPole-v1", lambda left: initial * left, policy_kwargs=kwargs, seed=seed, device="cpu", **cartpole
    )
    model.learn(steps)
    env = Monitor(gym.make("CartPole-v1"))
    env.reset(seed=100 + seed)
    assert evaluate_policy(model, env, n_eval_episodes=100)[0] >= 475


def test_every_entry_of_the_file_is_read() -> None:
    path = Path(__file__).parent.parent / "hyperparams" / "der.yml"
    entries = yaml.safe_load(path.read_text())
    games = [name for name in entries if name.startswith("ALE/")]
    assert len(games) == 26 and all(entries[game] == entries["atari"] for game in games)
