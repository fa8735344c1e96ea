import re
import subprocess
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from importlib.metadata import distribution, version
from pathlib import Path
from zipfile import ZipFile

import pytest

import sb3_sparse

ROOT = Path(__file__).parent.parent
HOOK = "sb3_sparse/zoo/custom_envs.py"
TOP_LEVEL = {"pyproject.toml", "README.md", "docs", "sb3_sparse", "hyperparams", "scripts", "tests", "LICENSE", "CHANGELOG.md"}


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> Iterator[ZipFile]:
    with ZipFile(wheel_file) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return message_from_string(read_dist_info(wheel, "METADATA"))


def read_dist_info(wheel: ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def documented_extras() -> list[str]:
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / "start" / "install.md").read_text() + "\n", flags=re.MULTILINE)
    (table,) = (table for table in tables if re.match(r"\|\W*extra", table, flags=re.IGNORECASE))
    return re.findall(r"^\|\s*`([\w-]+)`", table, flags=re.MULTILINE)


def test_wheel_contents(wheel: ZipFile) -> None:
    files = set(wheel.namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_sparse").rglob("*.py")}
    modules.remove(HOOK)  # it is beside the package instead
    hyperparameters = {f"sb3_sparse/hyperparams/{path.name}" for path in (ROOT / "hyperparams").glob("*.yml")}
    assert hyperparameters
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_sparse" / "experiments").rglob("*.[cy]*[vl]")}
    assert all(any(f"/{folder}/" in path for path in data) for folder in ("grids", "references"))
    assert {"sb3_sparse/py.typed"} | modules | hyperparameters | data <= files
    assert {path.split("/")[0] for path in files if ".dist-info/" not in path} == {"sb3_sparse", "custom_envs.py"}


def test_zoo_hook(wheel: ZipFile) -> None:
    assert wheel.read("custom_envs.py").decode() == (ROOT / HOOK).read_text()


def test_zoo_hook_is_installed() -> None:
    # In an editable installation too, unless it is older than pyproject.toml.
    assert "custom_envs.py" in map(str, distribution("sb3-sparse").files or [])


def test_wheel_licence(wheel: ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "MIT"
    assert read_dist_info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_wheel_entry_point(wheel: ZipFile) -> None:
    assert "sb3-sparse = sb3_sparse.__main__:main" in read_dist_info(wheel, "entry_points.txt")


def test_version(metadata: Message) -> None:
    assert metadata["Version"] == version("sb3-sparse") == sb3_sparse.__version__
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert releases[:1] in ([], [sb3_sparse.__version__])


def test_extras_are_documented(metadata: Message) -> None:
    assert sorted(documented_extras()) == sorted(metadata.get_all("Provides-Extra"))


def test_top_level() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = {line.split("/")[0] for line in tracked.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
