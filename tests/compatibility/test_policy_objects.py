"""Policies as such: names and arguments, modes, copies, what they compute, gSDE."""

import copy
import pickle
from typing import Any

import cloudpickle
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from test_save_load import assert_same_state
from torch import nn

import sb3_sparse
from compatibility.environments import AnyEnv
from compatibility.models import (
    DER_PIXELS,
    DER_VECTORS,
    DRQV2,
    EXTRACTORS,
    KINDS,
    MLP,
    MODELS,
    OWN_ALGORITHMS,
    SIMBA_POLICIES,
    SPARSIFIED,
    STEPS,
    STREAM_AC,
    Model,
    each,
    each_model,
    each_model_at_leisure,
    each_of_ours,
    observations,
    predictions,
)
from sb3_sparse import sparsify
from sb3_sparse.sparsity import sparse_layers

STOCK_POLICIES = [*EXTRACTORS, *SPARSIFIED]
CRITICS = [
    *SIMBA_POLICIES,
    *(model for model in STOCK_POLICIES if model.name.endswith(("SAC", "TD3", "DDPG", "TQC", "CrossQ"))),
]
# Classes and policies of which a network's own layers are the user's to choose.
OF_ANY_SIZE = [model for model in [*STOCK_POLICIES, DER_VECTORS] if not model.is_recurrent]


