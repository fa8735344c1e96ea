import warnings

import pytest
import torch as th
from sb3_contrib import TQC
from sb3_contrib.tqc.policies import Critic
from test_policies import RandomEnv, make

from sb3_sparse import SparseSimBaTQCPolicy, hyperparameters
from sb3_sparse.sparsity import sparse_layers, summary
from sb3_sparse.tqc.policies import SimBaQuantileCritic


@pytest.mark.parametrize("n_critics, n_quantiles", [(2, 25), (3, 7), (1, 4)])
def test_quantiles(n_critics, n_quantiles) -> None:
    kwargs = dict(sparsity=0.8, n_critics=n_critics, n_quantiles=n_quantiles)
    model = make(TQC, SparseSimBaTQCPolicy, policy_kwargs=kwargs).learn(30)
    assert isinstance(model.critic, SimBaQuantileCritic) and isinstance(model.critic, Critic)
    assert model.critic.quantiles_total == n_critics * n_quantiles
    observations, actions = th.randn(5, 3), th.rand(5, 2)
    with th.no_grad():
        quantiles = model.critic(observations, actions)
        assert quantiles.shape == model.critic_target(observations, actions).shape == (5, n_critics, n_quantiles)
        inputs = th.cat([model.policy.normalizer(observations), actions], dim=1)
        for i, q_network in enumerate(model.critic.q_networks):
            assert q_network is getattr(model.critic, f"qf{i}")
            th.testing.assert_close(quantiles[:, i], q_network(inputs))
    for q_network in model.critic.q_networks:
        assert q_network.head.out_features == n_quantiles


def test_defaults_are_sb3_contribs() -> None:
    critic = make(TQC, SparseSimBaTQCPolicy).critic
    stock = TQC("MlpPolicy", RandomEnv(), buffer_size=10, device="cpu").critic
    assert (critic.n_critics, critic.n_quantiles) == (stock.n_critics, stock.n_quantiles)


def test_each_critic_is_pruned_by_itself() -> None:
    model = make(TQC, SparseSimBaTQCPolicy, policy_kwargs=dict(sparsity={"actor": 0.5, "critic": 0.8}, width_scale=0.25))
    assert summary(model.actor).sparsity == pytest.approx(0.5, abs=2e-3)
    for q_network in model.critic.q_networks:
        assert summary(q_network).sparsity == pytest.approx(0.8, abs=2e-3)
    # The heads have many outputs and are pruned like other layers.
    assert "critic.qf0.head" in dict(sparse_layers(model.policy))


def test_quantiles_survive_saving(tmp_path) -> None:
    model = make(TQC, SparseSimBaTQCPolicy, policy_kwargs=dict(sparsity=0.8, n_quantiles=7, n_critics=3)).learn(30)
    model.policy.save(tmp_path / "policy")
    model.save(tmp_path / "model")
    observations, actions = th.randn(5, 3), th.rand(5, 2)
    for policy in (SparseSimBaTQCPolicy.load(tmp_path / "policy"), TQC.load(tmp_path / "model").policy):
        with th.no_grad():
            assert th.equal(policy.critic_target(observations, actions), model.critic_target(observations, actions))


@pytest.mark.parametrize("n_quantiles", [0, -1, 2.0, True, "25"])
def test_refused_numbers_of_quantiles(n_quantiles) -> None:
    with pytest.raises(ValueError, match="n_quantiles must be an integer of at least 1, got"):
        make(TQC, SparseSimBaTQCPolicy, policy_kwargs=dict(n_quantiles=n_quantiles))


def test_misspelt_quantiles() -> None:
    with pytest.raises(TypeError, match="n_quantile=25: did you mean 'n_quantiles'"):
        make(TQC, SparseSimBaTQCPolicy, policy_kwargs=dict(n_quantile=25))


def test_hyperparameters_fit() -> None:
    arguments = hyperparameters("tqc", RandomEnv()) | dict(buffer_size=100, learning_starts=5, batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TQC(SparseSimBaTQCPolicy, RandomEnv(), policy_kwargs=dict(width_scale=0.0625), device="cpu", **arguments)
        assert model.learn(10)._n_updates == 10
