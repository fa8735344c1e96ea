import copy
import io
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_policies import RandomEnv, each_model, each_model_and_sparsity

from sb3_sparse import SparseSimBaPolicy, hyperparameters
from sb3_sparse.sparsity import sparse_layers

SMALL = dict(learning_starts=20, batch_size=16, buffer_size=1000, device="cpu", learning_rate=1e-3)
DICT_SPACE = spaces.Dict(box=spaces.Box(90, 110, (2,)), choice=spaces.Discrete(3))


class TerminatingEnv(RandomEnv):
    """An episode ends after three steps, by itself; the observation tells the step."""

    def observe(self) -> np.ndarray:
        return np.eye(4, 3, dtype=np.float32)[self.steps]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        super().step(action)
        return self.observe(), 1.0, self.steps == 3, False, {}


def make(model_class: Any, policy: Any, env: Any = None, sparsity: Any = 0.8, **kwargs: Any) -> Any:
    policy_kwargs = dict(sparsity=sparsity, width_scale=0.0625, **kwargs.pop("policy_kwargs", {}))
    return model_class(policy, env or RandomEnv(), policy_kwargs=policy_kwargs, **{**SMALL, "seed": 0, **kwargs})


def observations(model: Any, number: int = 10) -> Any:
    model.observation_space.seed(0)
    samples = [model.observation_space.sample() for _ in range(number)]
    if isinstance(model.observation_space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def predictions(model: Any, like: Any = None) -> np.ndarray:
    return model.predict(observations(like or model), deterministic=True)[0]


def assert_same_state(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif th.is_tensor(a):
        assert th.equal(a, b)
    elif isinstance(a, list):
        assert len(a) == len(b)
        for first, second in zip(a, b, strict=True):
            assert_same_state(first, second)
    else:
        assert a == b


def train_alike(*models: Any) -> None:
    """Train with the same batches and noise."""
    for model in models:
        np.random.seed(1)
        th.manual_seed(1)
        model._setup_learn(0, reset_num_timesteps=False)
        model.train(5, 16)


@each_model_and_sparsity
@pytest.mark.parametrize("space", [None, DICT_SPACE], ids=["box", "dict"])
def test_save_and_load(model_class, policy, sparsity, space, tmp_path) -> None:
    model = make(model_class, policy, RandomEnv(space) if space else None, sparsity).learn(40)
    expected = predictions(model)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = model_class.load(tmp_path / "model", env=model.get_env())
    np.testing.assert_array_equal(predictions(loaded, model), expected)
    assert_same_state(loaded.get_parameters(), model.get_parameters())
    # Training goes on as if nothing had happened: with moments, statistics and target networks.
    loaded.load_replay_buffer(tmp_path / "buffer")
    train_alike(model, loaded)
    assert_same_state(loaded.get_parameters(), model.get_parameters())
    assert not np.array_equal(predictions(loaded, model), expected)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 60


@each_model
def test_moments_matter_for_continued_training(model_class, policy, tmp_path) -> None:
    # The comparison above would notice lost moments.
    model = make(model_class, policy).learn(40)
    fresh = make(model_class, policy)
    fresh.policy.load_state_dict(model.policy.state_dict())
    fresh.replay_buffer = model.replay_buffer
    train_alike(model, fresh)
    assert not np.array_equal(predictions(model), predictions(fresh, model))


@each_model
def test_load_without_environment_and_arguments(model_class, policy, tmp_path) -> None:
    model = make(model_class, policy).learn(30)
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    loaded = model_class.load(buffer, custom_objects={"learning_rate": 0.5, "lr_schedule": lambda _: 0.5})
    assert loaded.learning_rate == 0.5
    np.testing.assert_array_equal(predictions(loaded, model), predictions(model))
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored policy kwargs"):
        buffer.seek(0)
        model_class.load(buffer, policy_kwargs=dict(sparsity=0.1))


@each_model_and_sparsity
def test_set_parameters(model_class, policy, sparsity, tmp_path) -> None:
    kwargs = dict(policy_kwargs=dict(mask_seed=1))
    model, other = make(model_class, policy, sparsity=sparsity, **kwargs), make(model_class, policy, sparsity=sparsity, seed=5)
    model.learn(30)
    other.learn(40)
    parameters = copy.deepcopy(model.get_parameters())
    assert not np.array_equal(predictions(other), predictions(model))
    other.set_parameters(parameters)
    assert_same_state(other.get_parameters(), parameters)
    np.testing.assert_array_equal(predictions(other), predictions(model))
    # Masks came along; training goes on with them.
    other.replay_buffer = model.replay_buffer
    if model_class in (SAC, TQC):
        # SB3 counts the temperature's optimizer among the parameters, the temperature itself not.
        other.log_ent_coef.data.copy_(model.log_ent_coef)
    train_alike(model, other)
    assert_same_state(other.get_parameters(), model.get_parameters())
    for name, layer in sparse_layers(other.policy):
        assert th.equal(layer.indices, model.policy.get_submodule(name).indices)

    model.save(tmp_path / "model")
    fresh = make(model_class, policy, sparsity=sparsity, seed=7)
    fresh.set_parameters(tmp_path / "model")
    np.testing.assert_array_equal(predictions(fresh), predictions(model))

    with pytest.raises(ValueError, match="Names of parameters do not match"):
        fresh.set_parameters({"policy": parameters["policy"]})
    with pytest.raises(ValueError, match="invalid object name"):
        fresh.set_parameters({"rubbish": {}}, exact_match=False)


@each_model_and_sparsity
def test_set_parameters_in_part(model_class, policy, sparsity) -> None:
    model = make(model_class, policy, sparsity=sparsity).learn(30)
    fresh = make(model_class, policy, sparsity=sparsity, seed=5)
    fresh.set_parameters({"policy": model.policy.state_dict()}, exact_match=False)
    np.testing.assert_array_equal(predictions(fresh), predictions(model))
    # Some of the networks alone, which takes equal masks.
    fresh = make(model_class, policy, sparsity=sparsity, seed=5, policy_kwargs={"mask_seed": model.policy.mask_seed})
    critic = copy.deepcopy(fresh.critic.state_dict())
    actor = {name: value for name, value in model.policy.state_dict().items() if name.startswith("actor.")}
    fresh.set_parameters({"policy": actor}, exact_match=False)
    np.testing.assert_array_equal(predictions(fresh), predictions(model))
    critic |= {name: value for name, value in fresh.critic.state_dict().items() if "normalizer" in name}
    assert_same_state(fresh.critic.state_dict(), critic)
    with pytest.raises(RuntimeError):
        fresh.policy.load_state_dict(actor)
    fresh.learn(30)


@each_model
@pytest.mark.parametrize("part", ["critic", "critic_target", "critic.qf0"])
def test_a_part_cannot_move_the_masks_it_shares(model_class, policy, part) -> None:
    model, other = make(model_class, policy), make(model_class, policy, seed=5)
    same_masks = make(model_class, policy, seed=5, policy_kwargs={"mask_seed": model.policy.mask_seed})
    before = copy.deepcopy(model.policy.state_dict())
    state = other.policy.get_submodule(part).state_dict()
    with pytest.raises(ValueError, match="only a part of the policy"):
        model.policy.get_submodule(part).load_state_dict(state)
    with pytest.raises(ValueError, match="does not have its values"):
        model.set_parameters({"policy": {f"{part}.{name}": value for name, value in state.items()}}, exact_match=False)
    assert_same_state(model.policy.state_dict(), before)
    model.policy.get_submodule(part).load_state_dict(same_masks.policy.get_submodule(part).state_dict())


@each_model
def test_masks_that_moments_do_not_fit(model_class, policy) -> None:
    model, other = make(model_class, policy).learn(30), make(model_class, policy, seed=5).learn(30)
    parameters, before = copy.deepcopy(other.get_parameters()), copy.deepcopy(model.get_parameters())
    with pytest.raises(ValueError, match="masks differ from those that the optimizers' moments belong to"):
        model.set_parameters({"policy": parameters["policy"]}, exact_match=False)
    assert_same_state(model.get_parameters(), before)
    # Nothing is wrong with moments for the same masks.
    model.set_parameters({"policy": before["policy"]}, exact_match=False)
    model.train(1, 16)
    # The optimizers' state may follow.
    model.policy.load_state_dict(parameters["policy"])
    with pytest.raises(ValueError, match=r"Load everything at once .*exact_match=True"):
        model.train(1, 16)
    model.policy.load_state_dict(before["policy"])
    model.set_parameters(parameters)
    model.train(2, 16)
    # Or the moments may go, whoever else listens to the optimizer.
    model.policy.load_state_dict(before["policy"])
    calls = []
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        optimizer.register_step_pre_hook(lambda *_: calls.append(1))
        optimizer.state.clear()
    model.train(2, 16)
    assert calls


@each_model
def test_fresh_model_takes_any_masks(model_class, policy) -> None:
    model, fresh = make(model_class, policy).learn(30), make(model_class, policy, seed=5)
    fresh.policy.load_state_dict(model.policy.state_dict())
    np.testing.assert_array_equal(predictions(fresh), predictions(model))
    fresh.learn(30)


@each_model
@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(sparsity=0.81), r"does not fit: \d+ active weights in the checkpoint, \d+ of \d+ here"),
        (dict(sparsity=0.0), r"\d+ layers are sparse in the checkpoint, 0 in the model"),
        (dict(sparsity=0.8, policy_kwargs=dict(depth_scale=2)), r"is sparse in the model only"),
        (dict(sparsity=0.8, policy_kwargs=dict(n_critics=3)), r"is sparse in the model only"),
    ],
)
def test_misfits(model_class, policy, kwargs, message) -> None:
    parameters = make(model_class, policy).get_parameters()
    model = make(model_class, policy, **kwargs)
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(RuntimeError, match=message) as error:
        model.set_parameters(parameters)
    assert "Build the model with the sparsity" in str(error.value)
    if "active weights" not in message:
        assert_same_state(model.get_parameters(), before)


