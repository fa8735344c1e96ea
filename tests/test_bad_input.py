import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from test_policies import RandomEnv

import sb3_sparse
from sb3_sparse import SparseSimBaPolicy, SparseSimBaTD3Policy, SparseSimBaTQCPolicy, hyperparameters

MODELS = [
    (SAC, SparseSimBaPolicy),
    (TD3, SparseSimBaTD3Policy),
    (DDPG, SparseSimBaTD3Policy),
    (TQC, SparseSimBaTQCPolicy),
]
each_model = pytest.mark.parametrize("model_class, policy", MODELS)


def build(model_class: Any, policy: Any, env: Any = None, **policy_kwargs: Any) -> Any:
    kwargs = {} if model_class is PPO else dict(buffer_size=10)
    return model_class(
        policy, env or RandomEnv(), policy_kwargs=dict(width_scale=0.0625, **policy_kwargs), device="cpu", **kwargs
    )


@each_model
@pytest.mark.parametrize(
    "sparsity, error, message",
    [
        (1.0, ValueError, r"sparsity must lie in \[0, 1\), the fraction of parameters removed; got 1\."),
        (-0.1, ValueError, r"sparsity must lie in \[0, 1\).*got -0\.1"),
        (float("nan"), ValueError, r"sparsity must lie in \[0, 1\).*got nan"),
        (80, ValueError, r"got 80; for 80 % give 0\.8"),
        ("0.8", TypeError, r"sparsity must be a number in \[0, 1\), got '0\.8'"),
        (None, TypeError, "got None"),
        ([0.8], TypeError, r"got \[0\.8\]"),
        ({"actor": 0.8}, ValueError, r'needs the keys "actor" and "critic" \(0\.0 for dense\), got \{\'actor\': 0\.8\}'),
        ({"actor": 0.8, "critic": 0.8, "target": 0.8}, ValueError, r'needs the keys "actor" and "critic"'),
        ({"actor": 0.8, "critic": 2}, ValueError, r'sparsity\["critic"\] must lie in \[0, 1\).*got 2'),
        (0.99, ValueError, r"A sparsity of 0\.99 leaves .* choose a sparsity below 0\.\d+, a larger network, or budget="),
    ],
)
def test_sparsity(model_class, policy, sparsity, error, message) -> None:
    with pytest.raises(error, match=message):
        build(model_class, policy, sparsity=sparsity)


@each_model
def test_layer_without_weights(model_class, policy) -> None:
    with pytest.raises(ValueError, match=r"would keep no weight at all .* choose a lower sparsity, a larger network"):
        build(model_class, policy, sparsity=0.999, budget="weights", distribution="uniform")


@each_model
@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(distribution="gaussian"), "Unknown distribution 'gaussian': choose one of 'erdos_renyi', 'uniform'"),
        (dict(budget="biases"), "Unknown budget 'biases': choose one of 'all', 'weights'"),
        (dict(mask_seed=-1), "mask_seed must be an integer from 0 .*got -1"),
        (dict(mask_seed=2**70), "mask_seed must be an integer from 0 .*got 1180591620717411303424"),
        (dict(mask_seed=1.0), r"mask_seed must be an integer .*or None to draw it from the model's seed\), got 1.0"),
        (dict(mask_seed=True), "mask_seed must be an integer .*got True"),
        (dict(depth_scale=0), "depth_scale must be a positive number .* got 0"),
        (dict(net_arch=[64]), r"got net_arch=\[64\], which it has no use for: .*width_scale and depth_scale"),
        (dict(activation_fn=th.nn.Tanh), "got activation_fn=.*Tanh.*, which it has no use for: .*ReLU"),
        (dict(use_sde=True), "got use_sde=True.*gSDE.* is not supported"),
        (dict(log_std_init=-3), "got log_std_init=-3.*gSDE"),
    ],
)
def test_policy_arguments(model_class, policy, kwargs, message) -> None:
    if model_class in (SAC, TQC) and "use_sde" in kwargs:
        with pytest.raises(ValueError, match=message):
            model_class(policy, RandomEnv(), use_sde=True, buffer_size=10)
        return
    with pytest.raises(ValueError, match=message):
        build(model_class, policy, **kwargs)


