import copy
import pickle
import textwrap
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from commands import python
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from test_policies import RandomEnv
from test_save_load import assert_same_state, train_alike
from torch import nn

import sb3_sparse
from sb3_sparse import SparseSimBaPolicy, sparsify
from sb3_sparse.crossq.batch_renorm import SafeBatchRenorm1d
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.sparsity import SparseLayer, prune, register_sparse_layer, sparse_layers, summary, to_dense

ALGORITHMS = [SAC, TD3, DQN, PPO]
LIKE_THEM = [DDPG, TQC, QRDQN, A2C]  # what is done to these is done to those
TARGETS = {"actor": "actor_target", "critic": "critic_target", "q_net": "q_net_target", "quantile_net": "quantile_net_target"}
each_algorithm = pytest.mark.parametrize(
    "model_class", [*ALGORITHMS, *(pytest.param(algorithm, marks=pytest.mark.slow) for algorithm in LIKE_THEM)]
)


class TwoWeights(nn.Module):
    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight, self.other = (nn.Parameter(th.randn(out_features, in_features)) for _ in range(2))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x @ (self.weight + self.other).t()


@register_sparse_layer
class SparseTwoWeights(SparseLayer):
    dense_type = TwoWeights
    value_names: ClassVar = {"weight": "values", "other": "other_values"}

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x @ self.scatter(self.values + self.other_values).t()


def make(model_class: Any, policy: str = "MlpPolicy", env: Any = None, **kwargs: Any) -> Any:
    kwargs.setdefault("policy_kwargs", dict(net_arch=[32, 32]))
    if issubclass(model_class, OffPolicyAlgorithm):
        kwargs = dict(learning_starts=16, batch_size=8, buffer_size=200, train_freq=1) | kwargs
    elif model_class is PPO:
        kwargs = dict(n_steps=16, batch_size=8, n_epochs=1) | kwargs
    if env is None:
        env = "CartPole-v1" if model_class in (DQN, QRDQN) else RandomEnv()
    return model_class(policy, env, seed=0, device="cpu", **kwargs)


def predictions(model: Any) -> np.ndarray:
    model.observation_space.seed(0)
    observations = np.stack([model.observation_space.sample() for _ in range(8)])
    return model.predict(np.clip(observations, -10, 10), deterministic=True)[0]


def check(model: Any) -> None:
    """Optimizers hold exactly the parameters of the online networks; targets share topologies."""
    held = {id(p) for optimizer in optimizers_of(model.policy) for group in optimizer.param_groups for p in group["params"]}
    targets = [getattr(model.policy, name) for name in TARGETS.values() if hasattr(model.policy, name)]
    frozen = {id(p) for target in targets for p in target.parameters()}
    assert held == {id(p) for p in model.policy.parameters()} - frozen
    for online, target in TARGETS.items():
        if hasattr(model.policy, target):
            layers, counterparts = (dict(sparse_layers(getattr(model.policy, name))) for name in (online, target))
            assert layers and layers.keys() == counterparts.keys()
            assert all(layer.topology is counterparts[name].topology for name, layer in layers.items())


@each_algorithm
def test_train_save_load(model_class, tmp_path) -> None:
    model = make(model_class)
    total = sum(p.numel() for p in model.policy.parameters())
    assert sparsify(model, 0.6) is model
    assert 1 - sum(p.numel() for p in model.policy.parameters()) / total == pytest.approx(0.6, abs=0.01)
    check(model)
    before = predictions(model)
    parameters = [p.clone() for p in model.policy.parameters()]
    model.learn(40)
    assert not all(map(th.equal, parameters, model.policy.parameters()))
    model.save(tmp_path / "model")
    expected = predictions(model)
    loaded = model_class.load(tmp_path / "model", env=model.get_env())
    assert before.shape == expected.shape
    np.testing.assert_array_equal(predictions(loaded), expected)
    assert_same_state(loaded.get_parameters(), model.get_parameters())
    check(loaded)
    loaded.learn(40)


