"""Environments that are observed by images: against dm_control itself, and against gymnasium's own wrappers."""

import os
import pickle
import re
import subprocess
import sys
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.wrappers import AddRenderObservation, FrameStackObservation, RecordVideo, ResizeObservation, TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecTransposeImage

from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.installation import install_command
from sb3_sparse.envs import (
    ActionRepeat,
    DMControlPixelEnv,
    PixelObservations,
    env_id,
    episode_length,
    pixel_observations,
    task_camera,
)
from sb3_sparse.envs.dependencies import import_suite
from sb3_sparse.envs.suite_tasks import SUITE_TASKS

pytest.importorskip("dm_control", reason="needs the extra dmc")
suite = import_suite()  # and chooses a renderer
ALL_TASKS = [(domain, task) for domain, tasks in SUITE_TASKS.items() for task in tasks]


@pytest.fixture(scope="module", autouse=True)
def renderer() -> None:
    """Skips where dm_control itself cannot render."""
    code = "from dm_control import suite; suite.load('pendulum', 'swingup').physics.render(8, 8)"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no rendering: {probe.stderr.strip().splitlines()[-1]}")


def make(domain: str = "cartpole", task: str = "swingup", **kwargs: Any) -> DMControlPixelEnv:
    return DMControlPixelEnv(domain, task, **{"fast_rendering": True, "image_size": 24, **kwargs})


# DeepMind Control Suite


def test_every_task_is_registered() -> None:
    assert all(env_id(domain, task, pixels=True) in gym.registry for domain, task in ALL_TASKS)


@pytest.mark.parametrize(("domain", "task", "camera"), [("cartpole", "swingup", 0), ("quadruped", "run", 2)])
def test_drq_v2s_observations(domain: str, task: str, camera: int) -> None:
    """DrQ-v2's wrappers, from the innermost to the outermost, written out."""
    env = gym.make(env_id(domain, task, pixels=True))
    observation, _ = env.reset(seed=3)
    assert env.observation_space == gym.spaces.Box(0, 255, (9, 84, 84), np.uint8)
    reference = suite.load(domain, task, task_kwargs={"random": np.random.RandomState(_generator(3))})
    reference.reset()

    def pixels() -> np.ndarray:
        return reference.physics.render(height=84, width=84, camera_id=camera).transpose(2, 0, 1)

    frames = deque([pixels()] * 3, maxlen=3)
    np.testing.assert_array_equal(observation, np.concatenate(frames))
    for action in np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape)).astype(np.float32):
        specification, reward, discount = reference.action_spec(), 0.0, 1.0
        for _ in range(2):
            low, high = specification.minimum, specification.maximum
            timestep = reference.step(low + (action.astype(float) + 1) / 2 * (high - low))
            reward, discount = reward + timestep.reward * discount, discount * timestep.discount
        frames.append(pixels())
        observation, found, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, np.concatenate(frames))
        assert (found, terminated, truncated, info) == (pytest.approx(reward), False, False, {"discount": discount})
        assert observation.dtype == np.uint8 and env.observation_space.contains(observation)
    env.close()


def _generator(seed: int) -> np.random.BitGenerator:
    return gym.utils.seeding.np_random(seed)[0].bit_generator


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "task"), ALL_TASKS)
def test_every_task_can_be_seen(domain: str, task: str) -> None:
    env = gym.make(env_id(domain, task, pixels=True), fast_rendering=True, render_mode="rgb_array")
    env.action_space.seed(0)
    first, _ = env.reset(seed=0)
    for _ in range(30):  # what is to move is slow in lqr
        observation, *_ = env.step(env.action_space.sample())
    assert observation.std() > 0 and not np.array_equal(observation, first)
    assert env.render().shape == (480, 480, 3)
    env.close()


def test_one_frame_is_drawn_per_agent_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(action_repeat=4)
    drawn = []
    monkeypatch.setattr(task_camera.TaskCamera, "frame", lambda self: drawn.append(1) or np.zeros((3, 24, 24), np.uint8))
    env.reset(seed=0)
    assert len(drawn) == 1
    for _ in range(5):
        env.step(np.zeros(1, np.float32))
    assert len(drawn) == 6


