"""Grids that this package has. Imports nothing that takes time, as the command line's help lists them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "grids"
BUDGETS = ("smoke", "short", "full")


def shipped_grids() -> dict[str, str]:
    """Name -> title of the grids that this package has, figure 2 before figure 10; read without the extra that reads YAML."""
    files = sorted(FOLDER.glob("*.yml"), key=lambda path: re.sub(r"\d+", lambda number: number[0].zfill(2), path.stem))
    titles = [re.search(r"^title: (.*)$", file.read_text(), flags=re.MULTILINE) for file in files]
    return {file.stem: title[1] if title else "" for file, title in zip(files, titles, strict=True)}


def figures() -> list[int]:
    """Figures of the paper that there is a grid for."""
    return sorted(int(path.stem.removeprefix("figure-")) for path in FOLDER.glob("figure-*.yml"))
