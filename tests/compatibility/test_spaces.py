"""Observations and actions of every kind: learned from, or refused in words."""

from typing import Any

import numpy as np
import pytest
import stable_baselines3
from catch_env import Catch
from dot_env import DotEnv
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy

from compatibility.environments import CHOICES, VECTORS, AnyEnv
from compatibility.models import (
    DER_PIXELS,
    DER_VECTORS,
    DRQV2,
    KINDS,
    MODELS,
    SIMBA_POLICIES,
    STEPS,
    STREAM_AC,
    Model,
    each,
)
from sb3_sparse import sparsify
from sb3_sparse.stream_ac import StreamWrapper

OBSERVATIONS: dict[str, spaces.Space] = {
    "float64": spaces.Box(-10.0, 10.0, (3,), np.float64),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi discrete": spaces.MultiDiscrete([3, 4]),
    "multi binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        vector=spaces.Box(90.0, 110.0, (2,), np.float64), choice=spaces.Discrete(3), bits=spaces.MultiBinary(2)
    ),
}
BOXES: dict[str, spaces.Box] = {
    "one": spaces.Box(-1.0, 1.0, (1,)),
    "positive": spaces.Box(0.0, 3.0, (2,)),
    "asymmetric": spaces.Box(np.array([-2.0, 5.0], np.float32), np.array([1.0, 7.0], np.float32)),
    "matrix": spaces.Box(-3.0, 1.0, (2, 2)),
}
OTHER_ACTIONS: dict[str, spaces.Space] = {
    "discrete": CHOICES,
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi binary": spaces.MultiBinary(3),
}
# What sb3-contrib cannot do with its own policies either: CrossQ has no MultiInputPolicy, and recurrent policies pass torch a
# NumPy integer for the size of what FlattenExtractor returns, and binary actions as bytes.
NOT_IN_CONTRIB = [
    ("CrossQ", "dict"),
    ("sparsified CrossQ", "dict"),
    ("extractor in CrossQ", "dict"),
    ("sparsified RecurrentPPO", "multi discrete"),
]
VECTOR_MODELS = [model for model in MODELS if not model.sees_images]
CONTINUOUS = [model for model in MODELS if not model.is_discrete]
# SB3's action spaces of the on-policy algorithms.
ANY_ACTION = [model for model in MODELS if model.is_on_policy]


def ask(model: Any, env: Any) -> None:
    """An episode of the model's own actions; the environment checks them."""
    rewards, _ = evaluate_policy(model, env, n_eval_episodes=1, deterministic=False, warn=False)
    assert np.isfinite(rewards)


@each(
    (model for model in VECTOR_MODELS if model not in (STREAM_AC, DER_VECTORS)),
    by_default=[*KINDS, *SIMBA_POLICIES[3:5]],
)
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(case: Model, name: str) -> None:
    if (case.name, name) in NOT_IN_CONTRIB:
        pytest.skip("sb3-contrib has none, or cannot build it, with its own policies either")
    env = AnyEnv(OBSERVATIONS[name], case.make_env().action_space)
    model = case.build(env).learn(STEPS)
    assert model.observation_space == OBSERVATIONS[name]
    ask(model, env)


@each([STREAM_AC])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_streams_of_observations_are_flattened(case: Model, name: str) -> None:
    env = AnyEnv(OBSERVATIONS[name])
    model = case.build(env).learn(STEPS)
    assert model.observation_space.shape == (spaces.flatdim(OBSERVATIONS[name]),)
    ask(model, StreamWrapper(env))


@each([DER_VECTORS])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_of_rainbow(case: Model, name: str) -> None:
    env = AnyEnv(OBSERVATIONS[name], CHOICES)
    if isinstance(OBSERVATIONS[name], spaces.Box):
        ask(case.build(env).learn(STEPS), env)
    else:
        with pytest.raises(ValueError, match=r"DER takes vectors or images \(a Box\), got .*: flatten or select them"):
            case.build(env)


