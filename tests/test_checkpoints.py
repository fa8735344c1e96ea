"""Checkpoints: what is written, when, and what happens when something goes wrong."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor
from torture import damage
from torture.damage import damaged_checkpoints
from torture.envs import OPAQUE
from torture.kills import kill_points
from torture.models import TortureRun, make_model
from torture.runs import CHECKPOINTS, differences, make_env, outcome, train

import sb3_sparse
from sb3_sparse import ExactCheckpointCallback, ResumableEnv
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.checkpoints import replay_rows
from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder
from sb3_sparse.checkpoints.environment_state import EnvironmentState
from sb3_sparse.checkpoints.fingerprint import compare, fingerprint
from sb3_sparse.training.divergence import DivergenceError

RUN = TortureRun("SAC", steps=120, save_freq=30)


# Processes that start at once.
FORKED = {"start_method": "fork"}


def outside_resumable(env: gym.Env) -> gym.Env:
    return gym.wrappers.TimeAwareObservation(ResumableEnv(env))


class Every(BaseCallback):
    """Calls a function at some steps."""

    def __init__(self, at: dict[int, Callable[[BaseCallback], Any]]):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps in self.at:
            self.at[self.num_timesteps](self)
        return True

    def checkpoint_state(self) -> None:
        return None

    def restore_checkpoint_state(self, state: None) -> None:
        pass


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    train(RUN, folder)
    return folder


@pytest.fixture
def finished(ended: Path, tmp_path: Path) -> Path:
    """Folder of a run that has ended."""
    return Path(shutil.copytree(ended, tmp_path / "finished"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a terminal's programs do on SIGINT; those in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / CHECKPOINTS).iterdir()}


def test_several_kills_by_the_system(tmp_path: Path) -> None:
    (trial,) = kill_points([TortureRun("SB3 SAC", steps=80, save_freq=20, callbacks=("eval",))], 1, tmp_path)
    assert trial.fault is None


def test_damages_know_nothing_of_each_other(tmp_path: Path) -> None:
    for attempt in range(100):
        (folder := tmp_path / str(attempt)).mkdir()
        for name in "abc":
            (folder / name).write_text(name)
        assert len(damage._damage(folder, random.Random(attempt))) in (1, 2, 3)


def test_damaged_checkpoints_are_noticed(tmp_path: Path) -> None:
    trials = list(damaged_checkpoints(8, tmp_path))
    assert [trial for trial in trials if trial.fault is not None] == []
    assert {trial.what.split(":")[0] for trial in trials} >= {"skipped", "refused"}


def test_lost_manifests_are_no_new_run(finished: Path) -> None:
    for path in (finished / CHECKPOINTS).glob("*.json"):
        path.unlink()
    with pytest.raises(ValueError, match="none that names them"):
        train(RUN, finished)


def test_only_changed_segments_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_rows, "SEGMENT", 1_000)  # 25 transitions
    run, names = replace(RUN, buffer_size=120, steps=220, save_freq=20), {}
    watch = Every({step + 1: lambda c: names.update({c.num_timesteps - 1: files(tmp_path)}) for step in range(40, 220, 20)})
    train(run, tmp_path, [watch])
    segments = {step: {n for n in found if n.startswith("replay-")} for step, found in names.items()}
    assert len(segments[120]) >= 4
    for step in range(60, 220, 20):
        assert len(segments[step] - segments[step - 20]) <= 3
    # The buffer was full after 120 steps, so that nothing is left of the first segments' files.
    assert not segments[60] & segments[200]


def test_other_logs_and_callbacks_are_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="monitor files"):
        make_model(RUN, make_env(RUN, None)).learn(RUN.steps, callback=ExactCheckpointCallback(finished / CHECKPOINTS))
    with pytest.raises(ValueError, match="with the callbacks"):
        train(RUN, finished, [Every({})])


@pytest.mark.parametrize("name", ["SAC", "SB3 TD3"])
def test_buffers_are_restored_from_segments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_rows, "SEGMENT", 1_000)
    run = TortureRun(name, buffer_size=100, steps=260, save_freq=20)
    before = vars(train(run, tmp_path).replay_buffer)
    after = vars(train(run, tmp_path).replay_buffer)
    for key in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full"):
        assert np.array_equal(before[key], after[key]), key


def test_rows_changed_elsewhere_are_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a callback that relabels rewards does.
    monkeypatch.setattr(replay_rows, "SEGMENT", 1_000)
    run = replace(RUN, steps=200)
    relabel = Every({150: lambda c: c.model.replay_buffer.rewards.__setitem__(3, 7.0)})
    train(run, tmp_path, [relabel])
    assert train(run, tmp_path, [Every({})]).replay_buffer.rewards[3, 0] == 7.0


def test_full_disk_is_survived(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_: BaseCallback) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))

    def free(_: BaseCallback) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    train(RUN, tmp_path / "whole", [Every({})])
    stop = Every({55: fill, 85: free, 98: _crash})
    with pytest.warns(UserWarning, match="after 60 agent steps could not be written"), pytest.raises(Crash):
        train(RUN, tmp_path / "full", [stop])
    manifests = CheckpointFolder(tmp_path / "full" / CHECKPOINTS).manifests()
    assert [json.loads(path.read_text())["checkpoint"]["num_timesteps"] for path in manifests] == [90, 30]
    assert not [name for name in files(tmp_path / "full") if "partial" in name or "000003" in name]
    train(RUN, tmp_path / "full", [Every({})])
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "full")) == []


def test_older_checkpoints_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls = os.fsync, []

    def full_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    watch = Every({85: lambda _: monkeypatch.setattr(os, "fsync", full_once), 98: _crash})
    with warnings.catch_warnings(), pytest.raises(Crash):
        warnings.simplefilter("error")
        train(RUN, tmp_path, [watch])
    manifests = CheckpointFolder(tmp_path / CHECKPOINTS).manifests()
    assert [path.name for path in manifests] == ["checkpoint-000003.json", "checkpoint-000002.json"] and len(calls) > 1


class Crash(Exception):
    """What ends a run in these tests."""


def _crash(_: BaseCallback) -> None:
    raise Crash


def test_folders_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = make_model(RUN, make_env(RUN, None))
    with pytest.raises(ValueError, match="cannot be written"):
        model.learn(100, callback=ExactCheckpointCallback(tmp_path / "file"))
    assert model.num_timesteps == 0


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from sb3_sparse.checkpoints.checkpoint_folder import CheckpointFolder; from pathlib import Path\n"
        f"folder = CheckpointFolder(Path({str(tmp_path)!r})); folder.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process"):
            make_model(RUN, make_env(RUN, None)).learn(100, callback=ExactCheckpointCallback(tmp_path))
        other.kill()
    # What a killed process held is free.
    make_model(RUN, make_env(RUN, None)).learn(60, callback=ExactCheckpointCallback(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("interruptible")
def test_signals_end_training_after_a_checkpoint(number: int, tmp_path: Path) -> None:
    def learn(at: dict[int, Callable]) -> tuple[Any, ExactCheckpointCallback]:
        model, checkpoint = make_model(RUN, make_env(RUN, None)), ExactCheckpointCallback(tmp_path, save_freq=1_000)
        return model.learn(RUN.steps, callback=[Every(at), checkpoint]), checkpoint

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    model, checkpoint = learn({77: lambda _: os.kill(os.getpid(), number)})
    assert checkpoint.stopped_by == number and model.num_timesteps == 78  # the update after step 77 was made
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    model, checkpoint = learn({})
    assert checkpoint.resumed_from == 77 and checkpoint.stopped_by is None and model.num_timesteps == RUN.steps


def test_ignored_signals_stay_ignored(tmp_path: Path, interruptible: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt = Every({60: lambda _: os.kill(os.getpid(), signal.SIGINT)})
    model = make_model(RUN, make_env(RUN, None))
    assert model.learn(80, callback=[interrupt, ExactCheckpointCallback(tmp_path)]).num_timesteps == 80


def test_signals_end_the_program_if_asked_to(tmp_path: Path) -> None:
    checkpoint = ExactCheckpointCallback(tmp_path, exit_on_signal=True)
    stop = Every({60: lambda _: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(SystemExit) as ended:
        make_model(RUN, make_env(RUN, None)).learn(100, callback=[stop, checkpoint])
    assert ended.value.code == 143


@pytest.mark.usefixtures("interruptible")
def test_signals_after_a_failed_training_are_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(RUN, tmp_path, [Every({60: _crash})])
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 1)


@pytest.mark.parametrize("algorithm", ["SB3 SAC", "SAC", "SB3 TD3"])
def test_tensors_that_are_not_finite_do_not_reach_checkpoints(algorithm: str, tmp_path: Path) -> None:
    run = replace(RUN, algorithm=algorithm)

    @th.no_grad()
    def spoil(callback: BaseCallback) -> None:
        next(callback.model.actor.parameters()).view(-1)[0] = np.nan

    with pytest.raises(DivergenceError, match="actor"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(run, tmp_path, [Every({89: spoil})])
    manifest = CheckpointFolder(tmp_path / CHECKPOINTS).newest()
    assert manifest is not None and manifest.num_timesteps == 60


def test_losses_that_are_not_finite_end_training(tmp_path: Path) -> None:
    spoil = Every({61: lambda c: c.model.replay_buffer.rewards.fill(np.inf)})
    with pytest.raises(DivergenceError, match="train/critic_loss") as ended:
        train(replace(RUN, algorithm="SB3 SAC"), tmp_path, [spoil])
    assert "checkpoint-000002.json" in str(ended.value)


@pytest.mark.parametrize(
    ("arguments", "change", "named"),
    [
        ({"learning_rate": ConstantSchedule(1e-3)}, {"learning_rate": ConstantSchedule(1e-2)}, "learning_rate: 0.001"),
        ({"learning_rate": 1e-3}, {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}, "learning_rate.*LinearSchedule"),
        ({"clip_range": 0.2}, {"clip_range": 0.1}, r"hyperparameters.clip_range: 0\.2 in the checkpoint, 0\.1 here"),
        ({"clip_range": lambda _: 0.2}, {"clip_range": 0.1}, "clip_range: 'schedule' in the checkpoint"),
    ],
)
def test_other_schedules_are_refused(arguments: dict[str, Any], change: dict[str, Any], named: str) -> None:
    model, same, other = (PPO("MlpPolicy", "CartPole-v1", **given) for given in (arguments, arguments, change))
    compare(fingerprint(model), fingerprint(same))
    with pytest.raises(ValueError, match=named):
        compare(fingerprint(model), fingerprint(other))


def test_fingerprints_of_versions_with_other_modules_and_arguments_fit() -> None:
    now = fingerprint(SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=DeviceReplayBuffer, buffer_size=100))
    arguments = dict(now["hyperparameters"])
    arguments["replay_buffer_class"] = "sb3_sparse.common.device_replay_buffer.DeviceReplayBuffer"
    former = {**now, "hyperparameters": {**arguments, "an_argument_that_went": 1}}
    compare(former, now)
    arguments["replay_buffer_class"] = "sb3_sparse.buffers.frame_replay_buffer.FrameReplayBuffer"
    with pytest.raises(ValueError, match="replay_buffer_class"):
        compare(former | {"hyperparameters": arguments}, now)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"algorithm": "SB3 SAC"}, "algorithm"),
        ({"seed": 1}, "seed"),
        ({"buffer_size": 999}, "buffer_size"),
        ({"sparsity": 0.6}, "sparsity"),
        ({"env": "MountainCarContinuous-v0"}, "observation_space"),
        ({"n_envs": 2}, "n_envs"),
        ({"steps": 60}, "asked for 60"),
    ],
)
def test_other_runs_are_refused(change: dict[str, Any], named: str, finished: Path) -> None:
    with pytest.raises(ValueError, match=named):
        train(replace(RUN, **change), finished)
    assert train(RUN, finished).num_timesteps == RUN.steps


def test_other_versions_are_warned_of(finished: Path) -> None:
    folder = CheckpointFolder(finished / CHECKPOINTS)
    manifest = folder.newest()
    assert manifest is not None
    versions = {**manifest.fingerprint["versions"], "numpy": "1.0"}
    folder.commit(replace(manifest, number=9, fingerprint={**manifest.fingerprint, "versions": versions}))
    with pytest.warns(UserWarning, match=r"versions.numpy: '1\.0' in the checkpoint"):
        train(RUN, finished)


def test_finished_runs_stay_finished(finished: Path) -> None:
    result, before = outcome(finished), files(finished)
    again = train(RUN, finished)
    assert again._n_updates == RUN.steps - 50 and differences(result, outcome(finished)) == []
    assert files(finished) == before


def test_more_steps_can_be_asked_for(finished: Path) -> None:
    assert train(replace(RUN, steps=150), finished).num_timesteps == 150


def scheduled(algorithm: str, **kwargs: Any) -> Any:
    policy, env = ("MlpPolicy", "CartPole-v1" if algorithm in ("DER", "DQN") else "Pendulum-v1")
    sizes = {"n_steps": 20} if algorithm == "PPO" else {"learning_starts": 20, "batch_size": 8, "buffer_size": 200}
    classes = {"PPO": PPO, "DQN": DQN}
    return classes.get(algorithm, getattr(sb3_sparse, algorithm, None))(
        policy, env, seed=0, device="cpu", **{**sizes, **kwargs}
    )


SCHEDULED = [
    ("SAC", {"learning_rate": lambda left: 1e-3 * left}, "learning_rate"),
    ("SAC", {"learning_rate": LinearSchedule(1e-3, 0.0, 0.01)}, "learning_rate"),
    ("PPO", {"clip_range": lambda left: 0.2 * left}, "clip_range"),
    ("DQN", {}, "exploration_schedule"),
    ("DER", {"priority_beta_final": 1.0}, "beta_schedule"),
    ("DER", {"policy_kwargs": {"noisy": False}}, "exploration_schedule"),
    ("SAC", {"learning_rate": lambda left: 1e-3}, None),
    ("DER", {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "kwargs", "named"), SCHEDULED)
def test_more_steps_change_what_schedules_were(algorithm: str, kwargs: Any, named: str | None, tmp_path: Path) -> None:
    for steps in (40, 60):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scheduled(algorithm, **kwargs).learn(steps, callback=ExactCheckpointCallback(tmp_path, save_freq=20))
        found = [str(w.message) for w in said if "never stopped" in str(w.message)]
        assert len(found) == (steps == 60 and named is not None), found
    assert named is None or f"({named})" in found[0]


def test_models_can_be_saved_and_used_after_all(tmp_path: Path) -> None:
    run = TortureRun("StreamAC", steps=120, save_freq=30)
    for algorithm in ("SAC", "StreamAC"):
        model = train(replace(run, algorithm=algorithm), tmp_path / algorithm)
        model.save(tmp_path / "model")
        loaded = type(model).load(tmp_path / "model")
        observation = model.observation_space.sample()
        actions = [m.predict(observation, deterministic=True)[0] for m in (model, loaded)]
        assert np.allclose(*actions)


def test_checkpoints_of_other_versions_are_refused(finished: Path) -> None:
    for path in (finished / CHECKPOINTS).glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(CheckpointError, match=r"has format 1.* begin anew in another folder"):
        train(RUN, finished)


@pytest.mark.parametrize("run", [TortureRun("PPO", steps=50), TortureRun("SAC", steps=45, n_envs=2, save_freq=30)])
def test_a_run_that_ended_beyond_its_last_step_does_nothing_more(run: TortureRun, tmp_path: Path) -> None:
    train(run, tmp_path)
    first = outcome(tmp_path)
    model = train(run, tmp_path)
    assert model.num_timesteps > run.steps
    assert not differences(first, outcome(tmp_path))
    with pytest.raises(ValueError, match=f"asked for {run.steps - 2}"):
        train(replace(run, steps=run.steps - 2), tmp_path)


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ARS cannot be resumed exactly"):
        ARS("LinearPolicy", "Pendulum-v1").learn(10, callback=ExactCheckpointCallback(tmp_path))
    with pytest.raises(ValueError, match=r"A2C .* in this environment.* OpaqueEnv._walk cannot be pickled"):
        train(TortureRun("A2C", env=OPAQUE), tmp_path / "on-policy")
    with pytest.raises(ValueError, match="save_freq must be an integer of at least 1, got 0"):
        ExactCheckpointCallback(tmp_path, save_freq=0)
    train(RUN, tmp_path)
    with pytest.raises(ValueError, match="has checkpoints already"):
        make_model(RUN, make_env(RUN, None)).learn(
            RUN.steps, callback=ExactCheckpointCallback(tmp_path / CHECKPOINTS, resume=False)
        )


@pytest.mark.parametrize(
    ("wrapper", "named"), [(None, "wrapper_class=ResumableEnv"), (outside_resumable, "has TimeAwareObservation around")]
)
def test_processes_that_cannot_be_resumed_are_refused(wrapper: Any, named: str, tmp_path: Path) -> None:
    env = make_vec_env("Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, wrapper_class=wrapper, vec_env_kwargs=FORKED)
    try:
        with pytest.raises(ValueError, match=named):
            make_model(RUN, env).learn(10, callback=ExactCheckpointCallback(tmp_path))
    finally:
        env.close()


def test_processes_of_environments_outlive_signals(tmp_path: Path) -> None:
    # Terminals and clusters send them to all processes of a program.
    def interrupt(callback: BaseCallback) -> None:
        for process in callback.training_env.processes:
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    def learn(at: dict[int, Callable]) -> Any:
        env = make_vec_env(
            "Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, wrapper_class=ResumableEnv, vec_env_kwargs=FORKED, seed=0
        )
        try:
            return make_model(RUN, env).learn(RUN.steps, callback=[Every(at), ExactCheckpointCallback(tmp_path)])
        finally:
            env.close()

    assert learn({70: interrupt}).num_timesteps == 72 and learn({}).num_timesteps == RUN.steps


@pytest.mark.slow
def test_processes_of_environments_end_with_the_program(tmp_path: Path) -> None:
    program = f"""
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_sparse import ExactCheckpointCallback, ResumableEnv

