import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch as th
from commands import run

# The networks of the tests are so small that more threads only wait for each other.
th.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    if not config.getoption("--slow"):
        skips["slow"] = pytest.mark.skip(reason="slow: give --slow to run it")
    if not th.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="gpu: needs a CUDA device")
    for item in items:
        for name, skip in skips.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def site(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install`` makes of the wheel, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    with ZipFile(wheel_file) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def rendering(site: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where there is nothing to draw with, or to make videos with."""
    pytest.importorskip("moviepy")
    code = (
        "from sb3_sparse.envs import DMControlEnv; env = DMControlEnv('pendulum', 'swingup', render_mode='rgb_array')\n"
        "try: env.render()\nexcept RuntimeError as error: print(error)"
    )
    output = run(site, tmp_path_factory.mktemp("rendering"), "-c", code)
    if "cannot draw images" in output:
        pytest.skip(output)
