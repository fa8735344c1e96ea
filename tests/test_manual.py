"""README and the manual: their Python runs as it stands (with shorter training), commands are parsed, links lead somewhere."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_sparse.cli.command_line import main

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
NOTEBOOKS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
ZOO_NAMES = {"record_video": "record", "push_to_hub": "push", "load_from_hub": "pull"}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, content) of the blocks in a language."""
    return [
        (page, block)
        for page, text in PAGES.items()
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


def commands() -> list[str]:
    """Our commands and the zoo's, in blocks and within sentences, as they are typed."""
    lines = []
    for _, block in blocks("bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for text in PAGES.values():
        lines += [
            span.replace("\n", " ")
            for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        ]
    found = (re.search(r"python -m (?:sb3_sparse|rl_zoo3\.\w+) .* .*|^sb3-sparse .* .*", line) for line in lines)
    return sorted({match[0] for match in found if match})


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page, code", blocks("python"), ids=lambda text: text.strip().splitlines()[-1][:40])
def test_python_blocks_run(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("dm_control")
    if "ale_py" in code:
        pytest.importorskip("ale_py")
    if "-pixels-" in code:
        request.getfixturevalue("rendering")
    monkeypatch.chdir(tmp_path)
    shortened, count = re.subn(r"\.learn\([\d_]+", ".learn(64", code)
    assert count or "optimizer.step()" in code or "sparsity.prune(" in code, (
        "every example trains or prunes something; one that does not needs a check of its own here"
    )
    exec(compile(shortened, page, "exec"), {})


class ParsedError(Exception):
    """Raised where a command line has been parsed, instead of running it."""


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rl_zoo3")
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    words = shlex.split(re.sub(r"\$\w+", "1", command), comments=True)  # variables hold what the shell would put in
    module = re.search(r"rl_zoo3\.(\w+)", command)
    name = [ZOO_NAMES.get(module[1], module[1])] if module else []
    with pytest.raises(ParsedError):
        main([*name, *words[1 if words[0] == "sb3-sparse" else 3 :]])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_scripts_named_exist_and_are_executable() -> None:
    scripts = {script for text in PAGES.values() for script in re.findall(r"\./(scripts/[\w-]+)", text)}
    assert {"scripts/quickstart", "scripts/test", "scripts/docs"} <= scripts
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_no_placeholder_is_left() -> None:
    for page, text in PAGES.items():
        assert not re.findall(r"@[A-Z0-9]+@|TODO|TBD", text), page


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(content, timeout=3_000, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_what_they_print(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert {output.get("name", "stdout") for output in shown} == {"stdout"}  # no warning, no error


def test_the_script_for_slurm_starts_ray_on_all_nodes_and_the_grid_on_one(tmp_path: Path) -> None:
    (script,) = (block for _, block in blocks("bash") if "#SBATCH --nodes" in block)
    stand_ins = {
        "scontrol": "printf 'node1\\nnode2\\nnode3\\n'",
        "srun": f'echo "$*" >>{tmp_path / "calls"}',
        "sleep": "/bin/sleep 0.5",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_NUM_NODES": "3"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=variables, check=True)
    head, others, grid = (tmp_path / "calls").read_text().splitlines()
    assert head == "--nodes=1 --ntasks=1 -w node1 ray start --head --port=6379 --block"
    assert others == "--nodes=2 --ntasks=2 --exclude=node1 ray start --address=node1:6379 --block"
    assert grid.startswith("--overlap --nodes=1 --ntasks=1 -w node1 python -m sb3_sparse sweep my.yml ")
    assert grid.endswith("--address node1:6379")


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", "-b", "html", "docs", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    policies = (tmp_path / "api" / "policies.html").read_text()
    assert "SparseSimBaPolicy" in policies
    assert 'class="reference internal" href="#sb3_sparse.common.simba_policy.SimBaPolicy"' in policies  # named short
    table = (tmp_path / "guides" / "policies.html").read_text()
    assert '<span class="pre">stable_</span><wbr><span class="pre">baselines3.</span><wbr>' in table