@each_model
def test_dense_checkpoint_for_sparse_model(model_class, policy) -> None:
    parameters = make(model_class, policy, sparsity=0.0).get_parameters()
    for exact_match in (True, False):
        with pytest.raises(RuntimeError, match="0 layers are sparse in the checkpoint"):
            make(model_class, policy).set_parameters(parameters, exact_match=exact_match)


@each_model
def test_other_width(model_class, policy) -> None:
    for sparsity in (0.0, 0.8):
        parameters = make(model_class, policy, sparsity=sparsity).get_parameters()
        wider = model_class(policy, RandomEnv(), policy_kwargs=dict(sparsity=sparsity, width_scale=0.125), **SMALL)
        with pytest.raises(RuntimeError, match=r"size mismatch|does not fit"):
            wider.set_parameters(parameters)


@each_model_and_sparsity
def test_policy_alone(model_class, policy, sparsity, tmp_path) -> None:
    model = make(model_class, policy, sparsity=sparsity, policy_kwargs=dict(n_critics=2)).learn(40)
    expected = predictions(model)
    model.policy.save(tmp_path / "policy.pth")
    loaded = policy.load(tmp_path / "policy.pth")
    assert_same_state(loaded.state_dict(), model.policy.state_dict())
    assert (loaded.sparsity, len(loaded.critic.q_networks)) == (sparsity, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unpickled = pickle.loads(pickle.dumps(model.policy))
    for other in (loaded, unpickled):
        np.testing.assert_array_equal(other.predict(observations(model), deterministic=True)[0], expected)
        evaluate_policy(other, Monitor(RandomEnv()), n_eval_episodes=1)
    model.policy.actor.save(tmp_path / "actor.pth")
    actor = type(model.policy.actor).load(tmp_path / "actor.pth")
    np.testing.assert_array_equal(actor.predict(observations(model), deterministic=True)[0], expected)
    assert len(list(sparse_layers(actor))) == len(list(sparse_layers(model.actor)))


@each_model
def test_policy_arguments_survive(model_class, policy, tmp_path) -> None:
    head = "actor.mu" if model_class in (SAC, TQC) else "actor.mu.head"
    kwargs = dict(
        distribution="uniform", budget="weights", mask_seed=7, depth_scale=2.0, normalize_observations=False, skip=[head]
    )
    model = make(model_class, policy, sparsity={"actor": 0.5, "critic": 0.6}, policy_kwargs=kwargs)
    assert head not in dict(sparse_layers(model.policy)) and any(sparse_layers(model.actor))
    model.policy.save(tmp_path / "policy.pth")
    loaded = policy.load(tmp_path / "policy.pth")
    for name in ("pruning", "mask_seed", "sparsity", "width_scale", "depth_scale", "normalize_observations", "skip"):
        assert getattr(loaded, name) == getattr(model.policy, name), name
    assert loaded.optimizer_kwargs == model.policy.optimizer_kwargs
    assert_same_state(loaded.state_dict(), model.policy.state_dict())


@each_model
def test_loading_moves_a_shared_topology_once_and_for_all(model_class, policy) -> None:
    model, fresh = make(model_class, policy).learn(30), make(model_class, policy, seed=5)
    fresh.policy.load_state_dict(model.policy.state_dict())
    with th.no_grad():
        x, a = th.randn(4, 3), th.rand(4, 2)
        assert th.equal(fresh.critic_target(x, a)[0], model.critic_target(x, a)[0])


@each_model_and_sparsity
def test_predict(model_class, policy, sparsity) -> None:
    model = make(model_class, policy, sparsity=sparsity, env=DummyVecEnv([RandomEnv])).learn(30)
    batch = observations(model)
    deterministic, _ = model.predict(batch, deterministic=True)
    assert deterministic.shape == (10, 2)
    for observation, action in zip(batch, deterministic, strict=True):
        single, state = model.predict(observation, deterministic=True)
        assert single.shape == (2,) and state is None
        np.testing.assert_allclose(single, action, atol=1e-5)
    stochastic = model.predict(batch)[0]
    assert np.array_equal(stochastic, deterministic) == (model_class not in (SAC, TQC))
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(4))