def test_time_limit_and_termination() -> None:
    env = make("lqr", "lqr_2_1", action_repeat=100)
    assert episode_length(env) == 10
    env.reset(seed=0)
    *_, truncated, info = [env.step(np.ones(1, np.float32)) for _ in range(10)][-1]
    assert (truncated, info) == (True, {"discount": 1.0})
    env.reset(seed=0)
    env.physics.set_state(np.zeros(4))
    env.physics.forward()
    _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info) == (True, False, {"discount": 0.0})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))


def test_another_model_is_seen_after_it_was_drawn() -> None:
    """Seeding lqr draws the model anew, and with it goes the camera's scene."""
    env = make("lqr", "lqr_2_1")
    observations = [env.reset(seed=seed)[0] for seed in (0, 1, 0)]
    assert np.array_equal(observations[0], observations[2]) and not np.array_equal(observations[0], observations[1])


def test_fast_rendering_leaves_out_shadows_and_multisampling() -> None:
    exact, fast = (make(image_size=84, fast_rendering=choice).reset(seed=0)[0].astype(int) for choice in (False, True))
    difference = np.abs(exact - fast)
    assert 0 < difference.mean() < 15
    assert np.percentile(difference, 50) < 5
    physics = suite.load("cartpole", "swingup", task_kwargs={"random": np.random.RandomState(_generator(0))}).physics
    physics.model.vis.quality.offsamples = 0
    env = make(image_size=84)
    env.reset(seed=0)
    physics.set_state(env.physics.get_state())
    physics.forward()
    expected = physics.render(84, 84, camera_id=0, render_flag_overrides={"shadow": False}).transpose(2, 0, 1)
    np.testing.assert_array_equal(fast[:3], expected)


def test_keyword_arguments() -> None:
    env = make(image_size=(16, 32), frame_stack=2, camera="lookatcart", action_repeat=5)
    other = make(image_size=(16, 32), frame_stack=2, camera=1, action_repeat=5)
    fixed = make(image_size=(16, 32), frame_stack=2, camera=0, action_repeat=5)
    observations = [copy.reset(seed=0)[0] for copy in (env, other, fixed)]
    assert observations[0].shape == env.observation_space.shape == (6, 16, 32)
    assert np.array_equal(observations[0], observations[1]) and not np.array_equal(observations[0], observations[2])
    assert episode_length(env) == 200


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"frame_stack": 0}, "frame_stack must be an integer of at least 1, got 0"),
        ({"action_repeat": 0}, "action_repeat must be an integer of at least 1, got 0"),
        ({"action_repeat": 1.5}, "action_repeat must be an integer of at least 1, got 1.5"),
        ({"image_size": 0}, "image_size must be an integer of at least 1, got 0"),
        ({"image_size": (84, 84, 3)}, "image_size must be one number or a height and a width"),
        ({"image_size": 700}, "image_size must be at most 480 x 640 for this model, got 700 x 700"),
        ({"camera": 7}, r"no camera 7, but -1 \(free\), 0 \(fixed\), 1 \(lookatcart\)"),
        ({"camera": "back"}, "no camera 'back'"),
        ({"camera": None, "render_mode": "human"}, "render_mode must be None or one of"),
    ],
)
def test_invalid_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_pictures_for_videos(tmp_path: Any) -> None:
    pytest.importorskip("moviepy")
    env = RecordVideo(
        make(render_mode="rgb_array"), str(tmp_path / "videos"), lambda episode: True, video_length=3, disable_logger=True
    )
    env.reset(seed=0)
    for _ in range(4):
        observation, *_ = env.step(np.zeros(1, np.float32))
    assert env.render().shape == (480, 480, 3)
    assert observation.shape == (9, 24, 24)
    env.close()
    assert [path.suffix for path in (tmp_path / "videos").iterdir()] == [".mp4"]


def test_environment_checkers() -> None:
    gymnasium_check_env(make(), skip_render_check=True)
    sb3_check_env(make(image_size=36), skip_render_check=True)


def test_copies() -> None:
    env = gym.make(
        env_id("pendulum", "swingup", pixels=True), image_size=16, frame_stack=2, action_repeat=4, fast_rendering=True
    )
    copies = [
        pickle.loads(pickle.dumps(env.unwrapped)),
        gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json())),
    ]
    for copy in copies:
        assert copy.observation_space.shape == (6, 16, 16)
        assert episode_length(copy) == episode_length(env) == 250
        np.testing.assert_array_equal(copy.reset(seed=5)[0], env.reset(seed=5)[0])


