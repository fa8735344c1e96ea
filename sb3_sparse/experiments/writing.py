"""Files that are there as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[IO[str]]:
    """
    Write a file beside a former one, and put it in its place when it is complete; nothing is left of it after an error.

    :param path: File; its folder is made if missing
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")  # others may write the same file at the same time
    try:
        with partial.open("w", newline="") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """
    Write a text file as a whole.

    :param path: File
    :param text: Its content
    """
    with replaced_file(path) as file:
        file.write(text)
