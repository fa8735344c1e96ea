import ctypes
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.wrappers import RecordVideo, TimeLimit
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize, VecVideoRecorder

from sb3_sparse.installation import install_command
from sb3_sparse.envs import DMControlEnv, discount_heuristic, env_id, episode_length
from sb3_sparse.envs.dependencies import check_mujoco_version
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.envs.suite_tasks import SUITE_TASKS, TIME_LIMITS

ALL_TASKS = [(domain, task) for domain, tasks in SUITE_TASKS.items() for task in tasks]
# One domain per peculiarity: scalar entries, unsorted keys, asymmetric actuators, a random model without limits.
TASKS = [("cartpole", "swingup"), ("humanoid", "run"), ("quadruped", "walk"), ("lqr", "lqr_2_1")]


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# dm_control chooses its renderer when it is imported.
if "MUJOCO_GL" not in os.environ:
    libraries = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
    os.environ["MUJOCO_GL"] = next((name for name, library in libraries.items() if _loadable(library)), "disabled")

suite = pytest.importorskip("dm_control.suite", reason="needs the extra dmc")


@pytest.fixture(scope="module")
def rendering() -> None:
    """Skips where dm_control itself, without our environment, cannot render."""
    code = "from dm_control import suite; suite.load('pendulum', 'swingup').physics.render(8, 8)"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no rendering with MUJOCO_GL={os.environ['MUJOCO_GL']}: {probe.stderr.strip().splitlines()[-1]}")


def make(domain: str, task: str, **kwargs) -> gym.Env:
    return gym.make(env_id(domain, task), **kwargs)


def actions_for(env: gym.Env, steps: int) -> np.ndarray:
    assert env.action_space.shape is not None
    return np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def rollout(env: gym.Env, seed: int | None, steps: int = 10) -> np.ndarray:
    observations = [env.reset(seed=seed)[0]]
    for action in actions_for(env, steps):
        observation, reward, _, _, _ = env.step(action)
        observations.append(np.append(observation, reward))
    return np.concatenate(observations)


def play_episode(env: gym.Env) -> tuple[int, bool, bool]:
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    for step in range(1, 2000):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return step, terminated, truncated
    raise AssertionError("the episode does not end")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    result = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result


# Registration


def test_every_task_of_the_suite_is_registered():
    assert set(ALL_TASKS) == set(suite.ALL_TASKS)
    assert all(env_id(domain, task) in gym.registry for domain, task in ALL_TASKS)


def test_every_task_of_shimmy_is_registered():
    shimmy_tasks = pytest.importorskip("shimmy.utils.envs_configs").DM_CONTROL_SUITE_ENVS
    assert set(shimmy_tasks) <= set(ALL_TASKS)


@pytest.mark.parametrize(
    "imports",
    [
        "import shimmy, sb3_sparse.envs",
        # Looking for Shimmy, as is done to see whether it is installed, must not count as its import.
        "import sb3_sparse.envs; importlib.util.find_spec('shimmy'); import shimmy",
        "import sb3_sparse.envs; gym.make('shimmy:{id}')",
    ],
)
def test_ours_win_over_shimmy_without_warnings(imports):
    pytest.importorskip("shimmy")
    code = f"""
import importlib.util, sys
import gymnasium as gym
{imports.format(id="dm_control/cartpole-balance-v0")}
from sb3_sparse.envs.suite_tasks import SUITE_TASKS
assert type(sys.modules["shimmy"].__spec__.loader).__module__ != "sb3_sparse.envs.registration"
assert "dm_control/compatibility-env-v0" in gym.registry, "shimmy has not registered its own"
for domain, tasks in SUITE_TASKS.items():
    for task in tasks:
        assert gym.spec(f"dm_control/{{domain}}-{{task}}-v0").entry_point == "sb3_sparse.envs.dm_control_env:DMControlEnv"
"""
    assert "Overriding" not in run_python(code).stderr


def test_import_is_cheap():
    code = "import sys, sb3_sparse.envs; print({'dm_control', 'mujoco', 'shimmy'} & set(sys.modules))"
    assert run_python(code).stdout.strip() == "set()"


def test_making_a_task_prints_nothing():
    code = "import sb3_sparse.envs, gymnasium; gymnasium.make('dm_control/cheetah-run-v0').reset()"
    assert run_python(code).stderr == ""


def test_missing_dm_control_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ImportError, match=re.escape(install_command("dmc"))):
        make("cartpole", "balance")


