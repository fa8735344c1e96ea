"""The SimBa policy of CrossQ: batch renormalisation in place of layer normalisation and of the observations' normaliser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3.common.envs import BitFlippingEnv
from torch import nn

from sb3_sparse import SAC, SparseSimBaCrossQPolicy, hyperparameters
from sb3_sparse.crossq.encoder import RenormEncoder
from sb3_sparse.deployment import export, load_policy, read_model, write_model
from sb3_sparse.sparsity import sparse_layers, to_dense


def make(**policy_kwargs: Any) -> CrossQ:
    policy_kwargs = {"width_scale": 0.0625, "sparsity": 0.7, **policy_kwargs}
    return CrossQ(
        SparseSimBaCrossQPolicy,
        "Pendulum-v1",
        learning_starts=10,
        batch_size=16,
        seed=0,
        device="cpu",
        policy_kwargs=policy_kwargs,
    )


def test_batch_renormalisation_stands_in_for_all_other() -> None:
    policy = make(sparsity=0.0, width_scale=1).policy
    assert not any(isinstance(module, nn.LayerNorm) for module in policy.modules())
    assert not policy.normalize_observations and policy.critic.n_critics == 2
    # Of the input, before the one block of the actor and the two of a critic, and at the end.
    assert sum(isinstance(module, BatchRenorm1d) for module in policy.actor.modules()) == 3
    assert sum(isinstance(module, BatchRenorm1d) for module in policy.critic.modules()) == 2 * 4
    width, inputs = 512, 4
    norms = 2 * inputs + 3 * 2 * width
    blocks = 2 * (2 * 4 * width**2 + 5 * width)
    expected = norms + (inputs + 1) * width + blocks + width + 1
    assert sum(parameter.numel() for parameter in policy.critic.qf0.parameters()) == expected


def test_the_encoder_computes_what_its_parts_say() -> None:
    encoder = RenormEncoder(3, 8, 1, {"momentum": 0.01, "eps": 1e-3, "warmup_steps": 10})
    x = 5 + 2 * th.randn(64, 3)

    def normal(values: th.Tensor) -> th.Tensor:
        return (values - values.mean(0)) / (values.var(0) + 1e-3).sqrt()

    stream = encoder.projection(normal(x))
    block = encoder.blocks[0]
    stream = stream + block.contract(block.expand(normal(stream)).relu())
    th.testing.assert_close(encoder(x), normal(stream), rtol=1e-4, atol=1e-5)
    encoder.reset_parameters()
    assert all(int(module.steps) == 0 for module in encoder.modules() if isinstance(module, BatchRenorm1d))


@pytest.mark.parametrize("is_safe", [True, False])
def test_constant_units_do_no_harm_past_the_warm_up(is_safe: bool) -> None:
    model = make(sparsity=0.8, renorm_warmup_steps=3, budget="weights")
    model.policy.critic.qf0.encoder.projection.weight.data[0] = 0.0  # what enters the first block's normalisation
    if not is_safe:
        for module in model.policy.modules():
            if isinstance(module, BatchRenorm1d):
                module.__class__ = BatchRenorm1d
    model.learn(60)
    finite = all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())
    assert finite == is_safe


def test_defaults_are_those_of_crossq_where_the_paper_has_none() -> None:
    arguments = hyperparameters("crossq", "Pendulum-v1")
    assert arguments["learning_rate"] == 1e-3 and "tau" not in arguments
    assert arguments["target_entropy"] == -0.5
    group = make().policy.critic.optimizer.param_groups[0]
    assert group["betas"] == (0.5, 0.999) and group["weight_decay"] == 0.01


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="SparseSimBaCrossQPolicy is a policy for CrossQ, not for SAC"):
        SAC(SparseSimBaCrossQPolicy, "Pendulum-v1")


def test_dictionaries_are_refused() -> None:
    env = BitFlippingEnv(n_bits=4, continuous=True)
    with pytest.raises(ValueError, match="wrap the environment in gymnasium's"):
        CrossQ(SparseSimBaCrossQPolicy, env)


def test_trained_models_come_back_by_every_way(tmp_path: Path) -> None:
    model = make()
    model.learn(40)
    observation = model.env.reset()
    expected = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    write_model(model, tmp_path / "model.safetensors")
    for loaded in (CrossQ.load(tmp_path / "model.zip"), read_model(tmp_path / "model.safetensors")):
        assert (loaded.predict(observation, deterministic=True)[0] == expected).all()
        assert len(list(sparse_layers(loaded.policy))) == len(list(sparse_layers(model.policy)))
    assert not list(sparse_layers(to_dense(model.policy)))
    pytest.importorskip("onnx")
    export(model, tmp_path / "policy.onnx", "onnx")
    export(model, tmp_path / "policy.npz", "sparse")
    assert np.allclose(load_policy(tmp_path / "policy.npz").predict(observation)[0], expected, atol=1e-5)
