"""Atari 2600 games as Atari-100k plays them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_sparse.arguments import check_integer
from sb3_sparse.installation import import_extra

NOOP = 0


class AtariWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    An Atari game with the preprocessing of Dopamine, which Data-Efficient Rainbow is trained with; every default is stated
    here. Observations are the last four frames, channels first and the oldest first, with zeros before an episode's first.

    The game's own frame skip and sticky actions, which ids such as ``ALE/Breakout-v5`` come with, are switched off in place,
    so any id will do. A wrapper below this one (Stable-Baselines3's ``Monitor``) sees whole games, their scores, and single
    frames as steps.

    After the loss of a life the game goes on: ``reset()`` then returns the present frame and makes no step. To begin a new
    game there, give a seed or call it once more.

    Different from Dopamine: after a loss of a life within the skipped frames, the next episode begins with the frame at that
    moment, where Dopamine shows the one before the step.

    :param env: Atari game, ``gymnasium.make("ALE/Breakout-v5")``
    :param frame_skip: Frames per agent step; rewards are summed, and the last two frames' brighter pixels taken
    :param frame_stack: Frames of an observation
    :param screen_size: Height and width that grey frames are reduced to, averaging over areas
    :param noop_max: A game begins with a random number of agent steps without action, from 0 to one less than this; 0 for none
    :param terminal_on_life_loss: Whether an episode ends when a life is lost
    :param clip_reward: Whether the reward of an agent step is clipped to [-1, 1]
    :param repeat_action_probability: Probability that a frame repeats the action before (sticky actions)
    :param max_frames: Frames after which a game is truncated
    :raises ValueError: if the environment is no Atari game with discrete actions, or an argument is out of range.
    :raises ImportError: if OpenCV is missing.
    """

    def __init__(
        self,
        env: gym.Env,
        frame_skip: int = 4,
        frame_stack: int = 4,
        screen_size: int = 84,
        noop_max: int = 30,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        repeat_action_probability: float = 0.0,
        max_frames: int = 108_000,
    ):
        super().__init__(env)
        _check(env, repeat_action_probability)
        self.frame_skip, self.frame_stack = check_integer("frame_skip", frame_skip), check_integer("frame_stack", frame_stack)
        self.screen_size, self.noop_max = check_integer("screen_size", screen_size), check_integer("noop_max", noop_max, 0)
        self.terminal_on_life_loss, self.clip_reward = terminal_on_life_loss, clip_reward
        max_frames = check_integer("max_frames", max_frames)
        RecordConstructorArgs.__init__(
            self,
            frame_skip=self.frame_skip,
            frame_stack=self.frame_stack,
            screen_size=self.screen_size,
            noop_max=self.noop_max,
            terminal_on_life_loss=terminal_on_life_loss,
            clip_reward=clip_reward,
            repeat_action_probability=repeat_action_probability,
            max_frames=max_frames,
        )
        self._cv2 = import_extra("cv2", "atari")
        self.ale: Any = _take_over(env.unwrapped, repeat_action_probability, max_frames)
        self.observation_space = spaces.Box(0, 255, (self.frame_stack, self.screen_size, self.screen_size), np.uint8)
        screen = self.ale.getScreenDims()
        self._screens = np.zeros((2, *screen), np.uint8)
        self._frames = np.zeros(self.observation_space.shape, np.uint8)  # type: ignore[arg-type]
        self._lives = 0
        self._life_was_lost = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin an episode: a new game, or the next life of the present one.

        :param seed: Seed of the game and of the number of steps without action; begins a new game
        :param options: As of the game
        """
        info: dict[str, Any] = {"lives": self.ale.lives()}
        if not self._life_was_lost or seed is not None:
            _, info = self.env.reset(seed=seed, options=options)
            if self.noop_max > 0:
                self._do_nothing(int(self.unwrapped.np_random.integers(self.noop_max)))
        self._life_was_lost, self._lives = False, self.ale.lives()
        self._screens[1] = 0
        self.ale.getScreenGrayscale(self._screens[0])
        self._frames[:] = 0
        return self._observation(), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: Action, for all frames of the agent step
        """
        total = 0.0
        for frame in range(self.frame_skip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            lives = self.ale.lives()
            self._life_was_lost = self.terminal_on_life_loss and lives < self._lives and not (terminated or truncated)
            self._lives = lives
            if terminated or truncated or self._life_was_lost:
                break
            if frame >= self.frame_skip - 2:
                self.ale.getScreenGrayscale(self._screens[self.frame_skip - 1 - frame])
        if self.clip_reward:
            total = min(max(total, -1.0), 1.0)
        return self._observation(), total, terminated or self._life_was_lost, truncated, info

    def _do_nothing(self, agent_steps: int) -> None:
        for _ in range(agent_steps * self.frame_skip):
            _, _, terminated, truncated, _ = self.env.step(NOOP)
            if terminated or truncated:
                self.env.reset()

    def _observation(self) -> np.ndarray:
        brighter = self._screens.max(axis=0)
        size = (self.screen_size, self.screen_size)
        self._frames[:-1] = self._frames[1:]
        self._frames[-1] = self._cv2.resize(brighter, size, interpolation=self._cv2.INTER_AREA)
        return self._frames.copy()


def _take_over(game: Any, repeat_action_probability: float, max_frames: int) -> Any:
    """Have the game play single frames; its emulator takes note when it loads the game anew."""
    game._frameskip = 1
    game.ale.setFloat("repeat_action_probability", repeat_action_probability)
    game.ale.setInt("max_num_frames_per_episode", max_frames)
    game.load_game()
    return game.ale


def _check(env: gym.Env, repeat_action_probability: float) -> None:
    if not hasattr(env.unwrapped, "ale") or not isinstance(env.action_space, spaces.Discrete):
        raise ValueError(
            f"AtariWrapper takes an Atari game with discrete actions, such as gymnasium.make('ALE/Breakout-v5'), got {env}."
        )
    if not 0 <= repeat_action_probability < 1:
        raise ValueError(f"repeat_action_probability must lie in [0, 1), got {repeat_action_probability!r}.")
