"""
CUDA graphs without a GPU: what a capture records and a replay repeats, on tensors of the CPU.

As on a GPU, operations of a capture take no effect, and a replay repeats them on the same tensors with the same Python
numbers, whatever Python objects refer to by then. What only a GPU has (memory pools, order of streams) is not emulated.
"""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sb3_sparse.training import parameter_updates, programs
from sb3_sparse.training.compiled_training import CompiledTraining

_OPTIMIZERS = ("adam", "adamw", "rmsprop", "nadam", "radam", "adamax", "adadelta", "asgd", "rprop")
# Operations for whose result, or for whose source, the host waits.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal", "lift_fresh"}
# Arguments that are written without the operation saying so: running statistics.
_WRITTEN_UNTOLD = {"native_batch_norm": (3, 4)}


def _waits(operation: str) -> bool:
    if operation == "lift_fresh":  # a new tensor of Python numbers, which would be copied to the GPU
        frame = inspect.currentframe()
        while frame is not None:
            if "/torch/optim/" in frame.f_code.co_filename:  # for step counts on the CPU only
                return False
            frame = frame.f_back
    return operation in _WAITING


class Waits(TorchDispatchMode):
    """Collects operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operations.append(name)
        if _waits(name):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.generators: list[th.Generator] = []
        self.replays = 0

    def register_generator_state(self, generator: th.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        self.replays += 1
        with th.no_grad():
            for func, args, kwargs, outputs in self.calls:
                for old, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph: Graph):
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[th.Tensor, th.Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if _waits(name):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for number, (argument, value) in enumerate(zip(func._schema.arguments, args, strict=False)):
            told = argument.alias_info is not None and argument.alias_info.is_write
            if told or number in _WRITTEN_UNTOLD.get(name, ()):
                for tensor in _tensors(value):
                    whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
                    self.before.setdefault(whole.data_ptr(), (whole, whole.clone()))
        outputs = func(*args, **kwargs)
        # Leaves of the tree, as the optimizer may change a list that it has passed.
        arguments = [list(a) if isinstance(a, list) else a for a in args]
        self.graph.calls.append((func, arguments, kwargs, _tensors(outputs)))
        return outputs

    def undo(self) -> None:
        with th.no_grad():
            for tensor, value in self.before.values():
                tensor.copy_(value)


def _tensors(tree: Any) -> list[th.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, th.Tensor)]


@contextmanager
def _capture(graph: Graph, stream: Any = None) -> Iterator[None]:
    recording = _Recording(graph)
    random_states = th.get_rng_state(), [generator.get_state() for generator in graph.generators]
    try:
        with recording:
            yield
    finally:
        recording.undo()
        th.set_rng_state(random_states[0])
        for generator, state in zip(graph.generators, random_states[1], strict=True):
            generator.set_state(state)


class _Stream:
    def __init__(self, device: Any = None):
        self.device = device

    def wait_stream(self, stream: Any) -> None:
        assert isinstance(stream, _Stream)


@contextmanager
def _nothing(*_: Any) -> Iterator[None]:
    yield


def emulate(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """
    Let models on the CPU update as on a GPU.

    :return: ``streams``: what ``set_stream`` was called with; ``devices``: what was made the current device
    """
    log = SimpleNamespace(streams=[], devices=[], mode=0, main=_Stream())
    fakes = {
        "CUDAGraph": Graph,
        "graph": _capture,
        "Stream": _Stream,
        "stream": _nothing,
        "current_stream": lambda *_: log.main,
        "set_stream": log.streams.append,
        "device": lambda device: (log.devices.append(device), _nothing())[1],
        "get_sync_debug_mode": lambda: log.mode,
        "set_sync_debug_mode": lambda mode: setattr(log, "mode", mode),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(th.cuda, name, fake)
    monkeypatch.setattr(programs, "_side_stream", _Stream)
    monkeypatch.setattr(CompiledTraining, "_runs_on_gpu", lambda model: True)
    allow_capturable_on_cpu(monkeypatch)
    return log


def allow_capturable_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off torch's check that only optimizers on a GPU are ``capturable``, and steps that are compiled for a CPU."""
    monkeypatch.setattr(parameter_updates, "kernels_are_available", lambda: False)
    for name in _OPTIMIZERS:
        module = importlib.import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"], raising=False)
