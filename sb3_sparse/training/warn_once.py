"""Warnings that are not repeated."""

import warnings


class WarnOnce:
    """Warns of each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str) -> None:
        """
        :param message: Warning, of whoever called the caller
        """
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=3)
