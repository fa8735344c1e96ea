"""Environments are made again from their specs, in gymnasium's checker and in vectors of them."""

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import sb3_sparse
from sb3_sparse.checkpoints import ResumableEnv
from sb3_sparse.envs import ActionRepeat, PixelObservations
from sb3_sparse.envs.atari import AtariWrapper
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.experiments.benchmarks.plain_stream_ac import PlainNormalizeObservation, PlainScaleReward, PlainTime
from sb3_sparse.stream_ac import StreamWrapper

PACKAGE = Path(sb3_sparse.__file__).parent


def vectors() -> gym.Env:
    return gym.make("MountainCarContinuous-v0", render_mode="rgb_array")


def game() -> gym.Env:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    return gym.make("ALE/Pong-v5")


ATARI = {
    "frame_skip": 2,
    "frame_stack": 3,
    "screen_size": 36,
    "noop_max": 5,
    "terminal_on_life_loss": False,
    "clip_reward": False,
    "repeat_action_probability": 0.25,
    "max_frames": 1000,
}
# Of each wrapper of the package: what it wraps, and arguments that are no defaults.
WRAPPERS: dict[type[gym.Wrapper], tuple[Callable[[], gym.Env], dict]] = {
    ActionRepeat: (vectors, {"action_repeat": 3}),
    AtariWrapper: (game, ATARI),
    PixelObservations: (vectors, {"image_size": (32, 24), "frame_stack": 2}),
    PlainNormalizeObservation: (vectors, {}),
    PlainScaleReward: (vectors, {"gamma": 0.9}),
    PlainTime: (vectors, {"limit": 50}),
    RandomActions: (vectors, {"epsilon": 0.5, "seed": 3}),
    ResumableEnv: (vectors, {}),
    StreamWrapper: (vectors, {"time_feature": True, "time_limit": 70, "reset_reward_trace": True}),
}


def wrappers_of_the_package() -> set[type]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"^class (\w+)\(.*Wrapper\b", path.read_text(), flags=re.MULTILINE):
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            found.add(getattr(importlib.import_module(module), name))
    return {cls for cls in found if issubclass(cls, gym.Wrapper)}


def test_every_wrapper_is_listed() -> None:
    assert wrappers_of_the_package() == set(WRAPPERS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_spec_has_every_argument(wrapper: type[gym.Wrapper]) -> None:
    make, arguments = WRAPPERS[wrapper]
    assert set(arguments) == set(inspect.signature(wrapper).parameters) - {"env"}
    env = wrapper(make(), **arguments)
    assert env.spec is not None
    copy = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(copy) is wrapper and copy.spec is not None
    assert copy.observation_space == env.observation_space
    assert EnvSpec.from_json(copy.spec.to_json()) == EnvSpec.from_json(env.spec.to_json())
    assert env.spec.additional_wrappers[-1].kwargs == arguments


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("wrapper", [StreamWrapper, ResumableEnv, RandomActions, ActionRepeat, AtariWrapper])
def test_gymnasiums_checker(wrapper: type[gym.Wrapper]) -> None:
    make, arguments = WRAPPERS[wrapper]
    check_env(wrapper(make(), **arguments), skip_render_check=True)
