"""Callbacks of the runs of a grid: how long a run took, how far it is, what streaming algorithms tell of themselves."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.callbacks.measurement_file import FILE_NAME, Measurement, MeasurementFile
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.experiments.sweep.grid_run import GridRun

_PROGRESS_SECONDS = 1.0


class StepCounter(BaseCallback):
    """What needs to know how many steps a run has taken, and nothing else of them: streaming algorithms are faster then."""

    reads_locals = False


class Stopwatch(StepCounter):
    """Seconds and process time that a run takes, those before it was interrupted included."""

    def __init__(self) -> None:
        super().__init__()
        self._begin((0.0, 0.0))

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds, and seconds of process time."""
        seconds, cpu_seconds = self._before
        return seconds + time.monotonic() - self._begun[0], cpu_seconds + time.process_time() - self._begun[1]

    def _begin(self, before: tuple[float, float]) -> None:
        self._before, self._begun = before, (time.monotonic(), time.process_time())

    def _on_step(self) -> bool:
        return True

    def checkpoint_state(self) -> tuple[float, float]:
        """Time so far."""
        return self.spent

    def restore_checkpoint_state(self, state: tuple[float, float]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        self._begin(state)


class ProgressFile(StepCounter):
    """
    Writes down how far a run is, for displays in other processes, at most once a second.

    :param path: File
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._last = -float("inf")

    def _on_step(self) -> bool:
        now = time.monotonic()
        # In a run that goes on, the last time may be that of another machine's clock.
        if not 0.0 <= now - self._last < _PROGRESS_SECONDS:
            self._last = now
            self.path.write_text(str(self.num_timesteps))
        return True


class TrainingMeans(StepCounter):
    """
    Keeps step sizes and trace norms of a streaming algorithm, in the windows of its learning curve, with the measurements of
    plasticity.

    :param run: Run
    :param folder: Folder of its files
    """

    def __init__(self, run: GridRun, folder: Path):
        super().__init__()
        self.path = folder / FILE_NAME
        self.ends = {run.agent_steps * (i + 1) // run.windows for i in range(run.windows)}

    def _on_training_start(self) -> None:
        self._file = MeasurementFile(self.path)
        self._repeat = action_repeat(self.training_env)

    def _on_step(self) -> bool:
        step = self.num_timesteps  # and updates, one in each
        if step in self.ends:
            means = self.model.take_training_means()  # type: ignore[attr-defined]
            self._file.append(
                Measurement(step, step * self._repeat, step, network, "", metric, value)
                for network, metric, value in _by_network(means)
            )
        return True

    def checkpoint_state(self) -> dict[str, bytes]:
        """The file so far."""
        return self._file.state()

    def restore_checkpoint_state(self, state: dict[str, bytes]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        self._file.restore(state)


def _by_network(means: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    for name, value in means.items():
        network, _, metric = name.partition("_")
        if network in ("actor", "critic"):
            yield network, metric, value
