"""Tables in Markdown."""

import statistics
from collections.abc import Iterable, Sequence


def markdown_table(titles: str, rows: Iterable[Iterable[str]]) -> str:
    """
    :param titles: Titles of the columns, with " | " between them
    :param rows: Cells of each row
    :return: The table
    """
    lines = [titles.split(" | "), *rows]
    head, *body = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([head, "|" + "---|" * len(titles.split(" | ")), *body])


def spread(values: Sequence[float], digits: str) -> str:
    """
    :param values: At least one
    :param digits: How numbers are formatted, such as ".1f"
    :return: Their median, minimum and maximum
    """
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"