@each([DRQV2, DER_PIXELS])
@pytest.mark.parametrize("name", ["vector", *OBSERVATIONS])
def test_what_is_no_image(case: Model, name: str) -> None:
    env = AnyEnv({"vector": VECTORS, **OBSERVATIONS}[name], case.make_env().action_space)
    with pytest.raises(ValueError, match=r"image"):
        case.build(env)


@each(
    (model for model in VECTOR_MODELS if model is not DER_VECTORS and model.budget is None),
    by_default=[*KINDS, *SIMBA_POLICIES],
)
def test_images_for_networks_of_vectors(case: Model) -> None:
    image = FakeImageEnv(screen_height=40, screen_width=40, discrete=case.is_discrete)
    with pytest.raises(ValueError, match="image"):
        case.build(image)


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC", "TD3", "DDPG"])
def test_pruned_convolutions_learn_from_images(name: str) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, discrete=name == "DQN", channel_first=False)
    case = next(model for model in MODELS if model.name == f"sparsified {name}")
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = case.build(env, policy="CnnPolicy", policy_kwargs=network).learn(STEPS)
    # Channels come first, as SB3 arranges it.
    assert model.observation_space.shape == (1, 40, 40)
    ask(model, model.get_env())


def test_images_beside_vectors() -> None:
    space = spaces.Dict(vector=VECTORS, camera=spaces.Box(0, 255, (40, 40, 1), np.uint8))
    model = stable_baselines3.PPO(
        "MultiInputPolicy",
        AnyEnv(space),
        n_steps=8,
        batch_size=4,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
    )
    sparsify(model, 0.5).learn(STEPS)
    ask(model, model.get_env())


@each(CONTINUOUS, by_default=KINDS)
@pytest.mark.parametrize("name", BOXES)
def test_bounds_and_shapes_of_actions(case: Model, name: str) -> None:
    taken: list[np.ndarray] = []
    env = AnyEnv(case.make_env().observation_space, BOXES[name])
    model = case.build(env).learn(STEPS, callback=lambda found, _: taken.append(found["actions"][0]) or True)
    assert taken[0].shape == BOXES[name].shape
    ask(model, model.get_env())


@each(ANY_ACTION, by_default=KINDS)
@pytest.mark.parametrize("name", OTHER_ACTIONS)
def test_other_actions(case: Model, name: str) -> None:
    env = AnyEnv(action_space=OTHER_ACTIONS[name])
    if "Maskable" in case.name and name != "discrete":
        pytest.skip("the environment masks discrete actions only")
    if case.is_recurrent and name == "multi binary":
        pytest.skip("sb3-contrib cannot learn from them with its own policies either")
    ask(case.build(env).learn(STEPS), env)


@each([STREAM_AC, *SIMBA_POLICIES, DRQV2, DER_VECTORS])
@pytest.mark.parametrize("name", OTHER_ACTIONS)
def test_actions_that_are_refused(case: Model, name: str) -> None:
    actions = OTHER_ACTIONS[name]
    env = AnyEnv(case.make_env().observation_space, actions)
    if name == "discrete" and (case.is_discrete or case.is_streaming):
        ask(case.build(env).learn(STEPS), StreamWrapper(env) if case.is_streaming else env)
        return
    with pytest.raises((AssertionError, ValueError), match=r"Box|takes discrete actions"):
        case.build(env)


@each(SIMBA_POLICIES)
def test_unbounded_actions_are_refused(case: Model) -> None:
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        case.build(AnyEnv(action_space=spaces.Box(-np.inf, np.inf, (2,))))


@pytest.mark.parametrize(
    "make", [AnyEnv, Catch, DotEnv, lambda: StreamWrapper(AnyEnv())], ids=["any", "catch", "dot", "stream"]
)
def test_environments_are_sound(make: Any) -> None:
    check_env(make(), warn=False)
