"""Asking a model for actions."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from compatibility.models import MODELS, STEPS, Model, observations, predictions
from sb3_sparse.stream_ac import StreamWrapper

# Whose actions are drawn at random unless they are to be deterministic.
DETERMINISTIC = ("TD3", "DDPG", "our TD3", "our DDPG", "sparsified TD3", "sparsified DDPG")


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def case(request: pytest.FixtureRequest) -> Model:
    return request.param


@pytest.fixture(scope="module")
def model(case: Model) -> Any:
    """Trained once for all tests of this file, which leave it as it is."""
    return case.build().learn(STEPS)


def test_one_and_several_observations(case: Model, model: Any) -> None:
    batch, space = observations(model), model.action_space
    actions, state = model.predict(batch, deterministic=True)
    assert actions.shape == (5, *space.shape) and all(space.contains(action) for action in actions)
    assert (state is None) != case.is_recurrent
    for observation, expected in zip(batch, actions, strict=True):
        action, _ = model.predict(observation, deterministic=True)
        assert np.shape(action) == space.shape and space.contains(action)
        np.testing.assert_allclose(action, expected, atol=1e-5)
    stochastic = model.predict(batch)[0]
    assert stochastic.shape == actions.shape and all(space.contains(action) for action in stochastic)


def test_what_is_deterministic(case: Model, model: Any) -> None:
    batch = observations(model, 50)
    random_numbers = th.get_rng_state(), np.random.get_state()[1].copy()
    first, second = predictions(model), predictions(model)
    np.testing.assert_array_equal(first, second)
    assert th.equal(th.get_rng_state(), random_numbers[0]) and (np.random.get_state()[1] == random_numbers[1]).all()
    drawn = [model.predict(batch)[0] for _ in range(10)]
    assert all(np.array_equal(drawn[0], other) for other in drawn) == (case.name in DETERMINISTIC)


def test_asking_leaves_no_trace(case: Model, model: Any) -> None:
    predictions(model)  # an extractor's statistics take in the last update's batch now
    before = copy.deepcopy(model.policy.state_dict())
    model.predict(observations(model, 50))
    predictions(model)
    assert not model.policy.training
    after = model.policy.state_dict()
    assert before.keys() == after.keys() and all(th.equal(value, after[name]) for name, value in before.items())


def test_observations_that_do_not_fit(case: Model, model: Any) -> None:
    space = model.observation_space
    wrong = np.zeros((space.shape[0] + 1, *space.shape[1:]), space.dtype)
    expected = "was trained on vectors of 3 entries" if case.is_streaming else "Unexpected observation shape"
    for given in (wrong, wrong[None]):
        with pytest.raises(ValueError, match=expected):
            model.predict(given)
    if not case.is_recurrent:  # sb3-contrib leaves this to NumPy there
        with pytest.raises(ValueError, match="You have passed a tuple to the predict"):
            model.predict((observations(model)[0], {}), deterministic=True)


def test_other_types_of_numbers(case: Model, model: Any) -> None:
    batch, expected = observations(model), predictions(model)
    others = [batch.tolist()] if case.sees_images else [batch.astype(np.float64), batch.tolist(), np.asfortranarray(batch)]
    for other in others:
        actions = model.predict(np.asarray(other, batch.dtype) if case.sees_images else np.asarray(other), deterministic=True)[
            0
        ]
        np.testing.assert_allclose(actions, expected, atol=1e-5)


def test_the_policy_says_what_the_model_says(case: Model, model: Any) -> None:
    batch = observations(model)
    np.testing.assert_array_equal(model.policy.predict(batch, deterministic=True)[0], predictions(model))
    tensor, is_vectorized = model.policy.obs_to_tensor(batch)
    assert is_vectorized and th.is_tensor(tensor) and tensor.device == model.policy.device
    assert not model.policy.obs_to_tensor(batch[0])[1]
    if not case.is_recurrent:
        with th.no_grad():
            actions = model.policy._predict(tensor, deterministic=True)
        assert len(actions) == 5


def test_evaluation(case: Model, model: Any) -> None:
    for judged in (model, model.policy):
        rewards, lengths = evaluate_policy(judged, case.evaluation_env(), n_eval_episodes=3, return_episode_rewards=True)
        assert len(rewards) == len(lengths) == 3 and np.isfinite(rewards).all()
    mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=2, deterministic=False)
    assert np.isfinite([mean, deviation]).all()
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor`` wrapper"):
        evaluate_policy(model, StreamWrapper(case.make_env()) if case.is_streaming else case.make_env(), n_eval_episodes=1)


@pytest.mark.parametrize(
    "case", [model for model in MODELS if model.is_recurrent], ids=lambda model: model.name, indirect=True
)
def test_recurrent_states(case: Model, model: Any) -> None:
    batch = observations(model)
    action, state = model.predict(batch, deterministic=True)
    following = model.predict(batch, state=state, episode_start=np.zeros(5, bool), deterministic=True)[0]
    again = model.predict(batch, state=state, episode_start=np.ones(5, bool), deterministic=True)[0]
    np.testing.assert_allclose(again, action, atol=1e-6)
    assert not np.allclose(following, action, atol=1e-6)


@pytest.mark.parametrize(
    "case", [model for model in MODELS if "Maskable" in model.name], ids=lambda model: model.name, indirect=True
)
def test_masked_actions(case: Model, model: Any) -> None:
    assert isinstance(model.action_space, spaces.Discrete)
    for allowed in range(model.action_space.n):
        mask = np.arange(model.action_space.n) == allowed
        assert (model.predict(observations(model, 20), action_masks=np.tile(mask, (20, 1)))[0] == allowed).all()