@each_model
def test_misspelt_argument(model_class, policy) -> None:
    with pytest.raises(TypeError, match="widht"):
        build(model_class, policy, widht=2.0)


@pytest.mark.parametrize(
    "model_class, policy, remedy",
    [
        (DDPG, SparseSimBaPolicy, "SparseSimBaTD3Policy"),
        (TD3, SparseSimBaPolicy, "SparseSimBaTD3Policy"),
        (PPO, SparseSimBaPolicy, "a stock policy and sparsify"),
        (DQN, SparseSimBaPolicy, "a stock policy and sparsify"),
        (CrossQ, SparseSimBaPolicy, "SparseSimBaCrossQPolicy"),
        (SAC, SparseSimBaTD3Policy, "SparseSimBaPolicy"),
        (PPO, SparseSimBaTD3Policy, "a stock policy and sparsify"),
        (TQC, SparseSimBaTD3Policy, "SparseSimBaTQCPolicy"),
        (SAC, SparseSimBaTQCPolicy, "SparseSimBaPolicy"),
        (PPO, SparseSimBaTQCPolicy, "a stock policy and sparsify"),
    ],
)
def test_policy_of_another_algorithm(model_class, policy, remedy) -> None:
    message = rf"{policy.__name__} is a policy for \w+, not for {model_class.__name__}: use {remedy}"
    with pytest.raises(ValueError, match=message):
        build(model_class, policy, "CartPole-v1" if model_class is DQN else None)


@each_model
def test_subclasses_of_the_algorithm_are_welcome(model_class, policy) -> None:
    class Mine(model_class):
        def _setup_model(self) -> None:
            super()._setup_model()

    assert build(Mine, policy).policy.width_scale == 0.0625


@each_model
def test_policy_made_inside_another_algorithm(model_class, policy) -> None:
    # Only who builds this policy counts, not an algorithm further up.
    class Outer(PPO):
        def _setup_model(self) -> None:
            super()._setup_model()
            self.teacher = build(model_class, policy)

    assert Outer("MlpPolicy", RandomEnv(), device="cpu").teacher.policy.width_scale == 0.0625


@each_model
def test_images(model_class, policy) -> None:
    image = FakeImageEnv(discrete=False)
    with pytest.raises(ValueError, match=r"the observation space is an image .*stock CnnPolicy with sparsify"):
        build(model_class, policy, image)
    space = spaces.Dict(vector=spaces.Box(-1, 1, (3,)), camera=image.observation_space)
    with pytest.raises(ValueError, match=r"entry 'camera' of the observation space is an image .*FlattenObservation"):
        build(model_class, policy, RandomEnv(space))
    flat = gym.wrappers.FlattenObservation(FakeImageEnv(screen_height=6, screen_width=6, discrete=False))
    assert build(model_class, policy, flat).policy.normalizer.dim == 36


@each_model
def test_scalar_observations(model_class, policy) -> None:
    space = spaces.Dict(vector=spaces.Box(-1, 1, (3,)), height=spaces.Box(-1, 1, ()))
    with pytest.raises(ValueError, match=r"entry 'height' of the observation space is a scalar .*FlattenObservation"):
        build(model_class, policy, RandomEnv(space))


@each_model
def test_discrete_actions(model_class, policy) -> None:
    # SB3 refuses them in the algorithm, the policy when it is built by hand.
    with pytest.raises(AssertionError, match="Discrete"):
        build(model_class, policy, "CartPole-v1")
    with pytest.raises(ValueError, match=r"needs continuous actions \(a Box\), got Discrete\(2\)"):
        policy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3)