def test_load_in_a_new_process(tmp_path) -> None:
    expected = []
    for algorithm in (SAC, PPO):
        model = sparsify(make(algorithm, env="Pendulum-v1"), 0.6).learn(20)
        model.save(tmp_path / algorithm.__name__)
        expected.append(model.predict(np.ones(3, np.float32), deterministic=True)[0].item())
    th.save(model.policy, tmp_path / "policy.pth")
    script = f"""
        import gymnasium as gym, numpy as np, torch as th
        from stable_baselines3 import PPO, SAC
        models = [c.load({str(tmp_path)!r} + "/" + c.__name__, env=gym.make("Pendulum-v1"), device="cpu") for c in (SAC, PPO)]
        policy = th.load({str(tmp_path / "policy.pth")!r}, weights_only=False)
        for loaded in (*models, policy):
            print(loaded.predict(np.ones(3, np.float32), deterministic=True)[0].item())
        for model in models:
            model.learn(20)
    """
    run = python("-c", textwrap.dedent(script))
    assert run.returncode == 0, run.stderr
    assert [float(line) for line in run.stdout.splitlines()] == pytest.approx([*expected, expected[-1]], abs=1e-6)


@each_algorithm
def test_policy_is_copied_and_pickled(model_class) -> None:
    # Before training: SB3's on-policy policies keep tensors of a graph, which torch does not copy.
    model = sparsify(make(model_class), 0.6)
    for duplicate in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        assert type(duplicate) is type(model.policy)
        assert_same_state(duplicate.state_dict(), model.policy.state_dict())


def networks(model: Any) -> list[Any]:
    """The networks of a model that SB3 can load alone, and its policy."""
    parts = [model.policy._modules.get(name) for name in ("actor", "q_net", "q_net_target", "quantile_net")]
    return [part for part in [*parts, model.policy] if part is not None]


@pytest.mark.parametrize("reloaded", [False, True])
@each_algorithm
def test_networks_are_saved_and_loaded_alone(model_class, reloaded: bool, tmp_path) -> None:
    model = sparsify(make(model_class), 0.5)
    if reloaded:
        model.save(tmp_path / "model")
        model = model_class.load(tmp_path / "model", device="cpu")
    observation = th.as_tensor(model.observation_space.sample())[None]
    for network in networks(model):
        network.save(tmp_path / "network")
        loaded = type(network).load(tmp_path / "network", device="cpu")
        assert_same_state(loaded.state_dict(), network.state_dict())
        with th.no_grad():
            outputs = [module.set_training_mode(False) or module._predict(observation, True) for module in (network, loaded)]
        assert th.equal(*outputs)
        assert type(copy.deepcopy(network)) is type(loaded) is type(network)


def test_images_are_extracted_by_a_network_loaded_alone(tmp_path) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    model = sparsify(make(DQN, "CnnPolicy", env, optimize_memory_usage=False), 0.5)
    model.q_net.save(tmp_path / "network")
    loaded = type(model.q_net).load(tmp_path / "network", device="cpu")
    assert_same_state(loaded.state_dict(), model.q_net.state_dict())


@pytest.mark.parametrize("model_class", [SAC, DQN, PPO])
def test_default_device_is_not_that_of_the_model(model_class, tmp_path) -> None:
    def train() -> Any:
        learner.learn(24)
        sparsify(learner, 0.5)
        learner.learn(8)
        learner.save(tmp_path / "model")
        return learner.policy.state_dict()

    states = []
    for device in ("cpu", "meta"):
        learner = make(model_class)
        with th.device(device):
            states.append(train())
    assert_same_state(*states)


