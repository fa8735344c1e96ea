"""Atari games as Atari-100k plays them, its evaluation, and its scores."""

import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from commands import run

from sb3_sparse import DER
from sb3_sparse.installation import install_command


@pytest.fixture
def make() -> Any:
    ale_py = pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    gym.register_envs(ale_py)
    from sb3_sparse.envs.atari import AtariWrapper

    return lambda game="Breakout", **kwargs: AtariWrapper(gym.make(f"ALE/{game}-v5"), **kwargs)


def play(env: gym.Env, steps: int, seed: int = 0) -> list[tuple[np.ndarray, float, bool, bool, dict]]:
    actions = np.random.default_rng(seed).integers(env.action_space.n, size=steps)  # type: ignore[attr-defined]
    env.reset(seed=seed)
    results = []
    for action in actions:
        results.append(env.step(int(action)))
        if results[-1][2] or results[-1][3]:
            env.reset()
    return results


def test_frames_are_those_of_gymnasium_s_wrapper(make: Any) -> None:
    """Ours stacks them and plays the sticky id with its own frame skip; gymnasium's needs both switched off."""
    from gymnasium.wrappers import AtariPreprocessing

    ours = make(noop_max=0, terminal_on_life_loss=False, clip_reward=False)
    theirs = AtariPreprocessing(gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0), noop_max=0)
    first, plain = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    assert (first[-1] == plain).all() and not first[:-1].any()
    history = [plain]
    for action in np.random.default_rng(0).integers(4, size=150):
        observation, reward, terminated, _, _ = ours.step(int(action))
        frame, their_reward, their_end, _, _ = theirs.step(int(action))
        assert (reward, terminated) == (their_reward, their_end)
        if terminated:
            break
        history.append(frame)
        assert (observation == np.stack([np.zeros_like(frame)] * 4 + history)[-4:]).all()


def test_defaults(make: Any) -> None:
    env = make("Breakout")
    assert env.observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8) and env.frame_stack == 4
    assert (env.frame_skip, env.noop_max, env.terminal_on_life_loss, env.clip_reward) == (4, 30, True, True)
    assert env.ale.getFloat("repeat_action_probability") == 0.0
    assert env.ale.getInt("max_num_frames_per_episode") == 108_000
    _, info = env.reset(seed=0)
    assert info["lives"] == 5 and env.unwrapped._frameskip == 1
    before = env.ale.getEpisodeFrameNumber()
    env.step(0)
    assert env.ale.getEpisodeFrameNumber() == before + 4


def test_runs_repeat_themselves_by_their_seed(make: Any) -> None:
    first, second, third = play(make(), 100, seed=1), play(make(), 100, seed=1), play(make(), 100, seed=2)
    assert all((a[0] == b[0]).all() and a[1:4] == b[1:4] for a, b in zip(first, second, strict=True))
    assert not all((a[0] == b[0]).all() for a, b in zip(first, third, strict=True))


def test_games_begin_with_a_random_number_of_steps_without_action(make: Any) -> None:
    env = make(noop_max=4)
    frames = set()
    for seed in range(30):
        env.reset(seed=seed)
        frames.add(env.ale.getEpisodeFrameNumber())
    assert frames == {0, 4, 8, 12}


def test_the_loss_of_a_life_ends_an_episode_but_not_the_game(make: Any) -> None:
    env = make(noop_max=0)
    env.reset(seed=0)
    for _ in range(300):
        _, _, terminated, truncated, info = env.step(int(env.np_random.integers(4)))
        if terminated:
            break
    assert terminated and not truncated and info["lives"] == 4
    frame = env.ale.getFrameNumber()
    first, info = env.reset()
    assert env.ale.getFrameNumber() == frame and info["lives"] == 4
    assert first[-1].any() and not first[:-1].any()
    assert not env.step(0)[2]
    env.reset(seed=1)
    assert env.ale.lives() == 5


def test_rewards_are_clipped_and_games_scored_below(make: Any) -> None:
    from stable_baselines3.common.monitor import Monitor

    from sb3_sparse.envs.atari import AtariWrapper

    raw = [reward for _, reward, *_ in play(make("Alien", clip_reward=False, noop_max=0), 400)]
    clipped = [reward for _, reward, *_ in play(make("Alien", noop_max=0), 400)]
    assert max(raw) > 1 and clipped == [min(max(reward, -1.0), 1.0) for reward in raw]
    env = AtariWrapper(Monitor(gym.make("ALE/Breakout-v5")), noop_max=0)
    infos = [info for *_, info in play(env, 800) if "episode" in info]
    assert infos and infos[0]["lives"] == 0  # after all five lives


