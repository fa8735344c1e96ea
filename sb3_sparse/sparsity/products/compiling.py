"""Compiling functions by numba (extras ``fast`` and ``streaming``)."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[FunctionT], FunctionT]:
    """
    Let numba compile a function at its first call, and keep the machine code for the next process where there is a folder to
    write to; in a read-only container without a home there is none.

    :param options: Of numba's ``njit``
    :return: Decorator of functions of numbers and arrays
    """

    def decorate(function: FunctionT) -> FunctionT:
        try:
            return njit(function, cache=True, **options)
        except RuntimeError:  # numba's way to say that there is no such folder
            return njit(function, **options)

    return decorate
