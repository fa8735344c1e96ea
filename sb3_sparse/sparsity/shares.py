"""Dividing a number among several in whole numbers."""

import math
from collections.abc import Sequence


def integer_shares(total: int, parts: Sequence[float], most: Sequence[int]) -> list[int]:
    """
    Divide a number in proportion, by largest remainders; what a share cannot take goes to the others.

    :param total: What is divided; no more than all shares can take
    :param parts: In proportion to what, not all 0
    :param most: Most that each share can take
    :return: Shares that sum up to the total
    """
    shares = [0] * len(parts)
    while (left := total - sum(shares)) > 0:
        open_parts = [part if share < limit else 0.0 for part, share, limit in zip(parts, shares, most, strict=True)]
        if not any(open_parts):  # in proportion to nothing: to whom can take it
            open_parts = [float(share < limit) for share, limit in zip(shares, most, strict=True)]
        exact = [left * part / sum(open_parts) for part in open_parts]
        given = [math.floor(x) for x in exact]
        by_remainder = sorted(range(len(parts)), key=lambda i: (given[i] - exact[i], i))
        for i in by_remainder[: left - sum(given)]:
            given[i] += 1
        shares = [min(share + more, limit) for share, more, limit in zip(shares, given, most, strict=True)]
    return shares