@pytest.mark.parametrize("version", ["4.0.0", "4.1.0rc1", "10.0"])
def test_too_new_mujoco_names_version_and_remedy(version):
    with pytest.raises(ImportError, match=rf'{version}.*pip install "mujoco>=3.17,<4"'):
        check_mujoco_version(version)


def test_too_new_mujoco_is_refused_before_loading(monkeypatch):
    monkeypatch.setattr("sb3_sparse.envs.dependencies.version", lambda package: "4.0.0")
    with pytest.raises(ImportError, match=r"mujoco 4\.0\.0"):
        make("cartpole", "balance")


@pytest.mark.parametrize("version", ["3.17.0", "3.40.1", "3.17.0.dev1"])
def test_fitting_mujoco_is_accepted(version):
    check_mujoco_version(version)


# Spaces, observations and actions


@pytest.mark.parametrize(
    ("domain", "task", "observation_size", "action_size"),
    [("cartpole", "swingup", 5, 1), ("humanoid", "run", 67, 21), ("dog", "run", 223, 38), ("lqr", "lqr_6_2", 12, 2)],
)
def test_spaces(domain, task, observation_size, action_size):
    env = make(domain, task)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
    assert env.action_space == gym.spaces.Box(-1, 1, (action_size,), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "task"), ALL_TASKS)
def test_every_task(domain, task):
    env, other = make(domain, task), make(domain, task)
    assert env.action_space == gym.spaces.Box(-1, 1, env.action_space.shape, np.float32)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    first, different, again = rollout(env, 5), rollout(env, 6), rollout(env, 5)
    assert np.array_equal(first, again) and np.array_equal(first, rollout(other, 5))
    assert not np.array_equal(first, different)
    assert episode_length(env) == 500


@pytest.mark.parametrize(("domain", "task"), [("humanoid", "run"), ("hopper", "hop")])
def test_observations_are_flattened_as_by_gymnasium(domain, task):
    shimmy = pytest.importorskip("shimmy")
    env = make(domain, task)
    observation, _ = env.reset(seed=0)
    # A second reading of the same state, through Shimmy's dictionary and gymnasium's flattening.
    reference = shimmy.DmControlCompatibilityV0(suite.load(domain, task))
    reference.unwrapped.physics.set_state(env.unwrapped.physics.get_state())
    reference.unwrapped.physics.forward()
    reading = reference.unwrapped.task.get_observation(reference.unwrapped.physics)
    reading = {key: np.asarray(value) for key, value in reading.items()}
    np.testing.assert_allclose(observation, gym.spaces.flatten(reference.observation_space, reading), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("domain", "task"), TASKS)
def test_trajectory_is_dm_controls(domain, task):
    env = make(domain, task)
    stream = np.random.RandomState(np.random.PCG64(np.random.SeedSequence(3)))
    reference = suite.load(domain, task, task_kwargs={"random": stream})
    spec = reference.action_spec()
    low, high = np.maximum(spec.minimum, -10), np.minimum(spec.maximum, 10)
    observation, _ = env.reset(seed=3)
    timestep = reference.reset()
    for action in actions_for(env, 5):
        observation, reward, _, _, _ = env.step(action)
        timesteps = [reference.step(low + (action.astype(np.float64) + 1) / 2 * (high - low)) for _ in range(2)]
        expected = np.concatenate([np.ravel(timesteps[-1].observation[key]) for key in sorted(timestep.observation)])
        np.testing.assert_allclose(observation, expected, rtol=1e-4, atol=1e-5)
        assert reward == pytest.approx(sum(timestep.reward for timestep in timesteps), rel=1e-6)


@pytest.mark.parametrize(("domain", "task"), TASKS)
@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_bounds_reach_the_actuators_limits(domain, task, bound):
    env = make(domain, task)
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, bound, dtype=np.float32))
    spec = suite.load(domain, task).action_spec()
    limit = np.clip(spec.maximum if bound > 0 else spec.minimum, -10, 10)
    assert np.array_equal(env.unwrapped.physics.control(), limit)


def test_actions_outside_the_bounds_are_clipped():
    env = make("quadruped", "walk")
    env.reset(seed=0)
    env.step(np.full(12, 5.0, dtype=np.float32))
    assert np.array_equal(env.unwrapped.physics.control(), suite.load("quadruped", "walk").action_spec().maximum)