class Noisy(BaseFeaturesExtractor):
    """What behaves differently in training: dropout and batch normalisation."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 6)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def running(network: nn.Module) -> list[th.Tensor]:
    """Statistics of batch normalisation."""
    return [value.clone() for name, value in network.named_buffers() if "running_mean" in name]


@pytest.mark.parametrize(
    "algorithm, names",
    [(sb3_sparse.DrQv2, {"CnnPolicy"}), (sb3_sparse.StreamAC, {"MlpPolicy"}), (sb3_sparse.DER, {"CnnPolicy", "MlpPolicy"})],
)
def test_names_of_policies(algorithm: Any, names: set[str]) -> None:
    assert set(algorithm.policy_aliases) == names
    for name in ("Rubbish", "MultiInputPolicy"):
        with pytest.raises(ValueError, match=f"Policy {name} unknown"):
            algorithm(name, None)


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG"])
def test_compiled_classes_know_sb3s_policies(name: str) -> None:
    stock, ours = getattr(stable_baselines3, name), getattr(sb3_sparse, name)
    assert ours.policy_aliases == stock.policy_aliases and issubclass(ours, stock)
    model = ours("MlpPolicy", AnyEnv(), policy_kwargs=dict(MLP), learning_starts=8, buffer_size=50, batch_size=4, device="cpu")
    assert model.learn(STEPS)._n_updates > 0


@each_model_at_leisure
def test_copies(case: Model) -> None:
    model = case.build()
    # SB3's on-policy policies keep tensors of a graph once they have learned, which torch does not copy.
    if not case.is_on_policy:
        model.learn(STEPS)
    expected = predictions(model)
    for duplicate in (
        copy.deepcopy(model.policy),
        pickle.loads(pickle.dumps(model.policy)),
        cloudpickle.loads(cloudpickle.dumps(model.policy)),
    ):
        assert type(duplicate) is type(model.policy)
        np.testing.assert_array_equal(predictions(duplicate, model), expected)
        assert_same_state(duplicate.state_dict(), model.policy.state_dict())
        for parameter in duplicate.parameters():
            parameter.data.add_(1.0)
        np.testing.assert_array_equal(predictions(model), expected)


@each_model
def test_parameters_as_a_vector(case: Model) -> None:
    model, other = case.build(), case.build(seed=5)
    vector = model.policy.parameters_to_vector()
    assert vector.ndim == 1 and len(vector) == sum(parameter.numel() for parameter in model.policy.parameters())
    other.policy.load_from_vector(vector * 0.5)
    np.testing.assert_allclose(other.policy.parameters_to_vector(), vector * 0.5)


@each_model
def test_modes(case: Model) -> None:
    policy = case.build().policy
    for mode in (True, False):
        policy.set_training_mode(mode)
        # Target networks never train.
        online = [module for name, module in policy.named_modules() if "_target" not in name]
        assert all(module.training == mode for module in online)


@each(model for model in SIMBA_POLICIES if model.name != "CrossQ")  # which has no targets
@pytest.mark.parametrize("share", [False, True])
def test_layers_that_behave_differently_in_training(case: Model, share: bool) -> None:
    kwargs = {"features_extractor_class": Noisy, "share_features_extractor": share, "normalize_observations": False}
    model = case.build(policy_kwargs=kwargs, learning_starts=8, tau=0.5)
    before = running(model.policy.critic)
    model.learn(8)
    predictions(model)
    assert all(map(th.equal, running(model.policy.critic), before)), "acting leaves statistics alone"
    np.testing.assert_array_equal(predictions(model), predictions(model))
    model.learn(2 * STEPS)
    after = running(model.policy.critic)
    assert len(after) == 1 and not th.equal(after[0], before[0])
    # SB3 copies running statistics to the targets, whatever tau is.
    assert all(map(th.equal, running(model.policy.critic_target), after))
    np.testing.assert_array_equal(predictions(model), predictions(model))


@each((model for model in STOCK_POLICIES if model.budget is not None and not model.is_recurrent), by_default=KINDS)
def test_pruned_networks_that_behave_differently_in_training(case: Model) -> None:
    model = case.build(policy_kwargs={"features_extractor_class": Noisy})
    before = running(model.policy)
    predictions(model)
    assert len(before) > 0 and all(map(th.equal, running(model.policy), before))
    model.learn(2 * STEPS)
    assert not all(map(th.equal, running(model.policy), before))
    np.testing.assert_array_equal(predictions(model), predictions(model))


@each(OF_ANY_SIZE, by_default=[*KINDS, DER_VECTORS])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.LeakyReLU])
def test_sizes_and_activations(case: Model, activation: Any) -> None:
    model = case.build(policy_kwargs={"net_arch": [8, 8], "activation_fn": activation}).learn(STEPS)
    assert any(type(module) is activation for module in model.policy.modules())


@each([model for model in STOCK_POLICIES if model.is_on_policy and not model.is_recurrent], by_default=KINDS)
def test_sizes_of_two_networks(case: Model) -> None:
    model = case.build(policy_kwargs={"net_arch": {"pi": [8], "vf": [12, 12]}}).learn(STEPS)
    assert model.policy.mlp_extractor.latent_dim_pi == 8 and model.policy.mlp_extractor.latent_dim_vf == 12


@each([*SIMBA_POLICIES, DRQV2, STREAM_AC])
@pytest.mark.parametrize("argument", ["net_arch", "activation_fn"])
def test_sizes_that_are_not_the_users(case: Model, argument: str) -> None:
    with pytest.raises((ValueError, TypeError), match=argument):
        case.build(policy_kwargs={argument: [8] if argument == "net_arch" else nn.Tanh})


@each((model for model in MODELS if not model.is_streaming), by_default=[*KINDS, *SIMBA_POLICIES])
def test_optimizers(case: Model) -> None:
    kwargs = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}}
    model = case.build(policy_kwargs=kwargs).learn(STEPS)
    owners = [
        part
        for part in (model.policy, *model.policy.children())
        if isinstance(getattr(part, "optimizer", None), th.optim.Optimizer)
    ]
    assert owners
    for part in owners:
        assert type(part.optimizer) is th.optim.RMSprop and part.optimizer.param_groups[0]["alpha"] == 0.9


@each([STREAM_AC])
def test_streams_have_optimizers_of_their_own(case: Model) -> None:
    with pytest.raises((TypeError, ValueError), match="optimizer_class"):
        case.build(policy_kwargs={"optimizer_class": th.optim.Adam})


@each(CRITICS, by_default=[*KINDS, *SIMBA_POLICIES])
@pytest.mark.parametrize("n_critics", [1, 3])
def test_critics(case: Model, n_critics: int) -> None:
    if "DDPG" in case.name and not case.is_simba:
        pytest.skip("SB3 gives it one")
    model = case.build(policy_kwargs={"n_critics": n_critics}).learn(STEPS)
    batch = model.replay_buffer.sample(4)
    with th.no_grad():
        values = model.critic(batch.observations, batch.actions)
    if "TQC" in case.name:
        assert values.shape == (4, n_critics, 25)
    else:
        assert len(values) == n_critics and all(value.shape == (4, 1) for value in values)


@each(model for model in STOCK_POLICIES if model.is_on_policy and not model.is_recurrent and "Maskable" not in model.name)
def test_distributions_of_on_policy_models(case: Model) -> None:
    model = case.build().learn(STEPS)
    tensor, _ = model.policy.obs_to_tensor(observations(model))
    model.policy.set_training_mode(False)
    with th.no_grad():
        actions, values, log_prob = model.policy(tensor)
        again, log_prob_again, entropy = model.policy.evaluate_actions(tensor, actions)
        distribution = model.policy.get_distribution(tensor)
    assert values.shape == (5, 1) and log_prob.shape == entropy.shape == (5,)
    th.testing.assert_close(values, again)
    th.testing.assert_close(log_prob, log_prob_again)
    th.testing.assert_close(distribution.log_prob(actions), log_prob)
    th.testing.assert_close(model.policy.predict_values(tensor), values)


@each(model for model in SIMBA_POLICIES if model.name.endswith(("SAC", "TQC")))
def test_distributions_of_squashed_gaussians(case: Model) -> None:
    model = case.build().learn(STEPS)
    tensor, _ = model.policy.obs_to_tensor(observations(model, 50))
    with th.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(tensor)
        actions, log_prob = model.actor.action_log_prob(tensor)
    raw = th.atanh(actions.double())
    gaussian = th.distributions.Normal(mean.double(), log_std.double().exp())
    expected = (gaussian.log_prob(raw) - th.log(1 - actions.double() ** 2 + 1e-6)).sum(1)
    # Close to the bounds, actions no longer tell what they were before they were squashed.
    inside = (actions.abs() < 0.99).all(1)
    assert inside.sum() > 5
    th.testing.assert_close(log_prob.double()[inside], expected[inside], rtol=1e-3, atol=1e-3)


@each([*SIMBA_POLICIES, DRQV2])
def test_scaling_of_actions(case: Model) -> None:
    low, high = np.array([-2.0, 5.0], np.float32), np.array([1.0, 7.0], np.float32)
    policy = case.build(AnyEnv(case.make_env().observation_space, spaces.Box(low, high))).policy
    np.testing.assert_allclose(
        policy.scale_action(np.stack([low, high, (low + high) / 2])), [[-1, -1], [1, 1], [0, 0]], atol=1e-6
    )
    drawn = policy.action_space.sample()
    np.testing.assert_allclose(policy.unscale_action(policy.scale_action(drawn)), drawn, rtol=1e-5)


SDE = ("PPO", "A2C", "SAC", "TQC", "CrossQ", "TRPO", "RecurrentPPO")


@each(model for model in MODELS if "Maskable" not in model.name)
def test_state_dependent_exploration(case: Model) -> None:
    changes = {"use_sde": True, "sde_sample_freq": 4}
    takes_it = case.algorithm.__name__ in SDE
    if case.is_simba and takes_it:
        with pytest.raises(ValueError, match=r"use_sde=True, which it has no use for: .*gSDE.* not supported"):
            case.build(**changes)
    elif not takes_it:
        with pytest.raises(TypeError, match=r"use_sde|sde_sample_freq"):
            case.build(**changes)
    else:
        model = case.build(**changes).learn(STEPS)
        assert model.use_sde and model._n_updates > 0 and any(sparse_layers(model.policy))
        assert model.action_space.contains(predictions(model)[0])


@each(model for model in SPARSIFIED if model.algorithm is sb3_sparse.SAC)
def test_state_dependent_exploration_is_updated_as_sb3_does(case: Model) -> None:
    with pytest.warns(UserWarning, match="updates as Stable-Baselines3 does, at its speed, because gSDE"):
        case.build(use_sde=True).learn(STEPS)


@each(OWN_ALGORITHMS)
def test_policies_of_other_algorithms(case: Model) -> None:
    with pytest.raises(ValueError, match=r"has a policy of its own|has policies of its own"):
        case.build(policy=stable_baselines3.sac.policies.SACPolicy, policy_kwargs={})


@each_of_ours
def test_unknown_arguments(case: Model) -> None:
    with pytest.raises(TypeError, match="sparcity"):
        case.build(policy_kwargs={"sparcity": 0.5})
    with pytest.raises(TypeError, match="lerning_rate"):
        case.build(lerning_rate=0.5)


def test_augmented_random_search_is_refused() -> None:
    # It keeps all weights in one vector of its own, and has no features extractor.
    model = sb3_contrib.ARS("MlpPolicy", "CartPole-v1", policy_kwargs=dict(MLP), device="cpu")
    with pytest.raises(ValueError, match="Don't know the networks of ARSPolicy"):
        sparsify(model, 0.5)


@each([DER_VECTORS, DER_PIXELS])
def test_values_of_rainbow(case: Model) -> None:
    model = case.build().learn(STEPS)
    tensor, _ = model.policy.obs_to_tensor(observations(model))
    with th.no_grad():
        values = model.q_net.q_values(tensor, noisy=False)
    assert values.shape == (5, model.action_space.n)
    np.testing.assert_array_equal(values.argmax(1), predictions(model))
