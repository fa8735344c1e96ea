"""Checkpoints that were damaged: noticed, said, and never loaded as if they were whole."""

import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from torture.models import TortureRun
from torture.runs import CHECKPOINTS, differences, outcome, train
from torture.trial import Trial

RUN = TortureRun("SAC", steps=150, save_freq=40)
# Of each file of a folder.
Contents = dict[Path, bytes]


# The run went on from another checkpoint and ended as it should, there was a clear error, the file was not needed.
_GOOD = ("skipped", "refused", "harmless")


def damaged_checkpoints(number: int, folder: Path, seed: int = 0) -> Iterator[Trial]:
    """
    Damage files of a run's checkpoints in random ways, one or several at a time, and start the run again. What is told of a
    trial begins with "skipped", "refused" or "harmless" if all was well.

    :param number: How often
    :param folder: Folder to work in
    :param seed: Seed of the damages
    """
    generator = random.Random(seed)
    train(RUN, folder / "whole")
    expected = outcome(folder / "whole")
    for _ in range(number):
        damaged = folder / "damaged"
        shutil.copytree(folder / "whole", damaged)
        what, verdict = _damage(damaged / CHECKPOINTS, generator), _verdict(damaged, expected)
        yield Trial(f"{verdict}: {'; '.join(what)}", None if verdict in _GOOD else verdict)
        shutil.rmtree(damaged)


def _verdict(folder: Path, expected: object) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train(RUN, folder)
        except ValueError as error:
            return "refused" if "checkpoint" in str(error) else f"unclear error: {error}"
        except Exception as error:  # what a user would see as a bare traceback
            return f"crashed with {type(error).__name__}: {error}"
    if differences(expected, outcome(folder)):
        return "loaded silently"
    return "skipped" if any("is damaged" in str(warning.message) for warning in caught) else "harmless"


def _damage(folder: Path, generator: random.Random) -> list[str]:
    # As they were: several damages know nothing of each other.
    contents = {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}
    chosen = generator.sample(list(contents), generator.choice((1, 1, 1, 2, 3)))
    return [f"{_inflict(path, contents, generator)} {path.name}" for path in chosen]


def _inflict(path: Path, contents: Contents, generator: random.Random) -> str:
    name = generator.choice(list(_WAYS))
    _WAYS[name](path, contents, generator)
    return name


def _flip(path: Path, contents: Contents, generator: random.Random) -> None:
    changed = bytearray(contents[path])
    if changed:
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    path.write_bytes(changed)


def _cut(path: Path, contents: Contents, generator: random.Random) -> None:
    path.write_bytes(contents[path][: generator.randrange(max(len(contents[path]), 1))])


def _zero(path: Path, contents: Contents, generator: random.Random) -> None:
    start = generator.randrange(max(len(contents[path]), 1))
    path.write_bytes(contents[path][:start] + bytes(len(contents[path]) - start))


def _append(path: Path, contents: Contents, generator: random.Random) -> None:
    path.write_bytes(contents[path] + generator.randbytes(1 + generator.randrange(100)))


def _exchange(path: Path, contents: Contents, generator: random.Random) -> None:
    path.write_bytes(contents[generator.choice(list(contents))])


def _delete(path: Path, contents: Contents, generator: random.Random) -> None:
    path.unlink()


_WAYS: dict[str, Callable[[Path, Contents, random.Random], None]] = {
    "flipped a bit of": _flip,
    "cut": _cut,
    "zeroed the end of": _zero,
    "appended to": _append,
    "put another file in place of": _exchange,
    "deleted": _delete,
}
