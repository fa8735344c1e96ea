"""Number of rollouts that an on-policy algorithm has collected, which SB3 keeps in a local variable of ``learn()``."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

_LOGGED = "time/iterations"


class Iterations:
    """
    Counts rollouts over all lives of a run, and has them logged so. Whether a line is logged after a rollout depends on the
    count of the process, so the two must agree on that when a run goes on: see :attr:`is_line_logged`.

    :param model: Model
    :param log_interval: Of ``learn()``: rollouts between two lines, None for no lines
    """

    def __init__(self, model: BaseAlgorithm, log_interval: int | None):
        self.model, self.log_interval = model, log_interval
        # Before this process, and in it.
        self.before = self.here = 0
        self.close()  # what a training that failed may have left

    @property
    def total(self) -> int:
        """Rollouts that were collected and learned from."""
        return self.before + self.here

    @property
    def is_line_logged(self) -> bool:
        """Whether SB3 logged a line after the last rollout, so that counting from here leads to lines after the same ones."""
        is_counted = isinstance(self.model, OnPolicyAlgorithm) and self.log_interval is not None
        return not is_counted or self.here % self.log_interval == 0  # type: ignore[operator]

    def restore(self, total: int) -> None:
        """
        Go on counting; the logger adds what came before from now on.

        :param total: Rollouts before this process
        """
        self.before = total
        logger: Any = self.model.logger

        def dump_all(step: int = 0) -> None:
            if _LOGGED in logger.name_to_value:
                logger.name_to_value[_LOGGED] += self.before
            type(logger).dump(logger, step)

        logger.dump = dump_all

    def close(self) -> None:
        """Leave the logger alone from now on."""
        vars(self.model.logger).pop("dump", None)