@pytest.mark.parametrize("model_class", [SAC, TD3, DQN, PPO])
def test_moments_of_kept_weights_stay(model_class) -> None:
    model = make(model_class).learn(40)
    dense = copy.deepcopy(model.policy.state_dict())
    moments = {
        name: copy.deepcopy(optimizer.state[parameter])
        for optimizer in optimizers_of(model.policy)
        for name, parameter in model.policy.named_parameters()
        if parameter in optimizer.state
    }
    sparsify(model, 0.5)
    check(model)
    compared = 0
    layers = dict(sparse_layers(model.policy))
    for optimizer in optimizers_of(model.policy):
        assert {id(p) for p in optimizer.state} <= {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.policy.named_parameters():
            if parameter not in optimizer.state:
                continue
            layer = layers.get(name.removesuffix(".values"))
            old = moments[name.removesuffix("values") + "weight" if layer else name]
            for key, value in optimizer.state[parameter].items():
                expected = layer.topology.gather(old[key]) if layer and old[key].ndim else old[key]
                assert th.equal(value, expected)
                compared += layer is not None
    assert compared
    for name, layer in layers.items():
        assert th.equal(layer.values, layer.topology.gather(dense[f"{name}.weight"]))
    model.learn(20)


@pytest.mark.parametrize("model_class", [SAC, TD3, DQN])
def test_targets_follow(model_class) -> None:
    model = sparsify(make(model_class, tau=0.5, **(dict(target_update_interval=1) if model_class is DQN else {})), 0.6)
    model.learn(30)
    target = model.q_net_target if model_class is DQN else model.critic_target
    online = model.q_net if model_class is DQN else model.critic
    before = [p.clone() for p in target.parameters()]
    model.lr_schedule = lambda _: 0.0
    for _ in range(30):
        model.train(2, 8)
        if model_class is DQN:
            model._on_step()
    assert not all(map(th.equal, before, target.parameters()))
    for p, q in zip(online.parameters(), target.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_class", [SAC, DQN, PPO])
def test_cnn_policy(model_class, tmp_path) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, discrete=model_class is DQN)
    model = sparsify(
        make(model_class, "CnnPolicy", env, policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=16))), 0.8
    )
    check(model)
    network = {SAC: "actor", DQN: "q_net", PPO: "features_extractor"}[model_class]
    assert any("cnn" in name for name, _ in sparse_layers(model.policy.get_submodule(network)))
    if model_class is DQN:
        # Extractor and head are one network.
        assert summary(model.q_net).sparsity == pytest.approx(0.8, abs=1e-3)
    model.learn(18)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model")
    observation = model.observation_space.sample()
    np.testing.assert_array_equal(*(m.predict(observation, deterministic=True)[0] for m in (model, loaded)))


@pytest.mark.parametrize("model_class", [SAC, PPO])
def test_sparsity_by_network(model_class) -> None:
    model = sparsify(make(model_class), {"actor": 0.0, "critic": 0.5}, distribution="uniform", budget="weights")
    names = [name for name, _ in sparse_layers(model.policy)]
    assert names
    assert not any(name.startswith(("actor.", "action_net", "mlp_extractor.policy_net")) for name in names)
    assert all(layer.topology.density == pytest.approx(0.5, abs=0.02) for _, layer in sparse_layers(model.policy))


@pytest.mark.parametrize("skip", ["actor.mu", ["actor.mu", "critic.qf0"]])
def test_skip(skip, tmp_path) -> None:
    kwargs = dict(skip=skip, distribution="uniform", budget="weights")
    model = sparsify(make(SAC), 0.5, **kwargs).learn(20)
    names = {name for name, _ in sparse_layers(model.policy)}
    assert "actor.mu" not in names and "actor.log_std" in names
    assert any(name.startswith("critic.qf0") for name in names) == isinstance(skip, str)
    model.save(tmp_path / "model")
    assert {name for name, _ in sparse_layers(SAC.load(tmp_path / "model").policy)} == names


@each_algorithm
def test_mask_seed(model_class) -> None:
    def indices(**kwargs: Any) -> list[th.Tensor]:
        return [layer.indices for _, layer in sparse_layers(sparsify(make(model_class), 0.5, **kwargs).policy)]

    first, second, third = indices(mask_seed=1), indices(mask_seed=1), indices(mask_seed=2)
    assert all(map(th.equal, first, second)) and not all(map(th.equal, first, third))
    # Drawn from the model's seed.
    assert all(map(th.equal, indices(), indices()))


