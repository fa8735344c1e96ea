"""Memory that training takes, without the replay buffer."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.experiments.benchmarks.contenders import BATCH_SIZE, Contender, filled
from sb3_sparse.experiments.benchmarks.own_process import measure_in_own_process

# So many that a compiled update is captured and replayed.
_UPDATES = 8
_PROCESS = Path("/proc/self")


def training_memory(contender: Contender, device: str) -> int:
    """
    Measure in a process of its own the most memory that is in use during a few updates: resident memory beyond that of the
    libraries on a CPU, allocated memory on a GPU, less the replay buffer there. What building the model took for a moment does
    not count.

    :param contender: What to measure
    :param device: Device
    :return: Bytes
    :raises ChildProcessError: if the process fails.
    """
    return measure_in_own_process(_measure, contender, device, what=f"the memory of {contender.variant}")


def _measure(contender: Contender, device: str) -> int:
    _train(_small(contender), device)  # loads and compiles what any model needs
    libraries = resident_memory("VmRSS")
    buffer_bytes = _train(contender, device)
    if get_device(device).type == "cuda":
        return th.cuda.max_memory_allocated(get_device(device)) - buffer_bytes
    return resident_memory("VmHWM") - libraries


def _small(contender: Contender) -> Contender:
    sparsity = None if contender.sparsity is None else min(contender.sparsity, 0.5)
    return replace(contender, width_scale=0.0625, sparsity=sparsity)


def _train(contender: Contender, device: str) -> int:
    model: Any = filled(contender, device)
    _forget_peak(get_device(device))
    model.train(_UPDATES, BATCH_SIZE)
    buffer = model.replay_buffer
    return buffer.nbytes if isinstance(buffer, DeviceReplayBuffer) else 0


def _forget_peak(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.reset_peak_memory_stats(device)
    if _PROCESS.exists():
        (_PROCESS / "clear_refs").write_text("5")  # see proc(5)


def resident_memory(field: str = "VmHWM") -> int:
    """
    Bytes of this process in memory.

    :param field: "VmHWM" for the most there were, "VmRSS" for those at present; without /proc it is always the former
    """
    if _PROCESS.exists():  # where getrusage starts from the memory of the parent process
        lines = (_PROCESS / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    resource = importlib.import_module("resource")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