def test_batched_dict_prediction() -> None:
    model = make(SAC, SparseSimBaPolicy, RandomEnv(DICT_SPACE)).learn(30)
    batch = observations(model)
    actions = model.predict(batch, deterministic=True)[0]
    single = model.predict({key: value[3] for key, value in batch.items()}, deterministic=True)[0]
    np.testing.assert_allclose(single, actions[3], atol=1e-5)


def test_hyperparameters_of_vectorised_environments() -> None:
    env = make_vec_env("Pendulum-v1", n_envs=3)
    kwargs = hyperparameters(SAC, env) | SMALL
    model = SAC(SparseSimBaPolicy, env, policy_kwargs=dict(sparsity=0.8, width_scale=0.0625), **kwargs).learn(60)
    # Two updates per step after the warm-up of 20, which ends at step 18 of 3, 6, ..., 60.
    assert model.num_timesteps == 60
    assert model._n_updates == model.policy.normalizer.num_batches == 2 * (60 - 18)


def test_tasks_that_terminate() -> None:
    kwargs = dict(policy_kwargs=dict(n_critics=2), tau=0.5, ent_coef=0.0)
    model = make(SAC, SparseSimBaPolicy, TerminatingEnv(), **kwargs).learn(60)
    assert model.replay_buffer.dones.sum() == 20
    assert len(model.critic.q_networks) == 2
    model.train(200, 16)
    # Rewards of 1 that are left; the value of an endless task would go to 100.
    with th.no_grad():
        values = model.critic(th.eye(3), th.zeros(3, 2))
    for value in values:
        assert value.flatten().tolist() == pytest.approx([2.97, 1.99, 1.0], abs=0.5)