def test_closing_twice() -> None:
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_processes_of_their_own(start_method: str) -> None:
    """Each draws in a context of its own."""
    id_ = f"sb3_sparse.envs:{env_id('cartpole', 'swingup', pixels=True)}"
    kwargs = {"n_envs": 2, "seed": 5, "env_kwargs": {"fast_rendering": True, "image_size": 24}}
    observations = []
    for vec_env_cls, vec_env_kwargs in [(DummyVecEnv, {}), (SubprocVecEnv, {"start_method": start_method})]:
        venv = make_vec_env(id_, vec_env_cls=vec_env_cls, vec_env_kwargs=vec_env_kwargs, **kwargs)
        venv.reset()
        observations.append([venv.step(np.full((2, 1), 0.5, np.float32))[0] for _ in range(3)])
        venv.close()
    assert observations[0][0].shape == (2, 9, 24, 24)
    np.testing.assert_array_equal(*observations)


def without_display(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {**{key: value for key, value in os.environ.items() if key not in unset}, **variables}
    code = f"import gymnasium as gym, sb3_sparse.envs; task = 'dm_control/pendulum-swingup-pixels-v0'; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a way to draw")
def test_a_renderer_is_found_without_a_display() -> None:
    result = without_display("print(gym.make(task).reset(seed=0)[0].std() > 0)")
    assert result.stdout.strip() == "True", result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a way to draw")
@pytest.mark.parametrize("variables", [{}, {"MUJOCO_GL": "disabled"}], ids=["no library", "disabled"])
def test_without_any_renderer_no_episode_begins(variables: dict[str, str]) -> None:
    nothing = "import sb3_sparse.envs.dependencies as d; d._is_loadable = lambda _: False"
    result = without_display(
        f"{nothing}; env = gym.make(task); print(env.unwrapped.max_episode_steps); env.reset()", **variables
    )
    assert result.stdout.strip() == "500"  # what is known without drawing
    assert "NoRendererError: dm_control cannot draw images" in result.stderr
    assert "libegl1" in result.stderr and "libosmesa6" in result.stderr


# Any other environment