def test_returned_observations_are_not_reused():
    env = make("cartpole", "swingup")
    first, _ = env.reset(seed=0)
    copy = first.copy()
    env.step(np.ones(1, dtype=np.float32))
    assert first.dtype == np.float32 and np.array_equal(first, copy)


# Action repeat and episode ends


@pytest.mark.parametrize("action_repeat", [0, -1, 1.5, True, "2", None])
def test_invalid_action_repeat(action_repeat):
    with pytest.raises(ValueError, match=f"action_repeat.*{action_repeat!r}"):
        make("cartpole", "swingup", action_repeat=action_repeat)


@pytest.mark.parametrize("action_repeat", [2, 3])
def test_repeated_step_is_several_single_ones(action_repeat):
    env, single = make("walker", "walk", action_repeat=action_repeat), make("walker", "walk", action_repeat=1)
    env.reset(seed=1)
    single.reset(seed=1)
    for action in actions_for(env, 4):
        observation, reward, _, _, _ = env.step(action)
        steps = [single.step(action) for _ in range(action_repeat)]
        assert np.array_equal(observation, steps[-1][0])
        assert reward == pytest.approx(sum(step[1] for step in steps))


@pytest.mark.parametrize(("action_repeat", "steps"), [(1, 1000), (2, 500), (3, 334), (np.int64(4), 250)])
def test_time_limit_truncates(action_repeat, steps):
    env = make("pendulum", "swingup", action_repeat=action_repeat)
    assert play_episode(env) == (steps, False, True)
    assert env.unwrapped.max_episode_steps == steps == episode_length(env)


def test_remainder_of_the_last_step_is_played_alone():
    env = make("cartpole", "balance", action_repeat=3)
    env.reset(seed=0)
    rewards = [env.step(np.zeros(1, dtype=np.float32))[1] for _ in range(334)]
    # 333 steps of three rewards in [0, 1] and one step of a single reward.
    assert rewards[-1] <= 1 < rewards[0]


def test_lqr_has_a_time_limit():
    assert play_episode(make("lqr", "lqr_2_1")) == (500, False, True)


def test_every_time_limit_of_ours_is_1000_control_steps():
    for domain, limit in TIME_LIMITS.items():
        for task in SUITE_TASKS[domain]:
            assert suite.load(domain, task)._step_limit == np.inf
            assert limit / suite.load(domain, task).control_timestep() == pytest.approx(1000)


def test_task_terminates():
    env = make("lqr", "lqr_2_1")
    env.reset(seed=0)
    env.unwrapped.physics.set_state(np.zeros(4))
    env.unwrapped.physics.forward()
    _, reward, terminated, truncated, _ = env.step(np.zeros(1, dtype=np.float32))
    assert (terminated, truncated) == (True, False)
    # The second of the two repeated control steps is not played.
    assert reward == pytest.approx(1)


@pytest.mark.parametrize("play", [lambda env: None, play_episode, lambda env: (env.reset(), env.close())])
def test_step_without_an_episode_is_refused(play):
    env = DMControlEnv("pendulum", "swingup", action_repeat=10)
    play(env)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(np.zeros(1, dtype=np.float32))


def test_kwargs_reach_dm_control():
    env = make("pendulum", "swingup", task_kwargs={"time_limit": 1.0}, environment_kwargs={"n_sub_steps": 2})
    assert play_episode(env)[0] == episode_length(env) == 13


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"task_kwargs": {"random": 1}}, "reset"), ({"render_mode": "ascii"}, "render_mode.*'ascii'")]
)
def test_invalid_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DMControlEnv("pendulum", "swingup", **kwargs)


# Seeding


@pytest.mark.parametrize(("domain", "task"), [*TASKS, ("point_mass", "hard"), ("quadruped", "escape")])
def test_seed_reproduces_trajectories(domain, task):
    env, other = make(domain, task), make(domain, task)
    first, second = rollout(env, 7), rollout(env, None)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, rollout(env, 8))
    assert np.array_equal(first, rollout(env, 7)) and np.array_equal(second, rollout(env, None))
    assert np.array_equal(first, rollout(other, 7)) and np.array_equal(second, rollout(other, None))


def test_unseeded_environments_differ():
    assert not np.array_equal(rollout(make("reacher", "easy"), None), rollout(make("reacher", "easy"), None))


def test_large_seed():
    assert np.array_equal(rollout(make("reacher", "easy"), 2**40), rollout(make("reacher", "easy"), 2**40))


