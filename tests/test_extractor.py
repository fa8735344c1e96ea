import copy
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_policies import OBSERVATIONS, RandomEnv
from torch import nn

from sb3_sparse import SparseSimBaExtractor, SparseSimBaPolicy, sparsify
from sb3_sparse.networks import DeferredNormalizer
from sb3_sparse.sparsity import SparseLayer, sparse_layers, summary

ON_POLICY = [PPO, A2C]
WITH_TARGETS = [SAC, TD3, DDPG, TQC, DQN, QRDQN]
ALGORITHMS = [*ON_POLICY, *WITH_TARGETS, CrossQ]
TARGETS = {"actor": "actor_target", "critic": "critic_target", "q_net": "q_net_target", "quantile_net": "quantile_net_target"}
each_algorithm = pytest.mark.parametrize(
    "model_class",
    [pytest.param(a, marks=pytest.mark.slow) if a in (A2C, DDPG, TQC, QRDQN) else a for a in ALGORITHMS],  # like the others
)
SPACE = spaces.Box(np.array([90.0, -1.0, 0.0]), np.array([110.0, 1.0, 0.1]), dtype=np.float64)


class DiscreteActions(gym.Wrapper):
    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.action_space = spaces.Discrete(2)

    def step(self, action: int) -> Any:
        return self.env.step(np.full(2, 2.0 * action - 1.0, np.float32))


