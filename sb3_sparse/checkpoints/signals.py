"""Signals that ask a run to end: noted at once, obeyed where a checkpoint can be written."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def restore_handlers(former: dict[int, Any]) -> None:
    """
    Have signals do what they did before.

    :param former: Signal -> what ``signal.signal`` returned for it; emptied
    """
    while former:
        number, handler = former.popitem()
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class StopSignals:
    """
    Notes SIGTERM and SIGINT while a model learns. A second one does what it would have done without us.

    :param model: Model
    """

    def __init__(self, model: BaseAlgorithm):
        self.model = model
        # Number of the signal that came.
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Listen from now on, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            # Programs in the background ignore SIGINT on purpose.
            heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._note) for number in heard}

    def remove(self) -> None:
        """Have signals do what they did before."""
        restore_handlers(self._former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.remove()
        if not self._is_learning(frame):  # training ended by an exception
            os.kill(os.getpid(), number)
            return
        self.received = number
        name = signal.Signals(number).name
        # Not by print(), which cannot be interrupted by itself.
        os.write(2, f"{name}: training stops after a checkpoint; send it again to stop at once.\n".encode())

    def _is_learning(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_name == "learn" and frame.f_locals.get("self") is self.model:
                return True
            frame = frame.f_back
        return False