def test_lqr_model_follows_the_seed():
    env = make("lqr", "lqr_6_2")

    def stiffness(seed):
        env.reset(seed=seed)
        return env.unwrapped.physics.model.jnt_stiffness.copy()

    first = stiffness(0)
    assert np.array_equal(first, stiffness(None))
    assert not np.array_equal(first, stiffness(1))
    assert np.array_equal(first, stiffness(0))


@pytest.mark.parametrize(("domain", "task"), [("cartpole", "swingup"), ("fish", "swim")])
def test_generator_state_before_a_reset_restores_the_episode(domain, task):
    env, other = make(domain, task), make(domain, task)
    rollout(env, 0)
    other.reset(seed=1)
    other.unwrapped.np_random.bit_generator.state = env.unwrapped.np_random.bit_generator.state
    assert np.array_equal(rollout(env, None), rollout(other, None))


def test_seed_through_sb3():
    def train():
        env = make_vec_env(env_id("cartpole", "swingup"), n_envs=2, vec_env_cls=DummyVecEnv)
        model = SAC("MlpPolicy", env, learning_starts=100, buffer_size=100, policy_kwargs={"net_arch": [4]})
        model.set_random_seed(3)
        model.learn(20)
        return model.replay_buffer.observations[:10]

    observations = train()
    assert np.array_equal(observations, train())
    assert not np.array_equal(observations[:, 0], observations[:, 1])


# Rendering


@pytest.mark.parametrize(("domain", "task", "fps"), [("cartpole", "swingup", 50.0), ("humanoid", "run", 20.0)])
def test_render_fps_is_the_instances_own(domain, task, fps):
    env = make(domain, task)
    other = make("fish", "swim", action_repeat=1)
    assert env.metadata["render_fps"] == pytest.approx(fps)
    assert other.metadata["render_fps"] == pytest.approx(25.0)
    assert "render_fps" not in DMControlEnv.metadata


def test_no_rendering_without_a_mode():
    env = DMControlEnv("pendulum", "swingup")
    env.reset(seed=0)
    assert env.render() is None


@pytest.mark.usefixtures("rendering")
def test_render_kwargs():
    frames = []
    for camera_id in (0, 1):
        kwargs = {"width": 48, "height": 32, "camera_id": camera_id}
        env = make("walker", "walk", render_mode="rgb_array", render_kwargs=kwargs)
        env.reset(seed=0)
        frames.append(env.render())
        env.close()
    assert frames[0].shape == (32, 48, 3) and frames[0].dtype == np.uint8
    assert frames[0].std() > 0 and not np.array_equal(frames[0], frames[1])


def run_without_display(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {**{key: value for key, value in os.environ.items() if key not in unset}, **variables}
    code = f"import os, gymnasium as gym, sb3_sparse.envs; task = 'dm_control/pendulum-swingup-v0'; {code}"
    return subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a way to draw")
@pytest.mark.usefixtures("rendering")
def test_rendering_without_a_display_needs_no_setting():
    # SB3's make_vec_env asks for images, gym.make does not: neither order may spoil the other.
    code = "gym.make(task); from stable_baselines3.common.env_util import make_vec_env; env = make_vec_env(task); env.reset()"
    result = run_without_display(f"{code}; print(env.render().shape)")
    assert result.stdout.strip() == "(240, 320, 3)", result.stderr
    assert "GLFWError" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a way to draw")
def test_without_any_renderer_all_but_rendering_works():
    code = "env = gym.make(task, render_mode='rgb_array'); env.reset(); env.step(env.action_space.sample()); print('works')"
    result = run_without_display(
        f"import sb3_sparse.envs.dependencies as d; d._is_loadable = lambda _: False; {code}; env.render()"
    )
    assert result.stdout.strip() == "works", result.stderr
    assert "NoRendererError" in result.stderr and "libegl1" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a way to draw")
@pytest.mark.parametrize("renderer, task", [("egl", "cartpole-swingup"), ("osmesa", "cartpole-swingup-pixels")])
def test_a_renderer_that_is_missing_is_named_with_the_remedy(renderer, task):
    # What PyOpenGL finds where the library is missing, on machines that have it, too.
    missing = "import OpenGL.platform.ctypesloader as loader; loader._loadLibraryPosix = lambda *_: None"
    result = run_without_display(
        f"{missing}; gym.make('dm_control/{task}-v0')", MUJOCO_GL=renderer, PYOPENGL_PLATFORM=renderer
    )
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("sb3_sparse.envs.dependencies.NoRendererError: dm_control cannot draw images")
    assert f"MUJOCO_GL={renderer} " in message and "libegl1" in message and "libosmesa6" in message


def test_triton_is_imported_before_the_renderer(tmp_path, monkeypatch):
    # After EGL without a GPU, triton 3.9 (torch 2.15 for CUDA) crashes the process, with the first optimizer.
    report = "import sys; print('late' if 'dm_control' in sys.modules else 'early')"
    (tmp_path / "triton.py").write_text(report)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_without_display("gym.make(task); import triton").stdout.strip() == "early"


@pytest.mark.usefixtures("rendering")
def test_render_depth_and_after_a_new_model():
    env = make("lqr", "lqr_2_1", render_mode="depth_array", render_kwargs={"width": 16, "height": 8})
    for seed in (0, 1):
        env.reset(seed=seed)
        depth = env.render()
        assert depth.shape == (8, 16) and depth.dtype == np.float32 and depth.min() > 0
    env.close()
    env.close()


@pytest.mark.usefixtures("rendering")
def test_record_video(tmp_path):
    pytest.importorskip("moviepy")
    env = make("lqr", "lqr_2_1", render_mode="rgb_array", render_kwargs={"width": 32, "height": 32})
    env = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True, video_length=4, disable_logger=True)
    env.reset(seed=0)
    for action in actions_for(env, 5):
        env.step(action)
    env.close()
    assert [path.suffix for path in (tmp_path / "videos").iterdir()] == [".mp4"]
    assert env.frames_per_sec == pytest.approx(1 / 0.06)


