"""How much memory training takes, without the replay buffer."""

import importlib
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_sparse.experiments.contenders import BATCH_SIZE, Contender, filled

# So many that a compiled update is captured and replayed.
_UPDATES = 8
_PROCESS = Path("/proc/self")


def training_memory(contender: Contender, device: str) -> int:
    """
    Measure in a process of its own the most memory that is in use during a few updates: resident memory beyond that of the
    imports on a CPU, allocated memory on a GPU, less the replay buffer there. What building the model took for a moment does
    not count.

    :param contender: What to measure
    :param device: Device
    :return: Bytes
    :raises RuntimeError: if the process fails.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(contender, device, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"Measuring the memory of {contender.variant} failed with status {process.exitcode}.") from None
    finally:
        process.join()


def _measure(contender: Contender, device: str, sender: Connection) -> None:
    imports = _resident_peak()
    model: Any = filled(contender, device)
    _forget_peak()
    model.train(_UPDATES, BATCH_SIZE)
    if get_device(device).type == "cuda":
        sender.send(th.cuda.max_memory_allocated() - getattr(model.replay_buffer, "nbytes", 0))
    else:
        sender.send(_resident_peak() - imports)


def _forget_peak() -> None:
    if th.cuda.is_available():
        th.cuda.reset_peak_memory_stats()
    if _PROCESS.exists():
        (_PROCESS / "clear_refs").write_text("5")  # see proc(5)


def _resident_peak() -> int:
    if _PROCESS.exists():  # where getrusage starts from the memory of the parent process
        lines = (_PROCESS / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    resource = importlib.import_module("resource")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