class Fail(BaseCallback):
    def _on_step(self):
        print(*(process.pid for process in self.training_env.processes), flush=True)
        raise RuntimeError

if __name__ == "__main__":
    env = make_vec_env("Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, wrapper_class=ResumableEnv, vec_env_kwargs={FORKED})
    A2C("MlpPolicy", env).learn(100, callback=[Fail(), ExactCheckpointCallback({str(tmp_path / "run")!r})])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "RuntimeError" in ended.stderr and len(ended.stdout.split()) == 2
    for number in ended.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)


def test_callbacks_of_other_kinds_are_told_of(tmp_path: Path) -> None:
    class Foreign(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []
            self.strange = object()

        def _on_step(self) -> bool:
            self.seen.append(self.num_timesteps)
            return True

    with pytest.warns(UserWarning, match="Foreign.strange"), pytest.raises(Crash):
        train(RUN, tmp_path, [foreign := Foreign(), Every({70: _crash})])
    assert foreign.seen == list(range(1, 71))
    with pytest.warns(UserWarning, match="Foreign.strange"):
        train(RUN, tmp_path, [foreign := Foreign(), Every({})])
    assert foreign.seen == list(range(1, 121))


def test_opaque_environments_are_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"OpaqueEnv._walk cannot be pickled"):
        train(replace(RUN, env=OPAQUE), tmp_path)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "HalfCheetah-v5", "dm_control/walker-walk-v0"])