@pytest.mark.parametrize("model_class", [SAC, DQN, PPO])
@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        (dict(sparsity=1.0), ValueError, r"sparsity must lie in \[0, 1\).*got 1"),
        (dict(sparsity={"critic": 0.5}), ValueError, 'needs the keys "actor" and "critic"'),
        (dict(sparsity=0.5, distribution="normal"), ValueError, "Unknown distribution 'normal'"),
        (dict(sparsity=0.5, budget="none"), ValueError, "Unknown budget 'none'"),
        (dict(sparsity=0.5, mask_seed="x"), ValueError, "mask_seed must be an integer .*got 'x'"),
        (dict(sparsity=0.5, skip=["nothing"]), ValueError, r"skip names 'nothing'.*no such submodule"),
        (dict(sparsity=0.9999), ValueError, "choose a"),
        (dict(sparsity=0.5, skip=["actor", "critic", "q_net", "action_net"]), ValueError, "no such submodule"),
        # Only the critic cannot be pruned like that.
        (dict(sparsity={"actor": 0.5, "critic": 0.9999}), ValueError, "choose a"),
    ],
)
def test_errors_change_nothing(model_class, kwargs, error, message) -> None:
    model = make(model_class).learn(20)
    before, policy_class = copy.deepcopy(model.get_parameters()), type(model.policy)
    policy_kwargs = dict(model.policy_kwargs)
    with pytest.raises(error, match=message):
        sparsify(model, **kwargs)
    assert type(model.policy) is model.policy_class is policy_class
    assert model.policy_kwargs == policy_kwargs
    assert_same_state(model.get_parameters(), before)
    model.learn(20)


def test_sparse_policies_are_refused() -> None:
    model = SAC(SparseSimBaPolicy, RandomEnv(), policy_kwargs=dict(width_scale=0.0625), buffer_size=10)
    with pytest.raises(ValueError, match=r"SparseSimBaPolicy prunes its networks itself.*give sparsity in policy_kwargs"):
        sparsify(model, 0.5)
    model = sparsify(make(SAC), 0.5)
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(ValueError, match="pruning happens once"):
        sparsify(model, 0.5)
    assert_same_state(model.get_parameters(), before)
    model = make(SAC)
    prune(model.actor, 0.5)
    with pytest.raises(ValueError, match="pruned already"):
        sparsify(model, 0.5)
    assert not any(sparse_layers(model.critic))


def test_dictionary_of_the_user_stays_as_it_is() -> None:
    mine = dict(net_arch=[32, 32])
    sparsify(make(PPO, policy_kwargs=mine), 0.5)
    assert mine == dict(net_arch=[32, 32])


def test_continued_training_after_load(tmp_path) -> None:
    model = sparsify(make(SAC), 0.6).learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = SAC.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    train_alike(model, loaded)
    assert_same_state(loaded.get_parameters(), model.get_parameters())


def test_optimizers_follow_layers_with_several_weights() -> None:
    # Two weights under one mask, each with moments of its own.
    model = make(SAC, policy_kwargs=dict(net_arch=[32, 32]))
    model.actor.latent_pi[0] = TwoWeights(3, 32)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters(), lr=1e-3)
    model.learn(20)
    moments = [model.actor.optimizer.state[p]["exp_avg"].clone() for p in model.actor.latent_pi[0].parameters()]
    sparsify(model, 0.5, distribution="uniform", budget="weights")
    check(model)
    layer = model.actor.latent_pi[0]
    assert isinstance(layer, SparseTwoWeights)
    for values, moment in zip((layer.values, layer.other_values), moments, strict=True):
        assert th.equal(model.actor.optimizer.state[values]["exp_avg"], layer.topology.gather(moment))
    model.learn(20)


def test_maskable_ppo_trains_and_loads(tmp_path) -> None:
    model = MaskablePPO("MlpPolicy", InvalidActionEnvDiscrete(dim=8, n_invalid_actions=2), n_steps=32, batch_size=16, seed=0)
    dense = sum(p.numel() for p in model.policy.parameters())
    sparsify(model, 0.5).learn(64)
    assert sum(p.numel() for p in model.policy.parameters()) == pytest.approx(dense / 2, rel=0.01)
    model.save(tmp_path / "model")
    loaded = MaskablePPO.load(tmp_path / "model")
    assert_same_state(loaded.policy.state_dict(), model.policy.state_dict())