@pytest.mark.usefixtures("rendering")
def test_vec_video_recorder(tmp_path):
    pytest.importorskip("moviepy")
    kwargs = {"render_mode": "rgb_array", "render_kwargs": {"width": 32, "height": 32}}
    venv = make_vec_env(env_id("cartpole", "swingup"), env_kwargs=kwargs)
    venv = VecVideoRecorder(venv, str(tmp_path), lambda step: step == 0, video_length=4)
    venv.reset()
    for _ in range(5):
        venv.step([venv.action_space.sample()])
    venv.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]
    assert venv.frames_per_sec == pytest.approx(50)


# As a gymnasium environment


@pytest.mark.parametrize(("domain", "task"), TASKS)
def test_environment_checkers(domain, task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The suite's observations have no limits.
        warnings.filterwarnings("ignore", message=".*A Box observation space (minimum|maximum) value is.*infinity.*")
        gymnasium_check_env(make(domain, task).unwrapped, skip_render_check=True)
        sb3_check_env(make(domain, task), skip_render_check=True)


def test_pickle_keeps_the_arguments():
    env = DMControlEnv("lqr", "lqr_2_1", action_repeat=3, task_kwargs={"time_limit": 3.0})
    copy = pickle.loads(pickle.dumps(env))
    assert episode_length(copy) == episode_length(env) == 34
    assert np.array_equal(rollout(copy, 0), rollout(env, 0))


def test_environment_from_its_spec():
    env = make("pendulum", "swingup", action_repeat=4)
    copy = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert play_episode(copy) == (250, False, True)
    assert np.array_equal(rollout(copy, 0), rollout(env, 0))


def unregistered(env: gym.Env) -> gym.envs.registration.EnvSpec:
    return gym.envs.registration.EnvSpec.from_json(env.spec.to_json())


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize(
    "spec_of", [lambda env: env.spec, unregistered, lambda env: RandomActions(env, 0.1, 0).spec, lambda env: env.spec.id]
)
def test_another_action_repeat_than_the_specs(pixels, spec_of):
    id_ = env_id("pendulum", "swingup", pixels)
    copy = gym.make(spec_of(gym.make(id_)), action_repeat=1)
    assert episode_length(copy) == episode_length(DummyVecEnv([lambda: copy])) == 1000
    assert not copy.has_wrapper_attr("_max_episode_steps")


def test_another_action_repeat_than_the_specs_in_a_vector():
    vector = gym.make_vec(make("pendulum", "swingup").spec, 2, action_repeat=1)
    assert [episode_length(env) for env in vector.envs] == [1000, 1000]
    assert [episode_length(env) for env in gym.make_vec(vector.spec, action_repeat=4).envs] == [250, 250]


def test_the_users_limit_is_part_of_the_spec():
    env = make("pendulum", "swingup", max_episode_steps=100)
    assert play_episode(gym.make(env.spec, action_repeat=1)) == (100, False, True)


def test_unwrapped_and_close():
    env = make("pendulum", "swingup")
    assert isinstance(env.unwrapped, DMControlEnv)
    env.reset(seed=0)
    env.close()
    env.close()


def test_subproc_vec_env_matches_dummy():
    # The module before the colon registers the id in the worker, too.
    id_ = f"sb3_sparse.envs:{env_id('cartpole', 'swingup')}"
    rewards = []
    for vec_env_cls in (DummyVecEnv, SubprocVecEnv):
        venv = make_vec_env(id_, n_envs=2, seed=5, vec_env_cls=vec_env_cls)
        assert episode_length(venv) == 500
        venv.reset()
        rewards.append([venv.step(np.full((2, 1), 0.5, dtype=np.float32))[1] for _ in range(3)])
        venv.close()
    # The two classes return rewards of different precision.
    np.testing.assert_allclose(*rewards, rtol=1e-6)


# Episode length and discount


@pytest.mark.parametrize(
    ("env", "length"),
    [
        ("CartPole-v1", 500),
        ("Blackjack-v1", None),
        (env_id("pendulum", "swingup"), 500),
        (f"sb3_sparse.envs:{env_id('lqr', 'lqr_2_1')}", 500),
    ],
)
def test_episode_length_of_ids(env, length):
    assert episode_length(env) == length


def test_registered_limit_makes_no_environment(monkeypatch):
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("made an environment"))
    assert episode_length("Pendulum-v1") == 200