@each_model
def test_vec_normalize(model_class, policy, tmp_path) -> None:
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    with pytest.warns(UserWarning, match=r"wrapped in VecNormalize.*normalisation is switched off.*norm_obs=False"):
        model = make(model_class, policy, env)
    model.learn(40)

    def check_identity(normalizer: Any) -> None:
        assert normalizer.frozen and normalizer.num_batches == 0
        assert (normalizer.mean == 0).all() and (normalizer.var == 1).all()

    check_identity(model.policy.normalizer)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = model_class.load(tmp_path / "model")
    check_identity(loaded.policy.normalizer)
    np.testing.assert_array_equal(predictions(loaded, model), predictions(model))
    model.policy.save(tmp_path / "policy")
    check_identity(policy.load(tmp_path / "policy").normalizer)
    with pytest.warns(UserWarning, match="wrapped in VecNormalize"):
        loaded = model_class.load(tmp_path / "model", env=env)
    loaded.learn(30)
    check_identity(loaded.policy.normalizer)


@each_model
def test_vec_normalize_only_on_one_side_of_loading(model_class, policy, tmp_path) -> None:
    # The networks go on with the normalisation they were trained with, and the policy says so.
    make(model_class, policy).learn(30).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="that of a loaded one stays as it was trained"):
        loaded = model_class.load(tmp_path / "model", env=VecNormalize(DummyVecEnv([RandomEnv])))
    assert loaded.policy.normalize_observations and not loaded.policy.normalizer.frozen
    with pytest.warns(UserWarning, match="VecNormalize"):
        make(model_class, policy, VecNormalize(DummyVecEnv([RandomEnv]))).save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model", env=RandomEnv())
    assert not loaded.policy.normalize_observations and loaded.policy.normalizer.frozen


