import copy
import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_sparse import SparseSimBaPolicy, SparseSimBaTD3Policy, SparseSimBaTQCPolicy
from sb3_sparse.sparsity import SparseLayer, sparse_layers, summary

MODELS = [
    (SAC, SparseSimBaPolicy),
    (TD3, SparseSimBaTD3Policy),
    (DDPG, SparseSimBaTD3Policy),
    (TQC, SparseSimBaTQCPolicy),
]
# SB3's DDPG is its TD3 with other arguments, on the same policy.
each_model = pytest.mark.parametrize(
    "model_class, policy", [pytest.param(*model, marks=pytest.mark.slow) if model[0] is DDPG else model for model in MODELS]
)
each_model_and_sparsity = pytest.mark.parametrize(
    "model_class, policy, sparsity", [(*MODELS[0], 0.0), *((*model, 0.8) for model in MODELS if model[0] is not DDPG)]
)
NO_LIMITS = spaces.Box(-np.inf, np.inf, (3,))
VECTOR_ACTIONS = spaces.Box(-1, 1, (2,))
OBSERVATIONS = {
    "vector": NO_LIMITS,
    "matrix": spaces.Box(-10, 10, (2, 3)),
    "discrete": spaces.Discrete(4),
    "dict": spaces.Dict(
        box=spaces.Box(90, 110, (2,)), matrix=spaces.Box(-1, 1, (2, 2)), choice=spaces.Discrete(3), bits=spaces.MultiBinary(4)
    ),
}


class RandomEnv(gym.Env):
    """Observations are drawn from the space; the reward is the mean action. Episodes are truncated after ten steps."""

    def __init__(self, observation_space: spaces.Space = NO_LIMITS, action_space: spaces.Box = VECTOR_ACTIONS):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), float(np.mean(action)), False, self.steps == 10, {}