class ImageEnv(gym.Env):
    """Random images, as observations or drawn."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...] = (96, 96, 3), observes: bool = True, render_mode: str | None = None):
        self.shape, self.observes, self.render_mode = shape, observes, render_mode
        box = gym.spaces.Box(0, 255, shape, np.uint8) if observes else gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space, self.action_space = box, gym.spaces.Box(-1, 1, (1,), np.float32)

    def _observe(self) -> np.ndarray:
        self.image = self.np_random.integers(0, 256, self.shape).astype(np.uint8)
        return self.image if self.observes else np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == 7, False, {"discount": 0.5}

    def render(self) -> np.ndarray:
        return self.image


@pytest.mark.parametrize("observes", [True, False], ids=["observed", "rendered"])
@pytest.mark.parametrize("size", [96, 84], ids=["as it is", "scaled"])
def test_agrees_with_gymnasiums_wrappers(observes: bool, size: int) -> None:
    pytest.importorskip("cv2")
    ours = pixel_observations(ImageEnv(observes=observes, render_mode="rgb_array"), image_size=size)
    theirs: gym.Env = ImageEnv(observes=observes, render_mode="rgb_array")
    theirs = FrameStackObservation(ResizeObservation(theirs if observes else AddRenderObservation(theirs), (size, size)), 3)
    assert ours.observation_space == gym.spaces.Box(0, 255, (9, size, size), np.uint8)
    pairs = [(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])]
    pairs += [(ours.step(None)[0], theirs.step(None)[0]) for _ in range(5)]
    for observation, stacked in pairs:
        np.testing.assert_array_equal(observation, stacked.transpose(0, 3, 1, 2).reshape(9, size, size))


@pytest.mark.parametrize(
    ("shape", "observation"), [((12, 16), (3, 12, 16)), ((12, 16, 1), (3, 12, 16)), ((3, 12, 16), (9, 12, 16))]
)
@pytest.mark.parametrize("scale", [1, 2])
def test_grey_and_channel_first_images(shape: tuple[int, ...], observation: tuple[int, ...], scale: int) -> None:
    pytest.importorskip("cv2")
    env = pixel_observations(ImageEnv(shape), image_size=(12 // scale, 16 // scale))
    first, _ = env.reset(seed=0)
    assert first.shape == env.observation_space.shape == (observation[0], 12 // scale, 16 // scale)
    if scale == 1:
        np.testing.assert_array_equal(first[: observation[0] // 3], env.unwrapped.image.reshape(-1, 12, 16))


def test_rendered_mujoco_environment() -> None:
    env = pixel_observations(gym.make("HalfCheetah-v4", render_mode="rgb_array", width=84, height=84), action_repeat=2)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (9, 84, 84) and observation.std() > 0
    following, *_ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(following[:6], observation[3:])
    assert not np.array_equal(following[6:], observation[6:])
    assert episode_length(env) == 500
    env.close()


def test_missing_opencv_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=re.escape(install_command("pixels"))):
        pixel_observations(ImageEnv(), image_size=84)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (ImageEnv(observes=False), "make it with render_mode='rgb_array', not None"),
        (gym.wrappers.RescaleObservation(ImageEnv(), np.float32(0), np.float32(1)), "are no images"),
    ],
    ids=["not rendered", "floats"],
)
def test_no_images(env: gym.Env, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_observations(env)


def test_strange_pictures() -> None:
    env = pixel_observations(ImageEnv((8, 8), observes=False, render_mode="rgb_array"), image_size=8)
    with pytest.raises(ValueError, match=r"must render images .* it renders uint8 of shape \(8, 8\)"):
        env.reset(seed=0)


@pytest.mark.parametrize("arguments", [{"frame_stack": 0}, {"image_size": 1.5}, {"action_repeat": 0}])
def test_invalid_arguments_of_wrappers(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        pixel_observations(ImageEnv(), **arguments)


def test_repeated_actions() -> None:
    env = ActionRepeat(TimeLimit(ImageEnv((4, 4, 3)), 20), 3)
    env.reset(seed=0)
    assert env.step(None)[1:] == (1.75, False, False, {"discount": 0.125})  # 1 + 1/2 + 1/4
    env.step(None)
    # The episode ends with the first of three.
    assert env.step(None)[1:] == (1.0, True, False, {"discount": 0.5})
    assert env.action_repeat == 3


def test_wrappers_are_part_of_the_spec() -> None:
    env = PixelObservations(ActionRepeat(gym.make("HalfCheetah-v4", render_mode="rgb_array", width=32, height=32), 2), 32, 2)
    copy = gym.make(env.spec)
    assert copy.observation_space == env.observation_space
    assert copy.get_wrapper_attr("action_repeat") == 2


# With Stable-Baselines3


def test_trains_with_a_buffer_of_frames() -> None:
    venv = DummyVecEnv([lambda: Monitor(make(image_size=36, action_repeat=100)) for _ in range(2)])
    buffer = {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"frame_stack": 3, "n_steps": 3}}
    model = SAC("CnnPolicy", venv, buffer_size=40, learning_starts=10, batch_size=4, seed=0, **buffer)
    model.learn(34)
    assert model._n_updates == 12
    assert model.replay_buffer.size() == 17
    batch = model.replay_buffer.sample(5)
    assert batch.observations.dtype == th.uint8 and batch.observations.shape == (5, 9, 36, 36)


def test_buffer_takes_sb3s_stacks() -> None:
    """SB3 stacks channels last, pads with zeros, and transposes afterwards."""
    venv = VecTransposeImage(VecFrameStack(DummyVecEnv([lambda: ImageEnv((36, 36, 3))]), 4))
    buffer = FrameReplayBuffer(30, venv.observation_space, venv.action_space, frame_stack=4, n_steps=2)
    observations, seen = venv.reset(), []
    for _ in range(25):
        following, rewards, dones, infos = venv.step([venv.action_space.sample()])
        last = infos[0]["terminal_observation"][None] if dones[0] else following
        buffer.add(observations, last, np.zeros((1, 1)), rewards, dones, infos)
        seen.append(observations)
        observations = following
    np.testing.assert_array_equal(buffer.read(th.arange(25)).observations, np.concatenate(seen))