def make(model_class: Any, env: Any = None, space: spaces.Space = SPACE, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    extractor = {"sparsity": 0.8, "width_scale": 0.25, **kwargs.pop("extractor", {})}
    policy_kwargs = dict(
        features_extractor_class=SparseSimBaExtractor, features_extractor_kwargs=extractor, net_arch=[16]
    ) | kwargs.pop("policy_kwargs", {})
    if issubclass(model_class, OffPolicyAlgorithm):
        kwargs = dict(learning_starts=16, batch_size=8, buffer_size=200, train_freq=1) | kwargs
    elif model_class is PPO:
        kwargs = dict(n_steps=16, batch_size=8, n_epochs=2) | kwargs
    if model_class in (DQN, QRDQN):
        kwargs = dict(target_update_interval=10) | kwargs
    if env is None:
        env = DiscreteActions(RandomEnv(space)) if model_class in (DQN, QRDQN) else RandomEnv(space)
    if isinstance(space, spaces.Dict):
        policy = "MultiInputPolicy"
    return model_class(policy, env, policy_kwargs=policy_kwargs, device="cpu", **{"seed": 0, **kwargs})


def predictions(model: Any) -> np.ndarray:
    model.observation_space.seed(0)
    return model.predict(np.stack([model.observation_space.sample() for _ in range(8)]), deterministic=True)[0]


def extractors(module: nn.Module) -> dict[str, SparseSimBaExtractor]:
    return {name: part for name, part in module.named_modules() if isinstance(part, SparseSimBaExtractor)}


def masks(module: nn.Module) -> list[th.Tensor]:
    return [layer.indices.clone() for _, layer in sparse_layers(module)]


def same(a: list[th.Tensor], b: list[th.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(map(th.equal, a, b))


def pairs(model: Any) -> list[tuple[SparseSimBaExtractor, SparseSimBaExtractor]]:
    networks = [(getattr(model.policy, a), getattr(model.policy, b)) for a, b in TARGETS.items() if hasattr(model.policy, b)]
    return [(online.features_extractor, target.features_extractor) for online, target in networks]


@each_algorithm
def test_train_save_load_predict(model_class, tmp_path) -> None:
    model = make(model_class).learn(48)
    # Saved within an update, as it were: the statistics have not moved yet. Predicting moves them, in the loaded model, too.
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    unpickled, expected = pickle.loads(pickle.dumps(model.policy)), predictions(model)
    loaded = model_class.load(tmp_path / "model", env=model.get_env())
    np.testing.assert_array_equal(predictions(loaded), expected)
    for policy in (type(model.policy).load(tmp_path / "policy"), unpickled, copy.deepcopy(model.policy)):
        policy.set_training_mode(False)
        state = model.policy.state_dict()
        assert all(th.equal(value, state[name]) for name, value in policy.state_dict().items())
    loaded.learn(32, reset_num_timesteps=False)
    assert not np.array_equal(predictions(loaded), expected) or model_class in (DQN, QRDQN)


@pytest.mark.parametrize("model_class", WITH_TARGETS)
def test_target_networks_share_masks_and_follow(model_class) -> None:
    model = make(model_class, tau=0.5)
    assert pairs(model)
    drawn = [masks(online) for online, _ in pairs(model)]
    observation = th.as_tensor(np.stack([SPACE.sample() for _ in range(8)])).float()
    with th.no_grad():
        before = [target.eval()(observation) for _, target in pairs(model)]
    model.learn(48)
    for (online, target), mask, output in zip(pairs(model), drawn, before, strict=True):
        assert same(masks(online), mask) and same(masks(target), mask)
        with th.no_grad():
            assert not th.equal(target(observation), output)
    # With a frozen online network, the target converges to it, statistics included.
    model.lr_schedule = lambda _: 0.0
    if model_class in (DQN, QRDQN):
        model.policy.set_training_mode(False)
        for _ in range(400):
            model._on_step()
    else:
        model._setup_learn(0, reset_num_timesteps=False)
        model.train(80, 8)
    for online, target in pairs(model):
        assert th.equal(online.normalizer.running_mean, target.normalizer.running_mean)
        assert target.normalizer.running_mean[0] > 80
        with th.no_grad():
            th.testing.assert_close(target(observation), online(observation), rtol=1e-3, atol=1e-3)


def test_each_network_has_masks_of_its_own() -> None:
    model = make(SAC)
    assert not same(masks(model.actor.features_extractor), masks(model.critic.features_extractor))
    model = make(PPO, policy_kwargs=dict(share_features_extractor=False))
    assert not same(masks(model.policy.pi_features_extractor), masks(model.policy.vf_features_extractor))
    assert len(extractors(make(PPO).policy)) == 1


def test_mask_seed() -> None:
    def of(**kwargs: Any) -> list[th.Tensor]:
        return masks(make(PPO, **kwargs).policy)

    assert same(of(seed=0), of(seed=0)) and not same(of(seed=0), of(seed=1))
    assert same(of(seed=0, extractor=dict(mask_seed=3)), of(seed=1, extractor=dict(mask_seed=3)))
    assert not same(of(extractor=dict(mask_seed=3)), of(extractor=dict(mask_seed=4)))


@pytest.mark.parametrize("distribution", ["erdos_renyi", "uniform"])
@pytest.mark.parametrize("budget", ["all", "weights"])
def test_sparsity_and_size(distribution, budget) -> None:
    kwargs = dict(distribution=distribution, budget=budget, width_scale=0.5, depth_scale=3)
    extractor = SparseSimBaExtractor(spaces.Box(-1, 1, (20,)), 0.7, **kwargs)
    assert (extractor.features_dim, extractor.encoder.num_blocks) == (64, 3)
    layers = list(summary(extractor.encoder).values())
    active, total = sum(layer.active for layer in layers), sum(layer.total for layer in layers)
    if (distribution, budget) == ("erdos_renyi", "all"):
        assert summary(extractor.encoder).sparsity == pytest.approx(0.7, abs=2e-3)
    else:
        assert 1 - active / total == pytest.approx(0.7, abs=2e-3)
    default = SparseSimBaExtractor(spaces.Box(-1, 1, (20,)))
    assert (default.features_dim, default.encoder.num_blocks) == (128, 1) and not any(sparse_layers(default))


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("model_class", [PPO])
def test_observation_spaces(model_class, observations) -> None:
    space = OBSERVATIONS[observations]
    model = make(model_class, space=space).learn(32)
    model.predict(space.sample())
    assert all(part.normalizer.dim == spaces.flatdim(space) for part in extractors(model.policy).values())


def test_images_and_bad_arguments() -> None:
    with pytest.raises(ValueError, match="SimBa takes vectors, but the observation space is an image"):
        make(PPO, FakeImageEnv(), policy="CnnPolicy")
    with pytest.raises(ValueError, match=r"got 80; for 80 % give 0\.8"):
        make(PPO, extractor=dict(sparsity=80))
    with pytest.raises(ValueError, match="width_scale must be a positive number"):
        make(PPO, extractor=dict(width_scale=0))
    with pytest.raises(ValueError, match="Unknown budget"):
        make(PPO, extractor=dict(budget="half"))
    with pytest.raises(ValueError, match="mask_seed must be an integer"):
        make(PPO, extractor=dict(mask_seed=-1))


@pytest.mark.parametrize("ortho_init", [True, False])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_initialisation_is_simbas(ortho_init, sparsity) -> None:
    # 64 inputs: at this sparsity the projection stays dense.
    space = spaces.Box(-1, 1, (64,))
    policy_kwargs = dict(ortho_init=ortho_init)
    model = make(PPO, space=space, policy_kwargs=policy_kwargs, extractor=dict(sparsity=sparsity, width_scale=0.5))
    encoder = model.policy.features_extractor.encoder
    weight = encoder.projection.weight.detach()
    if not isinstance(encoder.projection, SparseLayer):
        th.testing.assert_close(weight @ weight.T, th.eye(64), atol=1e-4, rtol=0)
    expand = encoder.blocks[0].expand.weight.detach()
    assert expand[expand != 0].std() == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    # What is not the extractor's is initialised as ever.
    assert (model.policy.action_net.weight.norm() < 0.1) == ortho_init
    called = []
    model.policy.features_extractor.apply(called.append)
    assert encoder in called


@pytest.mark.parametrize("model_class", [PPO, TRPO])
def test_first_ratio_of_an_update_is_one(model_class) -> None:
    model = make(model_class, n_steps=16, batch_size=16) if model_class is TRPO else make(PPO, batch_size=16)
    model.learn(64)
    model._setup_learn(16, reset_num_timesteps=False)
    model.collect_rollouts(model.env, DummyCallback(), model.rollout_buffer, n_rollout_steps=16)
    model.policy.set_training_mode(True)
    (batch,) = model.rollout_buffer.get(16)
    for _ in range(2):  # the second one after statistics were pooled
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
        th.testing.assert_close(log_prob, batch.old_log_prob, atol=1e-5, rtol=1e-5)


class DummyCallback:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: True


@each_algorithm
def test_statistics_are_those_of_the_data(model_class) -> None:
    model = make(model_class).learn(160)
    model.policy.set_training_mode(False)
    online = [part for name, part in extractors(model.policy).items() if "target" not in name]
    assert online
    for part in online:
        # Uniform in [90, 110].
        assert part.normalizer.running_mean[0] == pytest.approx(100, abs=1.5)
        assert part.normalizer.running_var[0] == pytest.approx(400 / 12, rel=0.3)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    predictions(model)
    evaluate_policy(model, model.get_env(), 1, warn=False)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())


@each_algorithm
def test_normalisation_switched_off(model_class) -> None:
    model = make(model_class, extractor=dict(normalize_observations=False)).learn(48)
    model.policy.set_training_mode(False)
    for part in extractors(model.policy).values():
        assert (part.normalizer.running_mean == 0).all() and (part.normalizer.running_var == 1).all()


def test_vec_normalize(tmp_path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(SPACE)]))
    with pytest.warns(UserWarning, match="wrapped in VecNormalize"):
        model = make(PPO, env).learn(32)
    assert model.policy.features_extractor.normalizer.frozen
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PPO.load(tmp_path / "model")
    assert loaded.policy.features_extractor.normalizer.frozen
    np.testing.assert_array_equal(predictions(loaded), predictions(model))


