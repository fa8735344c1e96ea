"""How a gradient step is run: kernel by kernel, or as one CUDA graph."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch as th

from sb3_sparse.common.live_optimizers import LiveOptimizers

# Steps that run before a capture, for what libraries and optimizers set up on first use. They count as any other.
WARM_UPS = 3
Step = Callable[[], th.Tensor]


class EagerProgram:
    """
    A gradient step that is run as it is.

    :param step: Makes the step and returns its (k,) losses
    :param parameters: Parameters that it changes
    """

    def __init__(self, step: Step, parameters: Sequence[th.Tensor]):
        self.step, self.parameters = step, parameters

    def __call__(self) -> th.Tensor:
        """
        Make the step.

        :return: (k,) losses
        """
        return self.step()

    def gradients(self) -> Mapping[th.Tensor, th.Tensor]:
        """Parameter -> its gradient in the last step."""
        return {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}


class GraphProgram(EagerProgram):
    """
    A gradient step that is captured in a CUDA graph after a few runs, and replayed from then on: one launch for all kernels.

    A graph holds addresses: whoever replaces a tensor that the step reads, rather than writing into it, must make a new one.

    :param step: Makes the step and returns its (k,) losses; must not wait for the GPU
    :param parameters: Parameters that it changes
    :param optimizers: Optimizers that step in it
    :param feed: Called before every step, to write what it reads into the same tensors as before
    :param generators: Generators that it draws from beside the default one
    """

    def __init__(
        self,
        step: Step,
        parameters: Sequence[th.Tensor],
        optimizers: LiveOptimizers,
        feed: Callable[[], None] = lambda: None,
        generators: Sequence[th.Generator] = (),
    ):
        super().__init__(step, parameters)
        self.optimizers, self.feed, self.generators = optimizers, feed, generators
        self.stream = th.cuda.Stream()
        self.runs = 0
        self.graph: th.cuda.CUDAGraph | None = None
        self._losses: th.Tensor | None = None
        self._gradients: Mapping[th.Tensor, th.Tensor] = {}

    def __call__(self) -> th.Tensor:
        """
        Make the step.

        :return: (k,) losses
        """
        self.optimizers.refresh()
        self.feed()
        if self.runs == WARM_UPS:
            self._capture()
        self.runs += 1
        if self.graph is None:
            return self._run()
        self.graph.replay()
        assert self._losses is not None
        return self._losses.clone()

    def gradients(self) -> Mapping[th.Tensor, th.Tensor]:
        """Parameter -> its gradient in the last step."""
        return super().gradients() if self.graph is None else self._gradients

    def _run(self) -> th.Tensor:
        self.stream.wait_stream(th.cuda.current_stream())
        with th.cuda.stream(self.stream), self.optimizers.capturing():
            losses = self.step()
        th.cuda.current_stream().wait_stream(self.stream)
        return losses

    def _capture(self) -> None:
        graph = th.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with self.optimizers.capturing(), th.cuda.graph(graph, stream=self.stream):
                losses = self.step()
        except th.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(
                f"The update cannot be captured in a CUDA graph and runs kernel by kernel, which is slower: {error}",
                stacklevel=2,
            )
            return
        self.graph, self._losses, self._gradients = graph, losses, super().gradients()
