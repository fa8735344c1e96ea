"""Checks of what users pass. Every floor may import them; they need nothing."""

import operator
from typing import Any


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None, hint: str = "") -> int:
    """
    Take whatever stands for an integer, NumPy's included, but no truth values and no floats.

    :param name: Name of the argument, for the error
    :param value: Its value
    :param least: Smallest value allowed
    :param most: Largest value allowed, None for no bound
    :param hint: What the error says beside the bounds
    :return: The value as Python's own integer
    :raises ValueError: if it is no integer or out of bounds.
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be an integer {bounds}{hint and f' ({hint})'}, got {value!r}.")
    return number
