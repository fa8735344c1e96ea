"""The same seed, the same run."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import set_random_seed
from test_save_load import assert_same_state

from compatibility.models import SIMBA_POLICIES, STEPS, Model, each, each_kind, each_model_at_leisure, each_of_ours


@each_model_at_leisure
def test_seeds(case: Model) -> None:
    first = case.build(seed=1).learn(STEPS)
    th.rand(7), np.random.rand(7)  # what was drawn before does not count
    second, third = case.build(seed=1).learn(STEPS), case.build(seed=2).learn(STEPS)
    assert_same_state(second.get_parameters(), first.get_parameters())
    state, other = first.policy.state_dict(), third.policy.state_dict()
    assert not all(th.equal(value, other[name]) for name, value in state.items())


@each_kind
def test_runs_that_go_on_are_reproduced(case: Model) -> None:
    def run() -> Any:
        return case.build().learn(STEPS).learn(STEPS, reset_num_timesteps=False)

    assert_same_state(run().get_parameters(), run().get_parameters())


@each(SIMBA_POLICIES)
def test_noise_is_seeded(case: Model) -> None:
    def run() -> Any:
        return case.build(action_noise=NormalActionNoise(np.zeros(2), np.full(2, 0.1))).learn(STEPS)

    assert_same_state(run().get_parameters(), run().get_parameters())


@each_of_ours
def test_seeding_a_model_later(case: Model) -> None:
    drawn = []
    model = case.build(seed=None)
    for _ in range(2):
        model.set_random_seed(7)
        drawn.append(np.stack([model.action_space.sample() for _ in range(5)]))
    np.testing.assert_array_equal(*drawn)
    assert model.seed is None


@each_of_ours
def test_acting_at_random_is_seeded(case: Model) -> None:
    model = case.build().learn(STEPS)
    space = model.observation_space
    space.seed(0)
    batch = np.stack([space.sample() for _ in range(20)])
    drawn = []
    for _ in range(2):
        set_random_seed(3)
        drawn.append(model.predict(batch)[0])
    np.testing.assert_array_equal(*drawn)


@each_kind
def test_the_seed_is_saved(case: Model, tmp_path: Any) -> None:
    model = case.build(seed=11)
    model.save(tmp_path / "model")
    assert case.algorithm.load(tmp_path / "model", device="cpu").seed == 11
    with pytest.raises((TypeError, ValueError), match=r"seed|int|1\.5"):
        case.build(seed=1.5)
