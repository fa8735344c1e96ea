"""What importing the package does, and what it leaves alone."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from commands import python

import sb3_sparse

PACKAGE = Path(__file__).parent.parent / "sb3_sparse"
# What every floor may import, and what imports nothing of the package.
GROUND = {"arguments", "installation", "lazy_names", "moved_modules"}
# From the ground up; imports point down only, and those of one floor know nothing of each other.
FLOORS = [
    {"sparsity"},
    {"networks", "diagnostics"},
    {"buffers", "algorithms"},
    {"common"},
    {"training"},
    {"callbacks", "checkpoints", "envs", "sac", "td3", "tqc", "crossq", "stream_ac", "drqv2", "der"},
    {"deployment"},
    {"zoo"},
    {"experiments"},
    {"cli"},
]


def run(code: str) -> str:
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_needs_no_extra_and_registers_no_environments() -> None:
    # A user of Shimmy's own environments must not get others by importing a policy.
    code = """
import sys, gymnasium, sb3_sparse.cli.command_line
from sb3_sparse import *
print(*{name.split('.')[0] for name in sys.modules})
print([id for id in gymnasium.registry if id.startswith('dm_control/')])
import sb3_sparse.envs
print({'dm_control', 'mujoco', 'shimmy'} & set(sys.modules))
"""
    loaded, registered, by_environments = run(code).splitlines()
    extras = {"dm_control", "shimmy", "rl_zoo3", "matplotlib", "rliable", "rich", "ray", "onnx", "numba", "ale_py"}
    # SB3 itself imports these two where they are installed.
    assert not extras.intersection(loaded.split()) - {"matplotlib", "rich"}
    assert registered == "[]" and by_environments == "set()"


def test_help_takes_no_time() -> None:
    code = """
import contextlib, io, sys
from sb3_sparse.cli.command_line import ZOO_COMMANDS, main, parser
(commands,) = (action for action in parser()._actions if action.choices)
for words in [[], ["bench", "updates"], *([name] for name in commands.choices if name not in ZOO_COMMANDS)]:
    with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert "usage: sb3-sparse " + " ".join(words) in help.getvalue()
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "stable_baselines3", "gymnasium", "numpy", "matplotlib"}.intersection(loaded)


def test_names_of_the_package_are_known_before_they_are_imported() -> None:
    code = "import sb3_sparse; print(*dir(sb3_sparse)); from sb3_sparse import *; print(*globals()); sb3_sparse.no_such_name"
    done = python("-c", code)
    assert all(set(sb3_sparse.__all__) <= set(line.split()) for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 2
    assert "AttributeError: module 'sb3_sparse' has no attribute 'no_such_name'" in done.stderr


LAZY = [path for path in PACKAGE.rglob("__init__.py") if "lazy_names(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_type_checkers_see_the_names_that_are_imported_later(path: Path) -> None:
    package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    offered = importlib.import_module(package)
    assert set(seen) == set(offered.__all__)
    for name, module in seen.items():
        found = getattr(importlib.import_module(module or package), name)
        assert getattr(offered, name) is found and name in dir(offered)


def test_folders_of_offered_names_need_no_import_of_their_own() -> None:
    code = "import sb3_sparse; print(sb3_sparse.callbacks.PlasticityCallback, sb3_sparse.stream_ac.StreamWrapper)"
    assert len(run(code).splitlines()) == 1


def test_former_names_of_modules_are_known_to_a_script_that_imported_nothing_else() -> None:
    listing = (
        "import sys, sb3_sparse.common; print(*(name for name, module in sys.modules.items() if name != module.__name__))"
    )
    former = [name for name in run(listing).split() if name.startswith("sb3_sparse.")]
    for name in {name.rpartition(".")[0]: name for name in former}.values():  # one for each folder
        found = run(f"import importlib; found = importlib.import_module({name!r}); print(found.__name__, found.__spec__.name)")
        present, of_its_specification = found.split()
        assert present == of_its_specification != name


def test_hyperparameters_of_an_id_that_was_not_registered() -> None:
    pytest.importorskip("dm_control")
    code = (
        "from sb3_sparse import hyperparameters; print(hyperparameters('sac', 'dm_control/humanoid-run-v0')['target_entropy'])"
    )
    assert run(code).strip() == "-10.5"


@pytest.mark.parametrize("level", range(len(FLOORS)))
def test_imports_point_down(level: int) -> None:
    below = GROUND.union(*FLOORS[:level])
    for folder in FLOORS[level]:
        for path in (PACKAGE / folder).rglob("*.py"):
            imported = {name.split(".")[1] for name in imports(path) if name.startswith("sb3_sparse.")}
            assert imported <= below | {folder}, path


def test_the_ground_imports_nothing_of_the_package() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == GROUND
    for module in modules:
        assert not [name for name in imports(PACKAGE / f"{module}.py") if name.startswith("sb3_sparse")]


def test_every_folder_has_a_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set().union(*FLOORS)


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names