@each_model
def test_dictionaries_of_the_user_stay_as_they_are(model_class, policy) -> None:
    optimizer_kwargs, extractor_kwargs = {"weight_decay": 0.1}, {}
    sparsity = {"actor": 0.1, "critic": 0.2}
    mine = dict(
        width_scale=0.0625, sparsity=sparsity, optimizer_kwargs=optimizer_kwargs, features_extractor_kwargs=extractor_kwargs
    )
    before = copy.deepcopy(mine)
    model = model_class(policy, RandomEnv(), policy_kwargs=mine, buffer_size=100, learning_starts=5, batch_size=4)
    model.learn(10)
    # What SB3 itself adds.
    for name in ("use_sde", "n_critics"):
        mine.pop(name, None)
    assert mine == before
    assert mine["optimizer_kwargs"] is optimizer_kwargs
    assert model.critic.optimizer.param_groups[0]["weight_decay"] == 0.1
    sparsity["actor"] = 0.9
    assert model.policy.sparsity == {"actor": 0.1, "critic": 0.2}


def test_dictionary_shared_between_algorithms() -> None:
    kwargs = dict(width_scale=0.0625, sparsity=0.5)
    SAC(SparseSimBaPolicy, RandomEnv(), policy_kwargs=kwargs, buffer_size=10)
    assert kwargs["use_sde"] is False
    assert len(TD3(SparseSimBaTD3Policy, RandomEnv(), policy_kwargs=kwargs, buffer_size=10).critic.q_networks) == 2
    DDPG(SparseSimBaTD3Policy, RandomEnv(), policy_kwargs=kwargs, buffer_size=10)
    SAC(SparseSimBaPolicy, RandomEnv(), policy_kwargs=kwargs, buffer_size=10)


SHARED = dict(
    learning_rate=1e-4, buffer_size=1_000_000, learning_starts=5_000, batch_size=256, tau=0.005, train_freq=1, gradient_steps=2
)


def test_hyperparameters_of_humanoid() -> None:
    pytest.importorskip("dm_control")
    import sb3_sparse.envs  # noqa: F401, registers the ids

    found = hyperparameters("sac", "dm_control/humanoid-run-v0")
    assert found == {**SHARED, "gamma": 0.99, "ent_coef": "auto_0.01", "target_entropy": -10.5}
    found = hyperparameters(DDPG, "dm_control/humanoid-run-v0")
    noise = found.pop("action_noise")
    assert found == {**SHARED, "gamma": 0.99}
    assert noise._mu.tolist() == [0.0] * 21 and noise._sigma.tolist() == [0.1] * 21


@pytest.mark.parametrize("algo", ["sac", "SAC", SAC, "tqc", "td3", TD3, "ddpg"])
def test_hyperparameters_of_pendulum(algo) -> None:
    found = hyperparameters(algo, "Pendulum-v1")
    # 200 steps: (40 - 1) / 40.
    assert found["gamma"] == pytest.approx(0.975)
    assert ("action_noise" in found) != ("ent_coef" in found)


def test_hyperparameters_fit_the_constructors() -> None:
    env = RandomEnv()
    for model_class, policy in MODELS:
        found = hyperparameters(model_class, env) | dict(buffer_size=100, learning_starts=5, batch_size=4)
        model = model_class(policy, env, policy_kwargs=dict(width_scale=0.0625), **found).learn(10)
        assert model._n_updates == 10
    assert hyperparameters("sac", env)["gamma"] == 0.99  # no limit


def test_hyperparameters_of_vectorised_environments() -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 3)
    assert hyperparameters("sac", env) == hyperparameters("sac", "Pendulum-v1") | {"gradient_steps": 6}


def test_hyperparameters_refuse() -> None:
    with pytest.raises(ValueError, match="No hyperparameters for 'ppo': choose one of 'sac', 'ddpg', 'td3', 'tqc', 'crossq'"):
        hyperparameters("ppo", "Pendulum-v1")
    with pytest.raises(ValueError, match="No hyperparameters for 'PPO'"):
        hyperparameters(PPO, "Pendulum-v1")
    for env in ("CartPole-v1", gym.make("CartPole-v1")):
        with pytest.raises(ValueError, match=r"need continuous actions \(a Box\), got Discrete\(2\)"):
            hyperparameters("sac", env)