def test_games_are_truncated(make: Any) -> None:
    results = play(make("Pong", noop_max=0, max_frames=40), 12)
    assert [truncated for _, _, _, truncated, _ in results[:10]] == [False] * 9 + [True]
    assert not any(terminated for _, _, terminated, _, _ in results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_skip": 0}, "frame_skip must be an integer of at least 1"),
        ({"frame_stack": 1.5}, "frame_stack"),
        ({"noop_max": -1}, "noop_max must be an integer of at least 0"),
        ({"repeat_action_probability": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_bad_arguments(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_other_environments_are_refused(make: Any) -> None:
    from sb3_sparse.envs.atari import AtariWrapper

    with pytest.raises(ValueError, match="takes an Atari game with discrete actions"):
        AtariWrapper(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="takes an Atari game with discrete actions"):
        AtariWrapper(gym.make("ALE/Pong-v5", continuous=True))


def test_what_is_missing_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_sparse.experiments.atari_evaluation import maker

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=re.escape(install_command("atari"))):
        make()
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=re.escape(install_command("atari"))):
        maker("ALE/Pong-v5")


def test_the_command_line_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_sparse.cli.command_line import main

    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert main(["train", "--algo", "der", "--env", "ALE/Pong-v5"]) == 1
    assert f"ale_py is missing, run: {install_command('atari')}" in capsys.readouterr().err


class Scripted:
    """Stands in for a model: always the same action; counts what it was asked."""

    def __init__(self, env: gym.Env, action: int):
        self.observation_space, self.action_space, self.action = env.observation_space, env.action_space, action
        self.modes: set[bool] = set()

    def predict(self, observation: np.ndarray, state: Any, episode_start: Any, deterministic: bool) -> tuple[np.ndarray, Any]:
        self.modes.add(deterministic)
        return np.full(len(observation), self.action), state


def test_evaluation_plays_whole_games(make: Any) -> None:
    from sb3_sparse.experiments.atari_evaluation import evaluate_atari

    model: Any = Scripted(make("Breakout"), 1)  # fire, and nothing else
    scores = evaluate_atari(model, "ALE/Breakout-v5", 3, epsilon=0.0, n_envs=2)
    # Five balls each; the paddle stays where a ball hits it at times.
    assert len(scores) == 3 and model.modes == {True} and all(score >= 0 and score == int(score) for score in scores)
    assert scores == evaluate_atari(model, "ALE/Breakout-v5", 3, epsilon=0.0, n_envs=2)
    assert evaluate_atari(model, "ALE/Breakout-v5", 1, epsilon=0.5) != evaluate_atari(model, "ALE/Breakout-v5", 1, epsilon=0.0)
    with pytest.raises(ValueError, match="epsilon"):
        evaluate_atari(model, "ALE/Breakout-v5", 3, epsilon=2.0)
    with pytest.raises(ValueError, match="The model takes"):
        evaluate_atari(model, "ALE/Breakout-v5", 1, frame_stack=2)


def test_evaluation_of_a_file(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sb3_sparse.experiments.atari_evaluation import main

    kwargs = {"width_scale": 0.0625, "net_arch": [8]}
    DER("CnnPolicy", make("Pong"), buffer_size=50, policy_kwargs=kwargs, device="cpu").save(tmp_path / "model.zip")
    # At random, Pong ends soon.
    main([str(tmp_path / "model.zip"), "--env", "ALE/Pong-v5", "--episodes", "1", "--epsilon", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert re.match(r"ALE/Pong-v5: -(1[5-9]|2[01])\.0 .* over 1 games, human-normalised 0\.", printed.replace("-0.0", "0.0"))


def test_learns_from_a_game_whose_frames_are_stored_once(make: Any) -> None:
    kwargs = {"width_scale": 0.0625, "net_arch": [16], "sparsity": 0.5}
    model = DER("CnnPolicy", make(), learning_starts=110, buffer_size=400, policy_kwargs=kwargs, seed=0, device="cpu")
    model.learn(120)
    assert model.frame_stack == 4 and model._n_updates == 10
    # 84 x 84 bytes and little else per transition; SB3's buffer takes eight times as much.
    assert model.replay_buffer.nbytes / 400 < 1.3 * 84 * 84
    assert (model.replay_buffer.read(model.replay_buffer.draw(4)).observations >= 0).all()


BREAKOUT = ["--algo", "der", "--env", "ALE/Breakout-v5"]


@pytest.mark.slow
@pytest.mark.usefixtures("rendering")
def test_command_line(site: Path, tmp_path: Path) -> None:
    """Trains, saves, resumes, plays and records, as typed."""
    pytest.importorskip("ale_py")
    small = "policy_kwargs:dict(sparsity=0.5, width_scale=0.125)"
    train = ["-m", "sb3_sparse", "train", *BREAKOUT, "--eval-freq", "-1", "--save-replay-buffer"]
    output = run(site, tmp_path, *train, "-n", "130", "-params", small, "learning_starts:100")
    assert f"Loading hyperparameters from: {site}/sb3_sparse/hyperparams/der.yml" in output
    folder = tmp_path / "logs" / "der" / "ALE-Breakout-v5_1"
    model = DER.load(folder / "ALE-Breakout-v5.zip", device="cpu")
    assert model._n_updates == 30 and model.policy.width_scale == 0.125 and model.learning_rate(1) == 1e-4
    agent = str(folder / "ALE-Breakout-v5.zip")
    run(site, tmp_path, *train, "-i", agent, "-n", "20", "-params", "learning_starts:10")
    continued = tmp_path / "logs" / "der" / "ALE-Breakout-v5_2"
    resumed = DER.load(continued / "ALE-Breakout-v5.zip", device="cpu")
    resumed.load_replay_buffer(continued / "replay_buffer.pkl")
    assert resumed._n_updates == 40 and resumed.replay_buffer.size() == 150
    shown = run(site, tmp_path, "-m", "sb3_sparse", "enjoy", *BREAKOUT, "-f", "logs", "--no-render", "-n", "600")
    assert "Atari Episode Score" in shown
    run(site, tmp_path, "-m", "sb3_sparse", "record", *BREAKOUT, "-f", "logs", "-n", "10")
    (video,) = continued.glob("videos/*.mp4")
    assert video.stat().st_size > 1000