def test_environments_go_on_in_the_middle_of_an_episode(env_id: str) -> None:
    if "Cheetah" in env_id or "dm_control" in env_id:
        pytest.importorskip("dm_control")
        import sb3_sparse.envs  # noqa: F401, registers them
    env = make_vec_env(env_id, 2, seed=0)
    env.reset()
    env.action_space.seed(0)
    state = EnvironmentState(env)
    assert state.is_exact, state.problem
    stored = state.capture()
    history = [_step(env) for _ in range(8)] + [env.reset().tolist()]
    state.restore(stored)
    assert differences([_step(env) for _ in range(8)] + [env.reset().tolist()], history) == []


def _step(env: Any) -> list[Any]:
    observations, rewards, dones, _ = env.step([env.action_space.sample() for _ in range(env.num_envs)])
    return [observations.tolist(), rewards.tolist(), dones.tolist()]


def test_files_of_vec_monitor_are_restored(tmp_path: Path) -> None:
    def learn(folder: Path, stop: int | None = None) -> list[str]:
        env = VecMonitor(DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=20)]), str(folder / "vec"))
        env.seed(0)
        watch = Every({} if stop is None else {stop: _crash})
        model = make_model(RUN, env)
        model.learn(RUN.steps, callback=[watch, ExactCheckpointCallback(folder / "checkpoints", save_freq=30)])
        env.close()
        return [line.rsplit(",", 1)[0] for line in (folder / "vec.monitor.csv").read_text().splitlines()[1:]]

    whole = learn(tmp_path / "whole")
    with pytest.raises(Crash):
        learn(tmp_path / "stopped", stop=75)
    assert learn(tmp_path / "stopped") == whole and len(whole) == 7


