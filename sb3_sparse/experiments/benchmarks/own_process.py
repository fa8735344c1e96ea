"""Measurements in processes of their own, which share neither memory nor loaded libraries with others."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


def measure_in_own_process(measure: Callable[..., Result], *arguments: Any, what: str) -> Result:
    """
    Call a function in a new process.

    :param measure: Function of a module; it and what it takes and returns can be pickled
    :param arguments: What it takes
    :param what: What it measures, for the error
    :return: What it returns
    :raises ChildProcessError: if the process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, measure, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(f"Measuring {what} failed: its process ended with status {process.exitcode}.") from None
    finally:
        process.join()


def _send(sender: Connection, measure: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(measure(*arguments))