def crossq(sparsity: float = 0.95) -> CrossQ:
    kwargs = dict(learning_starts=16, batch_size=8, buffer_size=200, policy_kwargs=dict(renorm_warmup_steps=1))
    model = CrossQ("MlpPolicy", RandomEnv(), seed=0, device="cpu", **kwargs)
    return sparsify(model, sparsity) if sparsity else model


def finite(model: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.policy.state_dict().values())


@pytest.mark.filterwarnings("ignore:.*left without inputs")
@pytest.mark.parametrize("reloaded", [False, True])
def test_units_without_inputs_learn_under_batch_renormalisation(reloaded: bool, tmp_path) -> None:
    model = crossq()
    assert summary(model.policy).units_without_input > 0
    if reloaded:
        model.save(tmp_path / "model")
        model = CrossQ.load(tmp_path / "model", env=RandomEnv(), device="cpu")
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(60)
    assert finite(model)
    moved = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    assert {name for name, _ in model.actor.named_parameters(prefix="actor")} <= moved
    model.actor.save(tmp_path / "actor")
    loaded = type(model.actor).load(tmp_path / "actor", device="cpu")
    assert [type(layer) for layer in loaded.modules()] == [type(layer) for layer in model.actor.modules()]
    assert not any(isinstance(layer, SafeBatchRenorm1d) for layer in to_dense(model.policy).modules())


@pytest.mark.parametrize("layer", [SafeBatchRenorm1d(5, warmup_steps=1), nn.BatchNorm1d(5)], ids=["renorm", "norm"])
def test_constant_units_have_finite_gradients(layer: nn.Module) -> None:
    batch = th.randn(8, 5)
    batch[:, 1] = 0.0
    outer = th.randn(8, 5)
    gradients = []
    for kind in (type(layer), type(layer).__bases__[0] if isinstance(layer, SafeBatchRenorm1d) else type(layer)):
        twin = copy.deepcopy(layer)
        twin.__class__ = kind
        for _ in range(4):
            x = batch.clone().requires_grad_()
            output = twin(x)
            twin.zero_grad()
            output.backward(outer)
        gradients.append((output, x.grad, [p.grad for p in twin.parameters()]))
    (output, gradient, others), (stock_output, stock_gradient, stock_others) = gradients
    varying = [0, 2, 3, 4]
    assert bool(gradient.isfinite().all())
    assert th.equal(output, stock_output) and th.equal(gradient[:, varying], stock_gradient[:, varying])
    assert all(map(th.equal, others, stock_others))


def test_units_without_inputs_are_reported_once(tmp_path) -> None:
    with pytest.warns(UserWarning, match=r"^\d+ units of PrunedCrossQPolicy are left without inputs.*summary"):
        model = crossq()
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CrossQ.load(tmp_path / "model", device="cpu")
        sparsify(make(SAC), 0.9)  # nothing divides by the deviation of a unit
        crossq(0.0)


def test_recurrent_layers_count_in_the_budget() -> None:
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0)
    with pytest.raises(ValueError, match=r"choose a sparsity below 0\.0"):
        sparsify(model, 0.5)
    heads = sum(layer.weight.numel() for layer in model.policy.modules() if isinstance(layer, th.nn.Linear))
    dense = sum(p.numel() for p in model.policy.parameters())
    sparsify(model, 0.5, budget="weights").learn(16)
    assert dense - sum(p.numel() for p in model.policy.parameters()) == pytest.approx(heads / 2, rel=0.01)


def test_zero_sparsity_changes_nothing() -> None:
    model = make(SAC).learn(20)
    before = copy.deepcopy(model.get_parameters())
    sparsify(model, 0.0)
    after = model.get_parameters()
    assert after["policy"].pop("seed_of_masks") == model.policy.mask_seed
    assert_same_state(after, before)


# By scores