@pytest.mark.parametrize("model_class", [DQN, SAC, TQC])
def test_a_part_cannot_move_the_masks(model_class) -> None:
    model, other = make(model_class), make(model_class, seed=5)
    name = "q_net" if model_class is DQN else "critic"
    part, state = model.policy.get_submodule(name), other.policy.get_submodule(name).state_dict()
    before = masks(model.policy)
    for load in (
        lambda: part.load_state_dict(state),
        lambda: part.features_extractor.load_state_dict(
            {k.removeprefix("features_extractor."): v for k, v in state.items() if k.startswith("features_extractor.")}
        ),
        lambda: model.set_parameters({"policy": {f"{name}.{k}": v for k, v in state.items()}}, exact_match=False),
    ):
        with pytest.raises(ValueError, match=r"masks of a SparseSimBaExtractor would change.*the same mask_seed"):
            load()
        assert same(masks(model.policy), before)
    model.set_parameters(other.get_parameters())
    assert same(masks(model.policy), masks(other.policy))
    # Equal masks are no problem.
    model, other = (make(model_class, seed=seed, extractor=dict(mask_seed=1)) for seed in (0, 1))
    model.policy.get_submodule(name).load_state_dict(other.policy.get_submodule(name).state_dict())


@each_algorithm
def test_masks_that_moments_do_not_fit(model_class) -> None:
    model, other = make(model_class).learn(48), make(model_class, seed=5).learn(48)
    parameters = copy.deepcopy(other.get_parameters())
    model.policy.load_state_dict(parameters["policy"])
    with pytest.raises(ValueError, match=r"masks differ from those that the optimizers' moments belong to"):
        model.learn(48)
    model.set_parameters(parameters)
    assert same(masks(model.policy), masks(other.policy))
    model.learn(48)


def test_dense_extractor_loads_anything() -> None:
    model, other = (make(DQN, seed=seed, extractor=dict(sparsity=0.0)) for seed in (0, 1))
    model.q_net.load_state_dict(other.q_net.state_dict())