def test_rows_whose_file_was_deleted_are_written_again(tmp_path: Path) -> None:
    def delete(callback: BaseCallback) -> None:
        for path in (tmp_path / CHECKPOINTS).glob("replay-*"):
            path.unlink()

    train(RUN, tmp_path, [Every({70: delete})])
    assert CheckpointFolder(tmp_path / CHECKPOINTS).newest() is not None


def atari(**kwargs: Any) -> EnvironmentState:
    ale_py, _ = pytest.importorskip("ale_py"), pytest.importorskip("cv2")
    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", 2, seed=0, env_kwargs=kwargs), 4)
    env.reset()
    return EnvironmentState(env)


def test_atari_games_go_on_in_the_middle_of_a_life() -> None:
    state = atari(repeat_action_probability=0.0)
    env = state.env
    assert state.is_exact, state.problem
    for _ in range(20):
        env.step([1, 2])
    stored = state.capture()
    actions = np.random.default_rng(0).integers(0, 4, (150, 2))
    history = [env.step(action) for action in actions]
    state.restore(stored)
    for action, (observations, rewards, dones, _) in zip(actions, history, strict=True):
        again = env.step(action)
        assert np.array_equal(again[0], observations)
        assert np.array_equal(again[1], rewards) and np.array_equal(again[2], dones)
    assert any(dones.any() for _, _, dones, _ in history)


def test_sticky_actions_of_the_emulator_are_stored_between_episodes_only() -> None:
    state = atari(repeat_action_probability=0.25)
    assert state.problem is not None and "action_repeat_probability" in state.problem
    state.env.step([1, 2])
    assert not state.can_be_stored
    state.env.reset()
    assert state.can_be_stored
    in_mid_episode = {**state.capture(), "resets": []}  # as a version wrote that could store them at any time
    with pytest.raises(CheckpointError, match="begin a new run"):
        state.restore(in_mid_episode)
