"""Parts of an HTML page that needs no other file."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1.2rem; font-size: 1.25rem; }
img { max-width: 100%; } table { border-collapse: collapse; margin: .8rem 0; font-size: .87rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
.problem { background: #fff3e0; border-left: 4px solid #e69f00; padding: .4rem .8rem; margin: .4rem 0; }
.scroll { overflow-x: auto; } details { margin: .6rem 0; } summary { cursor: pointer; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """
    :param title: Title, as text
    :param parts: HTML of what follows it
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    :param head: Titles of the columns, as text
    :param rows: Cells, as text
    :return: HTML; nothing without rows
    """
    cells = ["".join(f'<td class="number">{escape(cell)}</td>' for cell in row) for row in rows]
    if not cells:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "\n".join(f"<tr>{line}</tr>" for line in cells)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def details(title: str, content: str) -> str:
    """
    :param title: What stands there until it is opened, as text
    :param content: HTML
    :return: HTML; nothing without content
    """
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def image(files: Iterable[Path], text: str) -> str:
    """
    :param files: Files of a figure, one of them SVG
    :param text: What the figure shows
    """
    data = base64.b64encode(next(file for file in files if file.suffix == ".svg").read_bytes()).decode()
    return f'<p><img alt={attribute(text)} src="data:image/svg+xml;base64,{data}"></p>'


def attribute(text: str) -> str:
    """
    :param text: Value of an attribute
    :return: The value in quotes
    """
    return f'"{escape(text, quote=True)}"'