@pytest.mark.parametrize("model_class", [RecurrentPPO, MaskablePPO, TRPO])
def test_other_algorithms(model_class, tmp_path) -> None:
    env = InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4) if model_class is MaskablePPO else None
    policy = "MlpLstmPolicy" if model_class is RecurrentPPO else "MlpPolicy"
    kwargs = dict(policy_kwargs=dict(lstm_hidden_size=8)) if model_class is RecurrentPPO else {}
    model = make(model_class, env, policy=policy, n_steps=16, batch_size=8, **kwargs).learn(32)
    model.save(tmp_path / "model")
    assert model_class.load(tmp_path / "model").predict(model.observation_space.sample())


@pytest.mark.parametrize("model_class", [SAC, TQC, TD3, PPO, CrossQ])
def test_shared_between_actor_and_critic(model_class, tmp_path) -> None:
    model = make(model_class, policy_kwargs=dict(share_features_extractor=True)).learn(48)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(predictions(model_class.load(tmp_path / "model")), predictions(model))
    for online, target in pairs(model):
        assert same(masks(online), masks(target))


def test_pruning_happens_once() -> None:
    with pytest.raises(ValueError, match="pruned already"):
        sparsify(make(PPO), 0.5)
    with pytest.raises(ValueError, match="pruned already"):
        kwargs = dict(features_extractor_class=SparseSimBaExtractor, features_extractor_kwargs=dict(sparsity=0.5))
        SAC(SparseSimBaPolicy, RandomEnv(), policy_kwargs=dict(sparsity=0.5, width_scale=0.0625, **kwargs), buffer_size=10)


def test_pruned_weights_stay_zero() -> None:
    model = make(PPO)
    layers = dict(sparse_layers(model.policy))
    before = {name: layer.topology.mask().clone() for name, layer in layers.items()}
    model.learn(48)
    for name, layer in layers.items():
        assert th.equal(layer.topology.mask(), before[name]) and not (layer.weight[~before[name]] != 0).any()


def pooled(normalizer: DeferredNormalizer, *batches: th.Tensor) -> DeferredNormalizer:
    normalizer.train()
    for batch in batches:
        normalizer(batch)
    return normalizer


def test_deferred_statistics() -> None:
    normalizer, batches = DeferredNormalizer(3), [th.randn(n, 3) * 3 + 10 for n in (8, 3, 1)]
    pooled(normalizer, *batches)
    assert (normalizer.running_mean == 0).all() and (normalizer.running_var == 1).all()
    everything = th.cat(batches)
    normalizer.eval()
    th.testing.assert_close(normalizer.running_mean, everything.mean(0))
    th.testing.assert_close(normalizer.running_var, everything.var(0, correction=0))
    # Leaving training mode twice, or without having seen anything, changes nothing.
    before = normalizer.running_mean.clone()
    assert th.equal(normalizer.train().eval().running_mean, before)
    # While the weight falls, all data count alike.
    more = th.randn(20, 3)
    pooled(normalizer, more).eval()
    th.testing.assert_close(normalizer.running_mean, th.cat([everything, more]).mean(0))
    th.testing.assert_close(normalizer.running_var, th.cat([everything, more]).var(0, correction=0))


@pytest.mark.parametrize("n, weight", [(10, 0.1), (4, 0.04), (1000, 0.1)])
def test_least_weight(n, weight) -> None:
    normalizer = DeferredNormalizer(1, min_weight=0.1, horizon=100)
    normalizer.total.fill_(10**6)
    pooled(normalizer, th.ones(n, 1)).eval()
    assert normalizer.running_mean.item() == pytest.approx(weight)


def test_nothing_is_pooled_without_gradients_or_training() -> None:
    normalizer = DeferredNormalizer(2)
    with th.no_grad():
        pooled(normalizer, th.ones(4, 2))
    normalizer.eval()(th.ones(4, 2))
    pooled(DeferredNormalizer(2, frozen=True), th.ones(4, 2))
    assert normalizer.pooled == normalizer.total == 0
    frozen = pooled(DeferredNormalizer(2, frozen=True), th.ones(4, 2)).eval()
    assert frozen.pooled == frozen.total == 0 and (frozen.running_mean == 0).all()
    with pytest.raises(ValueError, match="min_weight"):
        DeferredNormalizer(2, min_weight=0.0)


@pytest.mark.slow
def test_cartpole_is_learned() -> None:
    extractor = dict(sparsity=0.8, width_scale=0.5)
    env = gym.make("CartPole-v1")
    model = make(PPO, env, extractor=extractor, n_steps=1024, batch_size=64, n_epochs=10, policy_kwargs=dict(net_arch=[]))
    model.learn(30_000)
    reward, _ = evaluate_policy(model, Monitor(gym.make("CartPole-v1")), n_eval_episodes=10)
    assert reward > 200