class CopyEnv(RandomEnv):
    """The reward is the negative distance between action and observation."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)))

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self.last, info = super().reset(**kwargs)
        return self.last, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        reward = -float(np.abs(action - self.last).mean())
        self.last, _, terminated, truncated, info = super().step(action)
        return self.last, reward, terminated, truncated, info


class DriftingEnv(RandomEnv):
    """The mean of the observations moves from 0 to 3 while the environment is used."""

    ever = 0

    def observe(self) -> np.ndarray:
        self.ever += 1
        return self.np_random.normal([3.0, 0.0, 100.0], [1.0, 0.1, 10.0]).astype(np.float32) - [
            3.0 * np.exp(-self.ever / 200),
            0.0,
            0.0,
        ]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return self.observe(), *super().step(action)[1:]


class DoubleExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box, features_dim: int = 16):
        super().__init__(observation_space, features_dim)
        self.linear = nn.Linear(observation_space.shape[0], features_dim)
        self.seen: list[th.Tensor] = []

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.seen.append(observations.detach())
        return self.linear(observations)


def make(model_class: type[OffPolicyAlgorithm], policy: type, env: Any = None, **kwargs: Any) -> OffPolicyAlgorithm:
    policy_kwargs = {"width_scale": 0.0625, **kwargs.pop("policy_kwargs", {})}
    defaults = dict(learning_starts=20, batch_size=16, buffer_size=2000, seed=0, device="cpu", learning_rate=1e-3)
    return model_class(policy, env or RandomEnv(), policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def masks(module: nn.Module) -> dict[str, th.Tensor]:
    return {name: layer.indices.clone() for name, layer in sparse_layers(module)}


def same(a: dict[str, th.Tensor], b: dict[str, th.Tensor]) -> bool:
    return a.keys() == b.keys() and all(th.equal(a[name], b[name]) for name in a)


def statistics(model: OffPolicyAlgorithm) -> list[th.Tensor]:
    return [buffer.clone() for buffer in model.policy.normalizer.buffers()]


@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_the_normaliser_has_an_entry_for_each_of_the_flat_observation(observations) -> None:
    space = OBSERVATIONS[observations]
    assert make(SAC, SparseSimBaPolicy, RandomEnv(space)).policy.normalizer.dim == spaces.flatdim(space)


@each_model
def test_actions_use_all_of_the_space(model_class, policy) -> None:
    action_space = spaces.Box(np.array([-2.0, 5.0], np.float32), np.array([1.0, 7.0], np.float32))
    model = make(model_class, policy, RandomEnv(action_space=action_space), policy_kwargs=dict(sparsity=0.8))
    actions = np.stack([model.predict(NO_LIMITS.sample() * 100, deterministic=False)[0] for _ in range(20)])
    assert all(action_space.contains(action) for action in actions)
    # The middle is that of the space rather than of [-1, 1].
    middle = (action_space.low + action_space.high) / 2
    with th.no_grad():
        for layer in (model.actor.mu if model_class in (SAC, TQC) else model.actor.mu.head,):
            for parameter in layer.parameters():
                parameter.zero_()
    np.testing.assert_allclose(model.predict(NO_LIMITS.sample(), deterministic=True)[0], middle, atol=1e-5)


def test_dict_observations_in_any_order() -> None:
    space = OBSERVATIONS["dict"]
    model = make(SAC, SparseSimBaPolicy, RandomEnv(space), policy_kwargs=dict(sparsity=0.5)).learn(40)
    observation = space.sample()
    backwards = dict(reversed(observation.items()))
    assert list(backwards) != list(observation)
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(model.predict(backwards, deterministic=True)[0], expected)


def test_dict_entries_are_normalised_each_by_its_own_statistics() -> None:
    space = OBSERVATIONS["dict"]
    model = make(SAC, SparseSimBaPolicy, RandomEnv(space)).learn(150)
    batch = model.replay_buffer.sample(256).observations
    preprocessed = model.critic._preprocess(batch)
    normalised = model.policy.normalizer(preprocessed)
    assert {key: value.shape for key, value in normalised.items()} == {k: v.shape for k, v in preprocessed.items()}
    for value in normalised.values():
        flat = value.flatten(1)
        assert flat.mean(0).abs().max() < 0.3 and (flat.std(0) - 1).abs().max() < 0.3


@each_model
def test_defaults_are_the_papers(model_class, policy) -> None:
    model = model_class(policy, RandomEnv(), buffer_size=10, device="cpu")
    made = model.policy
    assert made.sparsity == 0.0 and not any(sparse_layers(made))
    assert (made.pruning.distribution, made.pruning.budget, made.normalize_observations) == ("erdos_renyi", "all", True)
    assert len(model.critic.q_networks) == (2 if model_class in (TD3, TQC) else 1)
    actor_encoder = model.actor.latent_pi if model_class in (SAC, TQC) else model.actor.mu.encoder
    critic_encoder = model.critic.qf0.encoder
    assert (actor_encoder.hidden_dim, actor_encoder.num_blocks) == (128, 1)
    assert (critic_encoder.hidden_dim, critic_encoder.num_blocks) == (512, 2)
    for optimizer, network in ((model.actor.optimizer, model.actor), (model.critic.optimizer, model.critic)):
        assert type(optimizer) is th.optim.AdamW
        (group,) = optimizer.param_groups
        assert (group["weight_decay"], group["betas"], group["eps"]) == (1e-2, (0.9, 0.999), 1e-8)
        # Biases and normalisation decay too.
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}


def test_log_std_range() -> None:
    model = make(SAC, SparseSimBaPolicy)
    observations = th.zeros(1, 3)
    for bias, expected in ((-100.0, -10.0), (0.0, -4.0), (100.0, 2.0)):
        with th.no_grad():
            model.actor.log_std.weight.zero_()
            model.actor.log_std.bias.fill_(bias)
        assert model.actor.get_action_dist_params(observations)[1].flatten().tolist() == pytest.approx([expected] * 2)


@each_model
def test_sparsity_by_network(model_class, policy) -> None:
    kwargs = dict(sparsity={"actor": 0.0, "critic": 0.7}, width_scale=0.25)
    model = make(model_class, policy, policy_kwargs=kwargs)
    assert not any(sparse_layers(model.actor))
    for q_network in model.critic.q_networks:
        assert summary(q_network).sparsity == pytest.approx(0.7, abs=1e-3)
    model = make(model_class, policy, policy_kwargs={**kwargs, "sparsity": {"actor": 0.6, "critic": 0.0}})
    assert summary(model.actor).sparsity == pytest.approx(0.6, abs=1e-3)
    assert not any(sparse_layers(model.critic))


@each_model
@pytest.mark.parametrize("distribution", ["erdos_renyi", "uniform"])
@pytest.mark.parametrize("budget", ["all", "weights"])
def test_distribution_and_budget(model_class, policy, distribution, budget) -> None:
    kwargs = dict(sparsity=0.8, width_scale=0.25, distribution=distribution, budget=budget, n_critics=2)
    model = make(model_class, policy, policy_kwargs=kwargs)
    for network in (model.actor, *model.critic.q_networks):
        weights = [layer for layer in summary(network).values()]
        active, total = sum(layer.active for layer in weights), sum(layer.total for layer in weights)
        if (distribution, budget) == ("erdos_renyi", "all"):
            assert summary(network).sparsity == pytest.approx(0.8, abs=2e-3)
        else:
            assert 1 - active / total == pytest.approx(0.8, abs=2e-3)
        if distribution == "uniform":
            assert all(layer.sparsity == pytest.approx(0.8, abs=0.02) for layer in weights)


@each_model
def test_mask_seed(model_class, policy) -> None:
    def policy_masks(**kwargs: Any) -> dict[str, th.Tensor]:
        seed = kwargs.pop("seed")
        return masks(make(model_class, policy, seed=seed, policy_kwargs=dict(sparsity=0.8, **kwargs)).policy)

    given = policy_masks(seed=0, mask_seed=3)
    assert given and same(given, policy_masks(seed=1, mask_seed=3))
    assert same(given, policy_masks(seed=1, mask_seed=np.int64(3)))
    assert not same(given, policy_masks(seed=0, mask_seed=4))
    drawn = policy_masks(seed=0)
    assert same(drawn, policy_masks(seed=0))
    assert not same(drawn, policy_masks(seed=1))


def test_mask_seed_does_not_touch_the_weights() -> None:
    dense = make(SAC, SparseSimBaPolicy, policy_kwargs=dict(sparsity=0.0, mask_seed=1)).policy
    sparse = make(SAC, SparseSimBaPolicy, policy_kwargs=dict(sparsity=0.8, mask_seed=2)).policy
    for name, layer in sparse_layers(sparse.critic):
        assert th.equal(layer.values, layer.topology.gather(dense.critic.get_submodule(name).weight))


@each_model
def test_each_critic_has_its_own_masks(model_class, policy) -> None:
    model = make(model_class, policy, policy_kwargs=dict(sparsity=0.8, n_critics=3, mask_seed=0))
    found = [masks(q_network) for q_network in model.critic.q_networks]
    assert len(found) == 3 and found[0]
    assert not any(same(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def check_sharing(policy: Any) -> None:
    pairs = [("critic", "critic_target")] + ([("actor", "actor_target")] if hasattr(policy, "actor_target") else [])
    networks = [getattr(policy, name) for pair in pairs for name in pair] + [policy.actor]
    assert all(network.normalizer is policy.normalizer for network in networks)
    for online, target in pairs:
        layers = dict(sparse_layers(getattr(policy, online)))
        counterparts = dict(sparse_layers(getattr(policy, target)))
        assert layers and layers.keys() == counterparts.keys()
        for name, layer in layers.items():
            assert layer.topology is counterparts[name].topology
            assert layer.values is not counterparts[name].values


@each_model
def test_shared_modules_stay_shared(model_class, policy, tmp_path) -> None:
    model = make(model_class, policy, policy_kwargs=dict(sparsity=0.8)).learn(30)
    check_sharing(model.policy)
    check_sharing(model.policy.to("cpu"))
    # A change of type replaces every buffer.
    doubled = copy.deepcopy(model.policy).to(th.float64)
    assert doubled.normalizer.mean.dtype == th.float64
    check_sharing(doubled)
    model.save(tmp_path / "model")
    check_sharing(model_class.load(tmp_path / "model").policy)
    model.policy.save(tmp_path / "policy")
    check_sharing(policy.load(tmp_path / "policy"))
    buffer = io.BytesIO()
    th.save(model.policy, buffer)
    buffer.seek(0)
    check_sharing(th.load(buffer, weights_only=False))


@each_model
def test_copies_are_independent(model_class, policy) -> None:
    model = make(model_class, policy, policy_kwargs=dict(sparsity=0.8)).learn(30)
    duplicate, observation = copy.deepcopy(model.policy), NO_LIMITS.sample()
    before = duplicate.predict(observation, deterministic=True)[0]
    model.learn(30)
    np.testing.assert_array_equal(duplicate.predict(observation, deterministic=True)[0], before)
    assert not np.array_equal(model.predict(observation, deterministic=True)[0], before)


@each_model_and_sparsity
def test_target_output_follows(model_class, policy, sparsity) -> None:
    model = make(model_class, policy, policy_kwargs=dict(sparsity=sparsity, normalize_observations=False), tau=0.5)
    observations, actions = th.randn(16, 3), th.rand(16, 2) * 2 - 1
    model.learn(22)

    def outputs() -> tuple[th.Tensor, th.Tensor]:
        with th.no_grad():
            return model.critic(observations, actions)[0], model.critic_target(observations, actions)[0]

    online, target = outputs()
    for network in (model.actor, model.critic):
        network.optimizer.param_groups[0]["lr"] = 0.0
    model.lr_schedule = lambda _: 0.0
    model.train(1 if model_class in (SAC, TQC) else 2, 16)
    assert th.equal(outputs()[0], online)
    moved = outputs()[1]
    assert (moved - target).norm() > 0
    # With a frozen online network, the target converges to it.
    model.train(80, 16)
    th.testing.assert_close(outputs()[1], online, rtol=1e-4, atol=1e-4)


@each_model
@pytest.mark.parametrize("kwargs", [{}, dict(n_critics=3), dict(share_features_extractor=True)], ids=str)
def test_normalizer_moves_once_per_gradient_step(model_class, policy, kwargs) -> None:
    model = make(model_class, policy, gradient_steps=3, policy_kwargs=dict(sparsity=0.5, **kwargs))
    if model_class is TD3:
        assert model.policy_delay == 2
    batches = []
    sample = model.replay_buffer.sample
    model.replay_buffer.sample = lambda *args, **kw: batches.append(sample(*args, **kw)) or batches[-1]
    model.learn(31)
    assert model._n_updates == len(batches) == 33
    assert model.policy.normalizer.num_batches == 33
    # With weights 1/k so far, the statistics are those of all batches together: the stored observations, not the next ones.
    everything = th.cat([batch.observations for batch in batches])
    th.testing.assert_close(model.policy.normalizer.mean, everything.mean(0))
    th.testing.assert_close(model.policy.normalizer.var, everything.var(0, correction=0))


@each_model
def test_normalizer_rests_outside_training(model_class, policy) -> None:
    model = make(model_class, policy).learn(30)
    before = statistics(model)
    env = Monitor(RandomEnv())
    model.predict(NO_LIMITS.sample())
    evaluate_policy(model, env, n_eval_episodes=2)
    with th.no_grad():
        model.critic(th.randn(4, 3), th.rand(4, 2))
    model.policy.set_training_mode(False)
    model.critic(th.randn(4, 3), th.rand(4, 2))
    assert all(map(th.equal, before, statistics(model)))

    class Compare(BaseCallback):
        def _on_step(self) -> bool:
            # Here nothing has trained since the last step.
            self.model.evaluations = [*getattr(self.model, "evaluations", []), int(self.model.policy.normalizer.num_batches)]
            return True

    model.learn(
        12, callback=[EvalCallback(env, eval_freq=2, n_eval_episodes=1, verbose=0), Compare()], reset_num_timesteps=False
    )
    assert model.policy.normalizer.num_batches == model._n_updates
    first = model.evaluations[0]
    assert model.evaluations == list(range(first, first + 12))


def test_prediction_is_made_before_the_statistics_move() -> None:
    # As the target of the same loss.
    model = make(SAC, SparseSimBaPolicy)
    observations, actions = th.randn(16, 3) * 5 + 5, th.rand(16, 2)
    model.policy.set_training_mode(True)
    with th.no_grad():
        (expected,) = model.critic(observations, actions)
    (q,) = model.critic(observations, actions)
    assert model.policy.normalizer.num_batches == 1
    assert th.equal(q, expected)


@each_model
def test_normalisation_switched_off(model_class, policy) -> None:
    model = make(model_class, policy, policy_kwargs=dict(normalize_observations=False)).learn(40)
    mean, var, num_batches, frozen = statistics(model)
    assert frozen and num_batches == 0 and (mean == 0).all() and (var == 1).all()


@each_model
def test_normalizer_is_not_one_of_sb3s_running_statistics(model_class, policy) -> None:
    model = make(model_class, policy).learn(30)
    stats = [value for name, value in vars(model).items() if "batch_norm_stats" in name]
    assert stats and not any(stats)


def test_statistics_are_those_of_the_replay_buffer() -> None:
    model = make(SAC, SparseSimBaPolicy, DriftingEnv(), gradient_steps=2, policy_kwargs=dict(width_scale=1 / 64)).learn(1000)
    stored = model.replay_buffer.observations[: model.replay_buffer.pos, 0]
    normalizer, std = model.policy.normalizer, stored.std(axis=0)
    assert np.abs((normalizer.mean.numpy() - stored.mean(axis=0)) / std).max() < 0.08
    assert np.abs(normalizer.std.numpy() / std - 1).max() < 0.08


@each_model
def test_only_active_weights_cost_memory(model_class, policy, tmp_path) -> None:
    env = RandomEnv(spaces.Box(-np.inf, np.inf, (67,)), spaces.Box(-1, 1, (21,)))
    costs = []
    for sparsity in (0.0, 0.9):
        kwargs = dict(sparsity=sparsity, width_scale=1.0)
        model = make(model_class, policy, env, policy_kwargs=kwargs, learning_starts=2, batch_size=2, buffer_size=10)
        model.learn(4)
        model.save(tmp_path / "model")
        optimizers = (model.actor.optimizer, model.critic.optimizer)
        state = sum(t.nbytes for o in optimizers for s in o.state.values() for t in s.values() if th.is_tensor(t))
        assert state
        parameters = sum(p.numel() for p in model.policy.parameters() if p.requires_grad)
        costs.append((state, parameters, (tmp_path / "model.zip").stat().st_size))
    (dense_state, dense_parameters, dense_file), (state, parameters, file) = costs
    assert state <= 0.15 * dense_state and parameters <= 0.15 * dense_parameters and file <= 0.25 * dense_file


@each_model
@pytest.mark.parametrize("share", [False, True])
def test_custom_features_extractor(model_class, policy, share, tmp_path) -> None:
    kwargs = dict(
        sparsity=0.8,
        width_scale=0.25,
        share_features_extractor=share,
        features_extractor_class=DoubleExtractor,
        features_extractor_kwargs=dict(features_dim=24),
    )
    model = make(model_class, policy, RandomEnv(spaces.Box(90, 110, (3,))), policy_kwargs=kwargs).learn(60)
    assert (model.actor.features_extractor is model.critic.features_extractor) == share
    assert model.critic.qf0.encoder.input_dim == 24 + 2
    # The extractor sees normalised observations.
    assert model.actor.features_extractor.seen[-1].abs().max() < 20
    model.save(tmp_path / "model")
    loaded, observation = model_class.load(tmp_path / "model"), model.observation_space.sample()
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    model.policy.save(tmp_path / "policy")
    for reloaded in (loaded.policy, policy.load(tmp_path / "policy")):
        assert (reloaded.actor.features_extractor is reloaded.critic.features_extractor) == share


@each_model
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n_critics", [1, 2])
def test_features_extractor_counts_in_its_network(model_class, policy, share, n_critics) -> None:
    kwargs = dict(
        sparsity=0.8,
        width_scale=0.25,
        n_critics=n_critics,
        share_features_extractor=share,
        features_extractor_class=DoubleExtractor,
        features_extractor_kwargs=dict(features_dim=256),
    )
    model = make(model_class, policy, RandomEnv(spaces.Box(-1, 1, (64,))), policy_kwargs=kwargs)
    assert isinstance(model.actor.features_extractor.linear, SparseLayer)
    assert summary(model.actor).sparsity == pytest.approx(0.8, abs=1e-3)
    critics = model.critic.q_networks if share else [model.critic]
    assert all(summary(critic).sparsity == pytest.approx(0.8, abs=1e-3) for critic in critics)
    assert masks(model.critic).keys() == masks(model.critic_target).keys()


@each_model
def test_policy_built_by_hand(model_class, policy) -> None:
    made = policy(NO_LIMITS, VECTOR_ACTIONS, lambda _: 1e-3, sparsity=0.8, width_scale=0.0625)
    assert any(sparse_layers(made))
    assert VECTOR_ACTIONS.contains(made.predict(NO_LIMITS.sample())[0])


@each_model
def test_other_optimizer(model_class, policy) -> None:
    kwargs = dict(sparsity=0.5, optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9))
    model = make(model_class, policy, policy_kwargs=kwargs).learn(30)
    assert type(model.actor.optimizer) is th.optim.SGD
    assert model.critic.optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    "model_class, policy", [MODELS[0], *(pytest.param(*model, marks=pytest.mark.slow) for model in MODELS[1:])]
)
def test_a_task_is_learned(model_class, policy) -> None:
    # Episodes of ten steps: random actions lose 0.67 a step on average, the best ones nothing.
    kwargs = dict(learning_starts=100, gamma=0.0, policy_kwargs=dict(sparsity=0.5, width_scale=0.125))
    temperature = dict(ent_coef=0.01) if model_class in (SAC, TQC) else {}
    model = make(model_class, policy, CopyEnv(), **kwargs, **temperature).learn(900)
    reward, _ = evaluate_policy(model, Monitor(CopyEnv()), n_eval_episodes=5)
    assert reward > -3.0
