"""The programs of a model: made when they are needed, forgotten when what they hold on to was replaced."""

import functools
from collections.abc import Callable, Hashable

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_sparse.training.held_objects import HeldObjects
from sb3_sparse.training.live_optimizers import LiveOptimizers
from sb3_sparse.training.programs import EagerProgram

# Each holds memory, so those made first go: numbers that change all the time would fill the GPU.
_MOST_PROGRAMS = 8


class ProgramCache:
    """
    Programs by what they were made for.

    :param model: Model that they update
    """

    def __init__(self, model: OffPolicyAlgorithm):
        self.programs: dict[Hashable, EagerProgram] = {}
        self._model, self._held = model, HeldObjects(model)
        # By whether a step was full, the last one last.
        self._last: dict[bool, EagerProgram] = {}

    def is_valid(self) -> bool:
        """Whether the model still has what the programs hold on to."""
        return self._held.are_valid(self._model)

    @property
    def optimizers(self) -> list[th.optim.Optimizer]:
        """The model's optimizers."""
        return self._held.optimizers

    @functools.cached_property
    def live_optimizers(self) -> LiveOptimizers:
        """The model's optimizers, for graphs."""
        return LiveOptimizers(self.optimizers, self._model.device)

    def run(self, key: Hashable, full: bool, make: Callable[[], EagerProgram]) -> dict[str, th.Tensor]:
        """
        Make a step.

        :param key: All that its program is made for
        :param full: Whether it is a full step
        :param make: Makes the program if there is none
        :return: Name -> loss, a scalar
        """
        if key not in self.programs:
            if len(self.programs) == _MOST_PROGRAMS:
                del self.programs[next(iter(self.programs))]
            self.programs[key] = make()
        program = self.programs[key]
        losses = program()
        self._last.pop(full, None)
        self._last[full] = program
        return losses

    @property
    def last(self) -> EagerProgram:
        """The program that ran last."""
        return next(reversed(self._last.values()))

    def gradients(self) -> dict[th.Tensor, th.Tensor]:
        """Parameter -> its last gradient, of a step that need not have been the last one."""
        found: dict[th.Tensor, th.Tensor] = {}
        for program in self._last.values():
            found.update(program.gradients())
        return found
