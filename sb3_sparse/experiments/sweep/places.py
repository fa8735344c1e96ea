"""Places that run a grid: this process, others on this machine, or a Ray cluster."""

import contextlib
import multiprocessing
import os
import platform
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from sb3_sparse.installation import import_extra
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.outcome import FAILED, Outcome, Train, attempt

WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20
_SYSTEM_LOG = "the kernel's log (dmesg) of its machine"
# With its default of one thread per core, torch slows down several times where several runs share the cores.
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")}


class Place(Protocol):
    """Trains runs somewhere."""

    def check(self) -> None:
        """
        See that it can be used, before anything is written.

        :raises ValueError: if not.
        """
        ...

    def train_all(
        self, train: Train, runs: Sequence[GridRun], results: Path, command: Sequence[str], tick: Callable[[], None]
    ) -> Iterator[Outcome]:
        """
        Train runs, in any order.

        :param train: Trains one
        :param runs: Runs
        :param results: Folder of results
        :param command: Command line to put on record
        :param tick: Called every second or so
        :return: What became of each, as it becomes known
        """
        ...


@dataclass(frozen=True)
class ThisProcess:
    """
    One run after the other in this process, for a debugger.

    :param device: Device
    """

    device: str = "auto"

    def check(self) -> None:
        """See :class:`Place`."""

    def train_all(
        self, train: Train, runs: Sequence[GridRun], results: Path, command: Sequence[str], tick: Callable[[], None]
    ) -> Iterator[Outcome]:
        """See :class:`Place`."""
        for run in runs:
            with _called_meanwhile(tick):
                outcome = attempt(train, run, results, self.device, command)
            yield outcome


@dataclass(frozen=True)
class Processes:
    """
    Processes of this machine, without Ray: one that dies takes the others along, and nothing is tried again.

    :param workers: Runs at once, as many as there are CPU cores if None
    :param device: Device of every run
    """

    workers: int | None = None
    device: str = "auto"

    def check(self) -> None:
        """See :class:`Place`."""

    def train_all(
        self, train: Train, runs: Sequence[GridRun], results: Path, command: Sequence[str], tick: Callable[[], None]
    ) -> Iterator[Outcome]:
        """See :class:`Place`."""
        # Not forked: threads of torch and CUDA do not survive that.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(runs), self.workers or os.cpu_count() or 1), mp_context=context) as pool:
            pending = {pool.submit(attempt, train, run, results, self.device, command): run for run in runs}
            while pending:
                done, _ = wait(pending, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED)
                tick()
                for future in done:
                    yield _outcome(future, pending.pop(future))


@dataclass(frozen=True)
class RayCluster:
    """
    Ray: on this machine, started and stopped with the grid, or on a cluster that is there. A run whose worker or machine dies
    goes on elsewhere from its last checkpoint. The folder of results must be on a file system that all machines see.

    :param address: "HOST:PORT" of the cluster, "auto" for one that this machine belongs to; None for this machine alone
    :param workers: Runs at once on this machine, as many as there are CPU cores if None; of no meaning with an address
    :param cpus: CPU cores of each run
    :param gpus: Part of a GPU of each run; where there is no GPU, runs take none
    :param retries: How often a run whose process died is tried again
    :param device: Device of every run
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.25
    retries: int = 3
    device: str = "auto"

    def check(self) -> None:
        """See :class:`Place`."""
        import_extra("ray", "cluster")
        if self.address is not None:
            _refuse_unreachable(self.address)

    def train_all(
        self, train: Train, runs: Sequence[GridRun], results: Path, command: Sequence[str], tick: Callable[[], None]
    ) -> Iterator[Outcome]:
        """See :class:`Place`."""
        ray = import_extra("ray", "cluster")
        self._connect(ray)
        try:
            options = self._options(ray)
            task = ray.remote(_attempt_there)
            home = (str(results.resolve()), version("sb3-sparse"), platform.node())
            pending = {
                task.options(name=run.id, **options).remote(train, run, home, self.device, list(command)): run for run in runs
            }
            while pending:
                done, _ = ray.wait(list(pending), timeout=WAIT_SECONDS)
                tick()
                for reference in done:
                    yield self._outcome(ray, pending.pop(reference), reference)
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        shared: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        if self.address is None:
            # Not one that runs on this machine already; what runs return is a few words.
            machine = {"num_cpus": self.workers or os.cpu_count(), "object_store_memory": _OBJECT_STORE_BYTES}
            ray.init("local", include_dashboard=False, **machine, **shared)
            return
        # Workers of a cluster that was started elsewhere import what this process imports, where folders are shared.
        environment = {"env_vars": {**_ONE_THREAD, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}}
        try:
            ray.init(address=self.address, runtime_env=environment, **shared)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"There is no Ray cluster at {self.address!r}: {str(error).splitlines()[0]} "
                "Start one with `ray start --head`, or leave --address out to run on this machine."
            ) from error

    def _options(self, ray: Any) -> dict[str, Any]:
        available: Mapping[str, float] = ray.cluster_resources()
        gpus = self.gpus if available.get("GPU", 0) > 0 and self.device != "cpu" else 0
        for name, wanted, key in (("CPU cores", self.cpus, "CPU"), ("GPUs", gpus, "GPU")):
            if wanted > available.get(key, 0):
                raise ValueError(
                    f"A run wants {wanted:g} {name}, and all there is, is {available.get(key, 0):g}: "
                    f"lower resources: {key.lower()}s in the grid, or raise --workers."
                )
        chosen = {"num_cpus": self.cpus, "num_gpus": gpus, "max_retries": self.retries, "scheduling_strategy": "SPREAD"}
        return chosen if self.address else {**chosen, "runtime_env": {"env_vars": _ONE_THREAD}}

    def _outcome(self, ray: Any, run: GridRun, reference: Any) -> Outcome:
        try:
            return ray.get(reference)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            return Outcome(run, FAILED, f"its process died {self.retries + 1} times: out of memory? see {_SYSTEM_LOG}")
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            return Outcome(run, FAILED, f"{type(error).__name__}: {lines[-1] if lines else 'no message'}")


@contextlib.contextmanager
def _called_meanwhile(tick: Callable[[], None]) -> Iterator[None]:
    is_over = threading.Event()

    def call() -> None:
        while not is_over.wait(WAIT_SECONDS):
            tick()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _outcome(future: "Future[Outcome]", run: GridRun) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(run, FAILED, f"a process of this command died: out of memory? see {_SYSTEM_LOG}")


def _attempt_there(train: Train, run: GridRun, home: tuple[str, str, str], device: str, command: Sequence[str]) -> Outcome:
    """What a worker does."""
    results, expected, origin = Path(home[0]), home[1], home[2]
    if version("sb3-sparse") != expected:
        problem = f"{platform.node()} has sb3-sparse {version('sb3-sparse')}, {origin} has {expected}: install the same"
        return Outcome(run, FAILED, problem)
    if not (results / "results.json").exists():
        problem = f"{platform.node()} does not see {results} of {origin}: give a folder that all machines of the cluster share"
        return Outcome(run, FAILED, problem)
    return attempt(train, run, results, device, command)


def _refuse_unreachable(address: str) -> None:
    """Ray itself waits for a minute, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Nothing answers at {address!r} ({error}): give --address HOST:PORT of a Ray cluster's head (port 6379 unless it "
            "was started with another), or leave it out to run on this machine."
        ) from error