@each_model
def test_vec_normalize_of_rewards_only(model_class, policy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(model_class, policy, VecNormalize(DummyVecEnv([RandomEnv]), norm_obs=False)).learn(40)
        off = dict(policy_kwargs=dict(normalize_observations=False))
        make(model_class, policy, VecNormalize(DummyVecEnv([RandomEnv])), **off)
    assert model.policy.normalizer.num_batches == model._n_updates


@each_model
def test_vec_normalize_of_some_entries(model_class, policy) -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(DICT_SPACE)]), norm_obs_keys=["box"])
    with pytest.warns(UserWarning, match=r"VecNormalize normalises the observations \['box'\] and the policy all of them"):
        make(model_class, policy, env).learn(25)


def test_wrapped_time_limit() -> None:
    env = gym.wrappers.TimeLimit(RandomEnv(), 7)
    assert make(SAC, SparseSimBaPolicy, env).learn(30)._n_updates == 10


def test_mask_seed_that_was_drawn_is_that_of_the_loaded_masks(tmp_path) -> None:
    model = SAC(
        SparseSimBaPolicy, "Pendulum-v1", policy_kwargs={"sparsity": 0.5, "width_scale": 0.0625}, seed=1, buffer_size=10
    )
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model")
    assert loaded.policy.mask_seed == model.policy.mask_seed
    rebuilt = SAC(
        SparseSimBaPolicy,
        "Pendulum-v1",
        policy_kwargs={"sparsity": 0.5, "width_scale": 0.0625, "mask_seed": loaded.policy.mask_seed},
        seed=2,
        buffer_size=10,
    )
    layers = [dict(sparse_layers(policy)) for policy in (loaded.policy, rebuilt.policy)]
    assert layers[0] and all(layer.indices.equal(layers[1][name].indices) for name, layer in layers[0].items())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("device_replay_buffer", "DeviceReplayBuffer"),
        ("frame_replay_buffer", "FrameReplayBuffer"),
        ("frame_store", "FrameStore"),
        ("start_queue", "StartQueue"),
    ],
)
def test_files_that_name_the_former_modules_load(module: str, name: str) -> None:
    found = pickle.loads(f"csb3_sparse.common.{module}\n{name}\n.".encode())
    assert found.__module__ == f"sb3_sparse.buffers.{module}"
