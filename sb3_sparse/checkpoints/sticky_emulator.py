"""ALE with sticky actions: which action it may repeat is not part of its states, so that is worked out."""

import math
import pickle
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

# The generators of an emulator's state in its bytes, as GNU's C++ library writes them: 624 words and a position.
_GENERATORS = re.compile(rb"(?:\d{1,10} ){624}\d{1,3}")
_WORDS, _SHIFT, _TWIST = 624, 397, 0x9908B0DF
_HIGH, _LOW, _ALL = 0x80000000, 0x7FFFFFFF, 0xFFFFFFFF
# Of each frame: one for each player.
_DRAWS = 2
_NOOP = 0
# So improbable is it that all the actions that are remembered were repetitions.
_NEVER = 1e-20
_SETTING = "repeat_action_probability"


class StickyEmulator:
    """
    Stands in for an emulator, and can be pickled. In every frame, with the probability that was set, ALE repeats the former
    action instead of the one it is given. Its states do not have the former action, but the Mersenne Twister that draws: so
    the actions of the last frames are remembered, and which of them were repeated is read from the generator's past draws.

    The emulator's former action is set to "no operation", as it is after a reset.

    :param emulator: ``ale_py.ALEInterface`` with sticky actions
    :param action: The former action
    """

    def __init__(self, emulator: Any, action: int = _NOOP):
        self._emulator = emulator
        self._is_discrete = True
        self._prepare()
        self._forget(action)
        _make_former(emulator, action, self._frames.maxlen or 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emulator, name)

    def __reduce__(self) -> Any:
        settings = emulator_settings(self._emulator), self._probability
        return _restored, (*settings, self.former_action(), self._emulator.cloneState(include_rng=True))

    def act(self, action: Any, strength: float = 1.0) -> float:
        """
        Take an action.

        :param action: As in ALE
        :param strength: Of a paddle
        """
        self._is_discrete = self._is_discrete and strength == 1.0
        self._frames.extend([int(getattr(action, "value", action))] * self._frame_skip)  # ALE's enum is no int
        return self._emulator.act(action, strength)

    def reset_game(self) -> None:
        """Start an episode."""
        self._emulator.reset_game()
        self._forget(_NOOP)

    def loadROM(self, *arguments: Any) -> None:
        """Load the game, with the settings of now."""
        self._emulator.loadROM(*arguments)
        self._prepare()
        self._forget(_NOOP)

    def former_action(self) -> int:
        """
        The action that the next frame may repeat.

        :raises pickle.PicklingError: if that cannot be found out.
        """
        if not self._is_discrete:
            raise pickle.PicklingError("with sticky actions that have a strength, it is not known what may be repeated")
        words = _last_words(self._emulator, _DRAWS * len(self._frames))
        for frame, action in enumerate(reversed(self._frames), start=1):
            if _temper(words[-_DRAWS * frame]) >= self._probability * 2**32:
                return action
        if len(self._frames) == self._frames.maxlen:
            raise pickle.PicklingError("it is not known which action may be repeated")
        return self._first

    def _prepare(self) -> None:
        self._probability = self._emulator.getFloat(_SETTING)
        self._frame_skip = self._emulator.getInt("frame_skip")
        self._frames: deque[int] = deque(maxlen=math.ceil(math.log(_NEVER) / math.log(self._probability)))

    def _forget(self, action: int) -> None:
        """Begin with a former action that is known."""
        self._frames.clear()
        self._first, self._is_discrete = action, True


def remember_sticky_actions(part: Any) -> None:
    """
    Put a :class:`StickyEmulator` in the place of an environment's emulator, if it has one with sticky actions.

    :param part: Environment or wrapper, changed in place
    """
    emulator = vars(part).get("ale")
    if type(emulator).__module__.startswith("ale_py") and _is_understood(emulator):
        part.ale = StickyEmulator(emulator)


def emulator_settings(emulator: Any) -> list[Any]:
    """
    What an emulator of Atari games was set up with: its game, numbers, and flags.

    :param emulator: ``ale_py.ALEInterface``
    """
    return [
        emulator.getString("rom_file"),
        {name: emulator.getInt(name) for name in ("random_seed", "frame_skip", "max_num_frames_per_episode")},
        {name: emulator.getBool(name) for name in ("color_averaging", "sound_obs")},
    ]


def new_emulator(settings: Sequence[Any], probability: float) -> Any:
    """
    Set up an emulator.

    :param settings: What :func:`emulator_settings` returned
    :param probability: Of repeating an action
    """
    from ale_py import ALEInterface  # the extra "atari"

    game, numbers, flags = settings
    emulator = ALEInterface()
    for name, number in numbers.items():
        emulator.setInt(name, number)
    for name, flag in flags.items():
        emulator.setBool(name, flag)
    emulator.setFloat(_SETTING, probability)
    emulator.loadROM(game)
    return emulator


def _restored(settings: Sequence[Any], probability: float, action: int, state: Any) -> StickyEmulator:
    found = StickyEmulator(new_emulator(settings, probability), action)
    found.restoreState(state)
    return found


def _make_former(emulator: Any, action: int, frames: int) -> None:
    """Take the action so often that it is not repeated once, and go back."""
    state = emulator.cloneState(include_rng=True)
    for _ in range(frames):
        emulator.act(action)
    emulator.restoreState(state)


def _is_understood(emulator: Any) -> bool:
    """Whether its generator is found in its states, and draws as expected."""
    probability = emulator.getFloat(_SETTING)
    state = emulator.cloneState(include_rng=True)
    if not 0.0 < probability < 1.0 or len(_GENERATORS.findall(_bytes_of(emulator))) != 2:
        return False
    before = _generator(emulator)[1]
    emulator.act(_NOOP)
    after = _generator(emulator)[1]
    emulator.restoreState(state)
    return (after - before) % _WORDS == _DRAWS * emulator.getInt("frame_skip")


def _last_words(emulator: Any, number: int) -> list[int]:
    """The generator's words that were drawn last, untempered, the newest one last."""
    words, position = _generator(emulator)
    if position >= number:
        return words[position - number : position]
    return (_words_before(words) + words[:position])[-number:] if number else []


def _generator(emulator: Any) -> tuple[list[int], int]:
    """Words and position of the generator that draws repetitions; the first one in the state is the console's."""
    *words, position = map(int, _GENERATORS.findall(_bytes_of(emulator))[-1].split())
    return words, position


def _bytes_of(emulator: Any) -> bytes:
    content = emulator.cloneState(include_rng=True).__getstate__()
    return content if isinstance(content, bytes) else b""  # in other versions


def _words_before(words: Sequence[int]) -> list[int]:
    """
    Undo one round of the Mersenne Twister (Matsumoto and Nishimura, 1998), whose recurrence is
    ``x[i + 624] = x[i + 397] ^ twist(high bit of x[i], low bits of x[i + 1])``. The low bits of the first word stay unknown.
    """
    known = [0] * _WORDS + list(words)
    for index in reversed(range(_WORDS)):
        twisted = known[index + _WORDS] ^ known[index + _SHIFT]
        is_odd = twisted >> 31
        mixed = ((twisted ^ (_TWIST if is_odd else 0)) << 1 | is_odd) & _ALL
        known[index] |= mixed & _HIGH
        if index + 1 < _WORDS:
            known[index + 1] |= mixed & _LOW
    return known[:_WORDS]


def _temper(word: int) -> int:
    """What the Mersenne Twister returns for a word of its state."""
    word ^= word >> 11
    word ^= word << 7 & 0x9D2C5680
    word ^= word << 15 & 0xEFC60000
    return word ^ word >> 18
