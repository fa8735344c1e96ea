"""The README is the manual: its Python runs as it stands (with shorter training), and what its shell commands name exists."""

import re
import shlex
from pathlib import Path

import pytest

from sb3_sparse.cli.command_line import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("dm_control")
    if "ale_py" in code:
        pytest.importorskip("ale_py")
    if "-pixels-" in code:
        request.getfixturevalue("rendering")
    monkeypatch.chdir(tmp_path)
    shortened, count = re.subn(r"\.learn\([\d_]+", ".learn(64", code)
    assert count, "every example trains something; one that does not needs a check of its own here"
    exec(compile(shortened, "README.md", "exec"), {})


def test_figures_are_there() -> None:
    figures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert figures
    for figure in figures:
        assert (ROOT / figure).is_file(), figure


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in README.splitlines() if line[:1] == "#"
    }
    for anchor in re.findall(r"\]\(#(.*?)\)", README):
        assert anchor in headings


def test_scripts_named_exist_and_are_executable() -> None:
    scripts = set(re.findall(r"\./(scripts/[\w-]+)", README))
    assert {"scripts/quickstart", "scripts/test"} <= scripts
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_commands_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {shlex.split(line)[0] for line in re.findall(r"python -m sb3_sparse ([\w-]+)", README)}
    assert commands
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert command in capsys.readouterr().out


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"@[A-Z0-9]+@|TODO|TBD", README)
