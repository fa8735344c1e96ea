"""Directive ``architecture``: the folders of the package, floor by floor, with what each imports. Made from the source."""

import ast
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

PACKAGE = Path(__file__).parents[2] / "sb3_sparse"


def imported_folders(folder: Path) -> set[str]:
    """Other folders of the package whose modules this folder's modules import."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sb3_sparse"):
                found |= {f"{node.module}.{alias.name}".split(".")[1] for alias in node.names}
    return {name for name in found if (PACKAGE / name).is_dir()} - {folder.name}


def floors() -> list[list[str]]:
    """Folders from the ground up: each stands as low as its imports allow."""
    imports = {path.parent.name: imported_folders(path.parent) for path in PACKAGE.glob("*/__init__.py")}
    result: list[list[str]] = []
    while imports:
        placed = {name for floor in result for name in floor}
        floor = sorted(name for name, below in imports.items() if below <= placed)
        if not floor:
            raise ValueError(f"Folders import each other in a circle: {sorted(imports)}.")
        result.append(floor)
        for name in floor:
            del imports[name]
    return result


def first_line(folder: str) -> str:
    docstring = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text())) or ""
    return docstring.partition("\n")[0]


def svg() -> str:
    """The floors as rows of boxes, the top floor first."""
    width, height, gap = 820, 44, 12
    rows = floors()[::-1]
    parts = []
    for y, row in enumerate(rows):
        box = (width - gap * (len(row) - 1)) / len(row)
        for x, name in enumerate(row):
            left, top = x * (box + gap), y * (height + gap)
            parts.append(
                f"<g><title>{first_line(name)}</title>"
                f'<rect x="{left:.1f}" y="{top}" width="{box:.1f}" height="{height}" rx="5" fill="none" '
                'stroke="currentColor"/>'
                f'<text x="{left + box / 2:.1f}" y="{top + height / 2 + 5}" text-anchor="middle" fill="currentColor" '
                f'font-family="sans-serif" font-size="14">{name}</text></g>'
            )
    total = len(rows) * (height + gap)
    return f'<svg viewBox="-1 -1 {width + 2} {total}" role="img" aria-label="Folders by floor">{"".join(parts)}</svg>'


class Architecture(Directive):
    """The diagram, and a list of folders with their purpose and imports."""

    def run(self) -> list[nodes.Node]:
        items = []
        for row in floors():
            for name in row:
                text = f": {first_line(name)} Imports: {', '.join(sorted(imported_folders(PACKAGE / name))) or 'none'}."
                items.append(nodes.list_item("", nodes.paragraph("", "", nodes.literal("", name), nodes.Text(text))))
        return [nodes.raw("", svg(), format="html"), nodes.bullet_list("", *items)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("architecture", Architecture)
    return {"parallel_read_safe": True}
