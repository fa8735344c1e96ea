import compileall
import gc
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch as th
from filelock import FileLock
from fork_server import preload

from sb3_sparse.envs.dependencies import import_suite

# The networks of the tests are so small that more threads only wait for each other.
th.set_num_threads(1)
preload()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not th.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="gpu: needs a CUDA device"))
    if not config.getoption("--slow"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_collection_finish() -> None:
    # What is imported by now stays, and need not be looked through for garbage whenever an update is captured.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def wheel_file(site: Path) -> Path:
    (path,) = site.parent.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install`` makes of the wheel, in a folder that all processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
            subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
            (path,) = folder.glob("*.whl")
            with ZipFile(path) as archive:
                archive.extractall(folder / "site")
            compileall.compile_dir(folder / "site", quiet=1)
    return folder / "site"


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips where dm_control itself cannot draw."""
    pytest.importorskip("dm_control")
    try:
        import_suite().load("pendulum", "swingup").physics.render(8, 8)
    except Exception as error:  # whatever the renderer raises
        pytest.skip(f"no rendering: {error!r}")
