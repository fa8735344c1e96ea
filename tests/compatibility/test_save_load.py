"""Files and streams, parameters, environments that come later, policies and replay buffers by themselves."""

import io
import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv
from test_save_load import assert_same_state

from compatibility.environments import AnyEnv
from compatibility.models import (
    DER_VECTORS,
    DRQV2,
    KINDS,
    MODELS,
    OURS,
    SIMBA_POLICIES,
    STEPS,
    Model,
    each,
    each_kind,
    each_model,
    each_model_at_leisure,
    each_model_in_time,
    each_of_ours,
    observations,
    predictions,
)
from sb3_sparse.sparsity import sparse_layers


@each_model
def test_a_loaded_model_is_the_one_that_was_saved(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build().learn(STEPS)
    expected = predictions(model)
    model.save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(predictions(loaded, model), expected)
    assert_same_state(loaded.get_parameters(), model.get_parameters())
    assert any(sparse_layers(loaded.policy))
    assert loaded.num_timesteps == STEPS and loaded._n_updates == model._n_updates and loaded.get_env() is None
    # Goes on in an environment that comes later.
    loaded.set_env(case.make_env())
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps == 2 * STEPS and loaded._n_updates > model._n_updates


@each_kind
def test_places_to_save_to(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build().learn(STEPS)
    expected = predictions(model)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    folder = tmp_path / "new" / "folder"
    model.save(folder / "a.zip")
    model.save(str(folder / "b"))
    model.save(folder / "c.sb3")
    for place in (stream, folder / "a.zip", folder / "a", str(folder / "b"), str(folder / "b.zip"), folder / "c.sb3"):
        np.testing.assert_array_equal(predictions(case.algorithm.load(place, device="cpu"), model), expected)
    with (folder / "a.zip").open("rb") as file:
        np.testing.assert_array_equal(predictions(case.algorithm.load(file, device="cpu"), model), expected)
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "b.zip", "c.sb3"]
    with pytest.raises(FileNotFoundError):
        case.algorithm.load(tmp_path / "nothing")


@each_kind
def test_a_file_that_is_no_model(case: Model, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"wasn't a zip-file"):
        case.algorithm.load(tmp_path / "model.zip")


@each_of_ours
def test_what_is_written_and_what_is_left_out(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build(verbose=1)
    model.save(tmp_path / "model")
    data, params, _ = load_from_zip_file(tmp_path / "model", device="cpu")
    assert data is not None and params is not None
    assert {"policy_class", "policy_kwargs", "observation_space", "learning_rate", "verbose"} <= data.keys()
    assert not {"policy", "env", "replay_buffer", "_logger", "_vec_normalize_env", "device"} & data.keys()
    assert "policy" in params and any(name.endswith("optimizer") for name in params)
    kept = {} if case.is_streaming else {"include": ["replay_buffer"]}
    model.save(tmp_path / "other", exclude=["verbose"], **kept)
    data, _, _ = load_from_zip_file(tmp_path / "other", device="cpu")
    assert data is not None and "verbose" not in data
    assert case.is_streaming or type(data["replay_buffer"]) is type(model.replay_buffer)


@each_model_at_leisure
def test_custom_objects_and_changed_arguments(case: Model) -> None:
    model, stream = case.build(), io.BytesIO()
    model.save(stream)
    stream.seek(0)
    custom = {"learning_rate": 0.5, "lr_schedule": lambda _: 0.5, "verbose": 1}
    loaded = case.algorithm.load(stream, env=case.make_env(), custom_objects=custom, gamma=0.5, device="cpu")
    assert (loaded.learning_rate, loaded.verbose, loaded.gamma) == (0.5, 1, 0.5)  # type: ignore[attr-defined]
    stream.seek(0)
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored policy kwargs"):
        case.algorithm.load(stream, policy_kwargs={"optimizer_kwargs": {}})


@each_kind
def test_system_info_is_printed(case: Model, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    case.build().save(tmp_path / "model")
    case.algorithm.load(tmp_path / "model", print_system_info=True, device="cpu")
    printed = capsys.readouterr().out
    assert "CURRENT SYSTEM INFO" in printed and "SAVED MODEL SYSTEM INFO" in printed


@each_of_ours
def test_environments_that_do_not_fit(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build()
    model.save(tmp_path / "model")
    other = AnyEnv(spaces.Box(-1, 1, (7,)), model.action_space)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        case.algorithm.load(tmp_path / "model", env=other, device="cpu")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(other)
    actions = spaces.Discrete(7) if case.is_discrete else spaces.Box(-2, 1, (2,))
    env = case.make_env()
    env.action_space = actions
    with pytest.raises(ValueError, match="Action spaces do not match"):
        case.algorithm.load(tmp_path / "model", env=env, device="cpu")


@each((model for model in MODELS if not model.is_streaming), by_default=[*OURS, *KINDS])
def test_another_number_of_environments(case: Model, tmp_path: pathlib.Path) -> None:
    case.build().learn(STEPS).save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", env=DummyVecEnv([case.make_env] * 3), device="cpu")
    assert loaded.n_envs == 3
    loaded.learn(3 * STEPS)
    assert loaded.num_timesteps >= 3 * STEPS
    loaded.save(tmp_path / "model")
    assert case.algorithm.load(tmp_path / "model", env=case.make_env(), device="cpu").learn(STEPS).n_envs == 1


@each_model_at_leisure
def test_parameters(case: Model) -> None:
    model, other = case.build().learn(STEPS), case.build(seed=5).learn(STEPS)
    parameters = model.get_parameters()
    other.set_parameters(parameters)
    assert_same_state(other.get_parameters(), parameters)
    np.testing.assert_array_equal(predictions(other), predictions(model))
    other.learn(STEPS, reset_num_timesteps=False)
    # What is not named stays, if asked for.
    fresh = case.build(seed=6)
    fresh.set_parameters({"policy": parameters["policy"]}, exact_match=False)
    np.testing.assert_array_equal(predictions(fresh), predictions(model))
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        fresh.set_parameters({"policy": parameters["policy"]})
    with pytest.raises(ValueError, match="invalid object name"):
        fresh.set_parameters({"rubbish": {}}, exact_match=False)


@each_model_at_leisure
def test_parameters_of_a_file(case: Model, tmp_path: pathlib.Path) -> None:
    model, other = case.build(), case.build(seed=5)
    model.save(tmp_path / "model")
    other.set_parameters(tmp_path / "model")
    np.testing.assert_array_equal(predictions(other), predictions(model))
    assert_same_state(other.get_parameters(), model.get_parameters())


# sb3-contrib's recurrent policies do not note the size of their LSTM, so a policy's own file fits the default size only.
@each((model for model in MODELS if not model.is_recurrent), by_default=[*OURS, *KINDS])
def test_policies_by_themselves(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build().learn(STEPS)
    expected = predictions(model)
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy", device="cpu")
    np.testing.assert_array_equal(predictions(loaded, model), expected)
    assert_same_state(loaded.state_dict(), model.policy.state_dict())
    assert {name for name, _ in sparse_layers(loaded)} == {name for name, _ in sparse_layers(model.policy)}


@each([*SIMBA_POLICIES, DRQV2, DER_VECTORS])
def test_replay_buffers(case: Model, tmp_path: pathlib.Path) -> None:
    model = case.build().learn(STEPS)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model.save_replay_buffer(str(tmp_path / "other.pkl"))
    loaded = case.algorithm.load(tmp_path / "model", env=case.make_env(), device="cpu")
    for path in (tmp_path / "buffer", str(tmp_path / "buffer.pkl"), tmp_path / "other"):
        loaded.load_replay_buffer(path)  # type: ignore[attr-defined]
        assert loaded.replay_buffer.size() == model.replay_buffer.size()  # type: ignore[attr-defined]
    # The same transitions, so the same batches.
    batches = []
    for found in (model, loaded):
        np.random.seed(0)
        if hasattr(found.replay_buffer, "seed"):
            found.replay_buffer.seed(0)
        batches.append(found.replay_buffer.sample(4))
    assert th.equal(batches[0].observations, batches[1].observations) and th.equal(batches[0].rewards, batches[1].rewards)
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() > STEPS - 4  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError):
        loaded.load_replay_buffer(tmp_path / "nothing")  # type: ignore[attr-defined]


@each_model_in_time
def test_loading_warns_of_nothing(case: Model, tmp_path: pathlib.Path) -> None:
    case.build().save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded: Any = case.algorithm.load(tmp_path / "model", env=case.make_env(), device="cpu")
    assert case.make_env().action_space.contains(loaded.predict(observations(loaded)[0])[0])