def test_unbounded_actions() -> None:
    # SB3's own check comes first.
    with pytest.raises(AssertionError, match="finite"):
        build(SAC, SparseSimBaPolicy, RandomEnv(action_space=spaces.Box(-np.inf, np.inf, (2,))))


def test_a_misspelt_argument_is_named_with_its_likely_meaning() -> None:
    with pytest.raises(TypeError, match=r"SparseSimBaPolicy got an unknown argument sparcity=0\.8: did you mean 'sparsity'"):
        SAC(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={"sparcity": 0.8}, buffer_size=10)
    with pytest.raises(TypeError, match=r"it knows sparsity, .*optimizer_kwargs"):
        SAC(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={"zzz": 1}, buffer_size=10)


def test_td3_with_the_single_critic_of_ddpg_warns() -> None:
    policy_kwargs = {"width_scale": 0.0625}
    DDPG(SparseSimBaTD3Policy, "Pendulum-v1", policy_kwargs=policy_kwargs, buffer_size=10)
    with pytest.warns(UserWarning, match="n_critics=1.*a dictionary of its own"):
        TD3(SparseSimBaTD3Policy, "Pendulum-v1", policy_kwargs=policy_kwargs, buffer_size=10)


@pytest.mark.parametrize("algo", ["sac", "td3", "tqc"])
def test_hyperparameters_for_actions_of_any_shape(algo: str) -> None:
    env = RandomEnv(action_space=spaces.Box(-1.0, 1.0, (2, 3)))
    arguments = {**hyperparameters(algo, env), "learning_starts": 10, "buffer_size": 100, "batch_size": 8}
    model_class, policy = {name.__name__.lower(): (name, policy) for name, policy in MODELS}[algo]
    model = model_class(policy, env, policy_kwargs={"width_scale": 0.0625}, **arguments).learn(20)
    assert model._n_updates == 2 * (20 - 10)
    if algo != "td3":
        assert model.target_entropy == -3.0


class Acting(RandomEnv):
    def __init__(self, low: Any, high: Any, dtype: Any = np.float32):
        super().__init__()
        self.action_space = spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


TOP = np.finfo(np.float32).max
BOUNDS = [
    (([0, -1], [0, 1]), r"action 0 of 2 lies between 0\.0 and 0\.0, so there is nothing to choose"),
    (([-1, -TOP], [1, TOP]), r"action 1 of 2 lies between .*, a range that is too large for float32"),
    (([-128], [127], np.int8), r"action 0 of 1 lies between -128 and 127, a range that is too large for int8"),
]
ACTING = [*MODELS, (sb3_sparse.SAC, "MlpPolicy"), (sb3_sparse.TD3, "MlpPolicy"), (sb3_sparse.DDPG, SparseSimBaTD3Policy)]


@pytest.mark.parametrize("model_class, policy", ACTING)
@pytest.mark.parametrize("bounds, message", BOUNDS)
def test_actions_that_cannot_be_scaled(model_class, policy, bounds, message) -> None:
    with pytest.raises(ValueError, match=message):
        model_class(policy, Acting(*bounds), buffer_size=10, device="cpu")


def test_actions_of_a_streaming_agent_are_not_scaled() -> None:
    with pytest.raises(ValueError, match="there is nothing to choose"):
        sb3_sparse.StreamAC("MlpPolicy", Acting([0, -1], [0, 1]))
    sb3_sparse.StreamAC("MlpPolicy", Acting([-TOP], [TOP]), seed=0).learn(5)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DDPG", "DER", "DrQv2", "StreamAC"])
def test_vectorised_environments_of_gymnasium(algorithm) -> None:
    policy = "CnnPolicy" if algorithm == "DrQv2" else "MlpPolicy"
    with pytest.raises(ValueError, match=r"CartPoleVectorEnv is a vectorised .*make_vec_env\(env_id, n_envs=3\)"):
        getattr(sb3_sparse, algorithm)(policy, gym.make_vec("CartPole-v1", num_envs=3))
