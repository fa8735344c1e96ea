"""Whatever stands for an integer is taken for one everywhere, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_sparse import DER, DrQv2, SparseSimBaExtractor, StreamAC
from sb3_sparse.arguments import check_integer
from sb3_sparse.buffers import FrameReplayBuffer
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.der.sum_tree import SumTree
from sb3_sparse.envs import ActionRepeat, PixelObservations
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.networks import PixelEncoder, SimBaEncoder
from sb3_sparse.networks.noisy_linear import NoisyLinear
from sb3_sparse.stream_ac import StreamWrapper

PACKAGE = Path(__file__).parent.parent / "sb3_sparse"
VECTOR = spaces.Box(-1, 1, (3,), np.float32)


def cart_pole(**kwargs: Any) -> gym.Env:
    return gym.make("CartPole-v1", **kwargs)


def pixels() -> gym.Env:
    env = gym.make("MountainCarContinuous-v0", render_mode="rgb_array")
    return PixelObservations(env, 84, 3)


def game() -> gym.Env:
    pytest.importorskip("ale_py")
    return gym.make("ALE/Pong-v5")


def atari(**kwargs: Any) -> Any:
    from sb3_sparse.envs.atari import AtariWrapper

    return AtariWrapper(game(), **kwargs)


# Name of the argument, a good value, and what takes it.
ARGUMENTS: dict[str, tuple[int, Callable[..., Any]]] = {
    "frame_skip": (4, lambda n: atari(frame_skip=n)),
    "max_frames": (400, lambda n: atari(max_frames=n)),
    "noop_max": (2, lambda n: atari(noop_max=n)),
    "action_repeat": (2, lambda n: ActionRepeat(cart_pole(), n)),
    "image_size": (32, lambda n: PixelObservations(cart_pole(render_mode="rgb_array"), n)),
    "frame_stack": (2, lambda n: PixelObservations(cart_pole(render_mode="rgb_array"), 32, n)),
    "seed": (2, lambda n: RandomActions(cart_pole(), 0.5, n)),
    "time_limit": (50, lambda n: StreamWrapper(cart_pole(), time_limit=n)),
    "input_dim": (3, lambda n: SimBaEncoder(n, 4, 1)),
    "num_blocks": (2, lambda n: SimBaEncoder(3, 4, n)),
    "channels": (4, lambda n: PixelEncoder(3, 36, 36, n)),
    "in_features": (4, lambda n: NoisyLinear(n, 2)),
    "mask_seed": (4, lambda n: SparseSimBaExtractor(VECTOR, width_scale=0.0625, sparsity=0.5, mask_seed=n)),
    "n_steps": (2, lambda n: DeviceReplayBuffer(10, VECTOR, VECTOR, "cpu", n_steps=n)),
    "episode_length": (5, lambda n: FrameReplayBuffer(10, VECTOR, VECTOR, episode_length=n)),
    "capacity": (20, lambda n: SumTree(n)),
    "reset_freq": (20, lambda n: ResetCallback(n)),
    "redo_freq": (20, lambda n: ReDoCallback(n)),
    "batch_size": (20, lambda n: PlasticityCallback(batch_size=n)),
    "covariance_freq": (20, lambda n: PlasticityCallback(covariance_freq=n)),
    "update_freq": (20, lambda n: SparseTopologyCallback(update_freq=n)),
    "save_freq": (20, lambda n: ExactCheckpointCallback("folder", n)),
    "width": (8, lambda n: StreamAC("MlpPolicy", cart_pole(), policy_kwargs={"width": n})),
    "target_update_interval": (20, lambda n: DER("MlpPolicy", cart_pole(), buffer_size=50, target_update_interval=n)),
    "n_atoms": (5, lambda n: DER("MlpPolicy", cart_pole(), buffer_size=50, policy_kwargs={"n_atoms": n})),
    "learning_starts": (20, lambda n: DrQv2("CnnPolicy", pixels(), buffer_size=50, learning_starts=n)),
    "feature_dim": (20, lambda n: DrQv2("CnnPolicy", pixels(), buffer_size=50, policy_kwargs={"feature_dim": n})),
}


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array, th.tensor])
def test_integers_of_all_kinds(kind: Callable[[int], Any]) -> None:
    number = check_integer("count", kind(3))
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float32(3), "3", None, [3], 1, 8])
def test_what_is_no_integer_within_the_bounds(value: Any) -> None:
    message = f"count must be an integer from 2 to 7 (odd), got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_integer("count", value, 2, 7, "odd")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_takes_the_same_integers(name: str) -> None:
    number, make = ARGUMENTS[name]
    made = make(np.int64(number))
    assert type(getattr(made, name, 0)) in (int, tuple)  # what is saved with a model is plain
    for value in (True, 2.5, "7", -1, np.int64(-2)):
        with pytest.raises(
            ValueError, match=rf"{name} must be an integer (of at least \d|from 0 to).*, got {re.escape(repr(value))}"
        ):
            make(value)


def test_there_is_one_check_of_integers() -> None:
    by_hand = re.compile(r"\bIntegral\b|np\.integer|isinstance\(\w+, bool\) or not isinstance\(\w+, int\)")
    found = [path.name for path in PACKAGE.rglob("*.py") if by_hand.search(path.read_text())]
    assert found == ["task_camera.py"]  # a camera has a number or a name