def test_environment_made_for_its_length_is_closed(monkeypatch):
    closed = []
    monkeypatch.setattr(DMControlEnv, "close", lambda self: closed.append(self))
    episode_length(env_id("pendulum", "swingup"))
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("make_env", "length"),
    [
        (lambda: gym.make("CartPole-v1"), 500),
        (lambda: gym.make("CartPole-v1", max_episode_steps=70), 70),
        (lambda: gym.make("CartPole-v1").unwrapped, None),
        (lambda: Monitor(TimeLimit(CartPoleEnv(), 30)), 30),
        (lambda: TimeLimit(DMControlEnv("pendulum", "swingup"), 800), 500),
        (lambda: make("pendulum", "swingup", action_repeat=4, max_episode_steps=100), 100),
        (lambda: make("pendulum", "swingup", task_kwargs={"time_limit": float("inf")}), None),
    ],
)
def test_episode_length_of_environments(make_env, length):
    assert episode_length(make_env()) == length
    assert episode_length(VecNormalize(DummyVecEnv([make_env, make_env]))) == length


def test_differing_episode_lengths_are_refused():
    venv = DummyVecEnv([lambda: make("pendulum", "swingup"), lambda: make("pendulum", "swingup", action_repeat=1)])
    with pytest.raises(ValueError, match="1000"):
        episode_length(venv)


@pytest.mark.parametrize(
    ("length", "discount"), [(500, 0.99), (1, 0.95), (5, 0.95), (100, 0.95), (250, 0.98), (1000, 0.995), (27_000, 0.995)]
)
def test_discount_heuristic(length, discount):
    assert discount_heuristic(length) == pytest.approx(discount)


@pytest.mark.parametrize("length", [0, -5, float("nan"), float("inf")])
def test_discount_heuristic_refuses(length):
    with pytest.raises(ValueError, match=f"episode_length.*{length!r}"):
        discount_heuristic(length)


def test_random_actions_are_as_frequent_as_asked_and_reproduce() -> None:
    class Recorder(gym.Wrapper):
        def step(self, action: Any) -> Any:
            taken.append(int(action))
            return super().step(action)

    histories = []
    for seed in (1, 1, 2):
        taken: list[int] = []
        env = RandomActions(Recorder(gym.make("Acrobot-v1")), 0.3, seed)
        env.reset(seed=0)
        for _ in range(1_000):
            _, _, terminated, truncated, _ = env.step(0)
            if terminated or truncated:
                env.reset()
        histories.append(taken)
    assert histories[0] == histories[1] != histories[2]
    # Two thirds of the random actions are others; five standard errors are 0.063.
    assert abs(np.mean(np.array(histories[0]) != 0) - 0.2) < 0.063