def scored(model_class: Any, **kwargs: Any) -> Any:
    """A model whose replay buffer holds a batch of the scores' size."""
    return make(model_class, buffer_size=400, learning_starts=300, **kwargs).learn(310)


@pytest.mark.parametrize("model_class", [SAC, TD3, DQN])
@pytest.mark.parametrize("scores", ["magnitude", "snip", "grasp", {"actor": "random", "critic": "snip"}])
def test_pruned_across_layers_by_scores(model_class: Any, scores: Any, tmp_path) -> None:
    model = scored(model_class)
    before, state = summary(model.policy), th.get_rng_state()
    sparsify(model, 0.8, scores=scores, scope="global", mask_seed=3)
    assert th.equal(th.get_rng_state(), state)
    by_allocation = sparsify(make(model_class), 0.8, mask_seed=3)
    assert summary(model.policy).active == summary(by_allocation.policy).active < 0.5 * before.total
    check(model)
    expected = predictions(model)
    model.save(tmp_path / "model.zip")
    loaded = model_class.load(tmp_path / "model.zip", env=model.env)
    assert np.array_equal(predictions(loaded), expected)
    assert loaded.policy_kwargs["active_weights"] == model.policy_kwargs["active_weights"]
    model.learn(5, reset_num_timesteps=False)
    loaded.learn(5)
    check(loaded)


def test_magnitude_keeps_what_a_trained_network_has_learned() -> None:
    model = scored(SAC)
    weights = {name: parameter.detach().clone() for name, parameter in model.actor.named_parameters()}
    sparsify(model, 0.7, scores="magnitude")
    for name, layer in sparse_layers(model.actor):
        mask, weight = layer.topology.mask(), weights[f"{name}.weight"].abs()
        assert weight[mask].min() >= weight[~mask].max()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_dense_policy_of_this_package_can_be_pruned_once_it_is_trained(compiled: bool, tmp_path) -> None:
    kwargs = dict(policy_kwargs=dict(width_scale=0.0625, sparsity=0.0))
    model = scored(sb3_sparse.SAC if compiled else SAC, policy=SparseSimBaPolicy, **kwargs)
    sparsify(model, 0.8, scores="magnitude", scope="global")
    model.learn(5, reset_num_timesteps=False)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip")
    assert np.array_equal(predictions(loaded), predictions(model))
    with pytest.raises(ValueError, match="pruned already"):
        sparsify(model, 0.9, scores="magnitude")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (lambda: make(SAC), dict(scores="snip"), "collect some first"),
        (lambda: scored(QRDQN), dict(scores="snip"), "quantile_net's loss, which is not known"),
        (lambda: make(PPO), dict(scores="grasp"), "works on batches of the replay buffer"),
        (lambda: make(SAC), dict(scores="hessian"), "scores must be one of 'random', 'magnitude', 'snip', 'grasp'"),
        (lambda: make(SAC), dict(scores={"critic": "snip"}), 'keys "actor" and "critic"'),
        (lambda: make(SAC), dict(scope="all"), "scope must be one of"),
        (lambda: make(SAC), dict(scores="magnitude", scope="global", distribution="1:2"), 'needs scope="layer"'),
    ],
)
def test_scores_that_cannot_be_had_are_refused(model: Any, arguments: dict[str, Any], message: str) -> None:
    model = model()
    with pytest.raises(ValueError, match=message):
        sparsify(model, 0.5, **arguments)
    assert not list(sparse_layers(model.policy))


@pytest.mark.parametrize("model_class", [SAC, TD3, DQN, PPO])
def test_patterns_of_models_are_saved(model_class: Any, tmp_path) -> None:
    model = sparsify(make(model_class), 0.5, distribution="2:4")
    model.learn(24)
    for _, layer in sparse_layers(model.policy):
        assert str(layer.topology.pattern) == "2:4" and layer.topology.shape[1] >= 4
    model.save(tmp_path / "model.zip")
    loaded = model_class.load(tmp_path / "model.zip")
    assert np.array_equal(predictions(loaded), predictions(model))
    assert all(layer.topology.pattern is not None for _, layer in sparse_layers(loaded.policy))
