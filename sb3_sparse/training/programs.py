"""Programs that run a gradient step: kernel by kernel, or as one CUDA graph."""

import functools
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch as th

from sb3_sparse.training.live_optimizers import LiveOptimizers

# Steps that run before a capture, for what libraries and optimizers set up on first use. They count as any other.
WARM_UPS = 3
# Returns what is logged: name -> tensor with one element.
Step = Callable[[], dict[str, th.Tensor]]
# What torch says of an operation for which the host waits; none can be captured.
_WAIT = "called a synchronizing CUDA operation"
# After a failed capture torch's allocator goes on asking the graph which memory is its own, so it must not be freed.
_BROKEN_GRAPHS: list[th.cuda.CUDAGraph] = []


class EagerProgram:
    """
    A gradient step that is run as it is.

    :param step: Makes the step and returns its losses
    :param parameters: Parameters that it changes
    """

    def __init__(self, step: Step, parameters: Sequence[th.Tensor]):
        self.step, self.parameters = step, parameters

    def __call__(self) -> dict[str, th.Tensor]:
        """
        Make the step.

        :return: Name -> loss, a scalar
        """
        return {name: loss.detach().reshape(()) for name, loss in self.step().items()}

    def gradients(self) -> Mapping[th.Tensor, th.Tensor]:
        """Parameter -> its gradient in the last step."""
        return {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}


class GraphProgram(EagerProgram):
    """
    A gradient step that is captured in a CUDA graph after a few runs, and replayed from then on: one launch for all kernels.

    A graph holds addresses: whoever replaces a tensor that the step reads, rather than writing into it, must make a new one.
    A step that waits for the GPU cannot be captured: it is run kernel by kernel, with a warning that says what waits.

    :param step: Makes the step and returns its losses
    :param parameters: Parameters that it changes
    :param optimizers: Optimizers that step in it
    :param device: The GPU
    :param feed: Called before every step, to write what it reads into the same tensors as before
    :param generators: Generators that it draws from beside the default one
    """

    def __init__(
        self,
        step: Step,
        parameters: Sequence[th.Tensor],
        optimizers: LiveOptimizers,
        device: th.device,
        feed: Callable[[], None] = lambda: None,
        generators: Sequence[th.Generator] = (),
    ):
        super().__init__(step, parameters)
        self.optimizers, self.device, self.feed, self.generators = optimizers, device, feed, generators
        self.stream = _side_stream(device)
        self.runs = 0
        self.graph: th.cuda.CUDAGraph | None = None
        self._waits = False
        self._names: list[str] = []
        self._losses: th.Tensor | None = None  # stacked, for one copy per step
        self._gradients: Mapping[th.Tensor, th.Tensor] = {}

    def __call__(self) -> dict[str, th.Tensor]:
        """
        Make the step.

        :return: Name -> loss, a scalar
        :raises RuntimeError: if the capture fails; the step was not made then.
        """
        # Streams, graphs and generators are those of the current device unless told otherwise.
        with th.cuda.device(self.device):
            self.optimizers.refresh()
            self.feed()
            if self.runs == WARM_UPS and not self._waits:
                self._capture()
            self.runs += 1
            if self.graph is None:
                return self._run()
            self.graph.replay()
            assert self._losses is not None
            return dict(zip(self._names, self._losses.clone(), strict=True))

    def gradients(self) -> Mapping[th.Tensor, th.Tensor]:
        """Parameter -> its gradient in the last step."""
        return super().gradients() if self.graph is None else self._gradients

    def _run(self) -> dict[str, th.Tensor]:
        current = th.cuda.current_stream()
        self.stream.wait_stream(current)
        # The last one before the capture tells, when everything is set up.
        noting: AbstractContextManager[list[str]] = _noting_waits() if self.runs == WARM_UPS else nullcontext([])
        with th.cuda.stream(self.stream), self.optimizers.capturing(), noting as waits:
            losses = super().__call__()
        current.wait_stream(self.stream)
        if waits:
            self._waits = True
            warnings.warn(
                f"The update runs kernel by kernel, which is slower, because it waits for the GPU in {', '.join(waits)}.",
                stacklevel=2,
            )
        return losses

    def _capture(self) -> None:
        graph = th.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        for parameter in self.parameters:  # gradients of other steps are no part of this one
            parameter.grad = None
        with _explaining(graph), self.optimizers.capturing(), _without_garbage():
            with th.cuda.graph(graph, stream=self.stream):
                losses = _first_error_first(super().__call__)
                stacked = th.stack(list(losses.values()))
        self._names, self._losses = list(losses), stacked
        self.graph, self._gradients = graph, super().gradients()


@contextmanager
def _without_garbage() -> Iterator[None]:
    """
    Collect garbage now and not while this is open. Graphs of a model that is gone must not be freed within a capture, which
    would break it; and what autograd noted in another stream, alive in a cycle only, would make the capture wait for that one.
    torch has stopped collecting before a capture (2.9).
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _CaptureError(Exception):
    """Carries what went wrong out of a capture, whose end fails as well and would hide it."""


def _first_error_first(step: Step) -> dict[str, th.Tensor]:
    try:
        return step()
    except RuntimeError as error:
        raise _CaptureError from error


@contextmanager
def _explaining(graph: th.cuda.CUDAGraph) -> Iterator[None]:
    """Say why a capture failed, and leave the stream that torch stays in then."""
    current = th.cuda.current_stream()
    try:
        yield
    except (RuntimeError, _CaptureError) as error:
        th.cuda.set_stream(current)
        _BROKEN_GRAPHS.append(graph)
        chain = [error, error.__context__]
        first = next((e.__cause__ for e in chain if isinstance(e, _CaptureError)), error)
        if isinstance(first, th.OutOfMemoryError):
            raise first from None
        raise RuntimeError(
            f"The update cannot be captured in a CUDA graph: {first}\nThe networks are as they were before this update, but "
            "torch cannot draw random numbers reliably on this GPU after that: save the model if need be, and train it with "
            "stable_baselines3's class of the same name, in a new process."
        ) from first


@contextmanager
def _noting_waits() -> Iterator[list[str]]:
    """Collect where the host waits for the GPU, as file and line; other warnings go their way."""
    waits: list[str] = []
    before = th.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=_WAIT)
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        th.cuda.set_sync_debug_mode(max(before, 1))
        try:
            yield waits
        finally:
            th.cuda.set_sync_debug_mode(before)
    for warning in caught:
        place = f"{warning.filename}:{warning.lineno}"
        if _WAIT not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif place not in waits:
            waits.append(place)


@functools.cache
def _side_stream(device: th.device) -> th.cuda.Stream:
    """One for all programs, as torch's matrix products keep a workspace for every stream that they were ever used in."""
    return th.cuda.Stream(device)
