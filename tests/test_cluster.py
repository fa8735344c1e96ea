"""A grid on a Ray cluster of two machines, of which workers and one machine are lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sb3_sparse.experiments.sweep.grid_table import PROVENANCE, read_table

pytest.importorskip("rl_zoo3")
ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).parent.parent
GRID = """
algorithm: sac
task: Pendulum-v1
seeds: 4
agent_steps: 1600
arms:
  - {width_scale: 0.0625, sparsity: 0.5}
evaluation: {freq: 400, episodes: 2}
plasticity: {log_freq: 400, batch_size: 32}
hyperparameters: {policy: sb3_sparse.SparseSimBaPolicy, update_rule: paper, learning_starts: 100, batch_size: 16}
checkpoints: 8
resources: {cpus: 1, gpus: 0}
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    two.second = two.add_node(num_cpus=1)
    two.wait_for_nodes()
    yield two
    two.shutdown()


def wait_for(what: Callable[[], Any], seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def sweep(grid: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "sb3_sparse", "sweep", str(grid), "--output", str(output), "--device", "cpu", *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def workers() -> dict[str, int]:
    """Seed of a run -> process that trains it: Ray names processes by their task."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith("ray::sac-Pendulum"):
            found[line.split("-seed")[1][0]] = process.info["pid"]
    return found


def with_checkpoint(output: Path) -> set[str]:
    return {path.parts[-3].split("-seed")[1][0] for path in output.glob("runs/*/checkpoint/checkpoint-*.json")}


def resumed(output: Path) -> int:
    """How often runs have gone on."""
    return sum(path.read_text().count("Resumed from step") for path in output.glob("runs/*/log.txt"))


def results(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in line.items() if key not in PROVENANCE} for line in read_table(folder / "table.csv")]


@pytest.mark.slow
def test_a_grid_survives_the_loss_of_workers_and_of_a_machine(cluster: Any, tmp_path: Path) -> None:
    grid, output = tmp_path / "mine.yml", tmp_path / "disturbed"
    grid.write_text(GRID)
    driver = sweep(grid, output, "--address", cluster.address)
    assert wait_for(lambda: len(workers()) == 2)  # both machines train
    seed = wait_for(lambda: with_checkpoint(output) & set(workers()))
    os.kill(workers()[seed.pop()], signal.SIGKILL)
    wait_for(lambda: resumed(output) == 1)
    # A worker of the second machine that has something to lose.
    wait_for(
        lambda: {seed for seed, pid in workers().items() if pid in children(second_raylet(cluster))} & with_checkpoint(output)
    )
    lose_machine(cluster)
    printed, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, printed
    assert printed.count("finished") == 4
    undisturbed = sweep(grid, tmp_path / "undisturbed", "--local")
    assert undisturbed.wait(400) == 0
    assert len(results(output)) == 16 and results(output) == results(tmp_path / "undisturbed")
    assert resumed(output) >= 2  # those that were lost went on, and did not begin anew


def lose_machine(cluster: Any) -> None:
    """All of its processes at once: left alone, a worker could end its run before it notices."""
    lost = children(second_raylet(cluster))
    for pid in lost:
        os.kill(pid, signal.SIGSTOP)
    cluster.remove_node(cluster.second, allow_graceful=False)
    for pid in lost:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def second_raylet(cluster: Any) -> int:
    return cluster.second.all_processes["raylet"][0].process.pid
