"""Programs of Python in processes of their own, forked from one that has imported torch and Stable-Baselines3 already."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Forks a process for each line of its input, waits for it and prints its exit status.
SERVER = """
import json, os, runpy, sys
import gymnasium, sb3_contrib, stable_baselines3, torch._dynamo  # what every optimizer imports

for line in sys.stdin:
    if os.fork() == 0:
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
program = json.loads(line)
for number, path in enumerate([os.devnull, *program["outputs"]]):
    os.dup2(os.open(path, os.O_RDWR), number)
os.chdir(program["folder"])
os.environ.clear()
os.environ.update(program["environment"])
sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
kind, what, *sys.argv[1:] = program["arguments"]
if kind == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    exec(compile(what, "<string>", "exec"))
"""


@functools.cache
def _server() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SERVER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def python(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """
    What ``subprocess.run([sys.executable, *arguments], capture_output=True, text=True)`` does, seconds faster.

    :param arguments: "-m" and a module, or "-c" and code; then what it finds in ``sys.argv``
    :param folder: Folder to run in; this one if None
    :param environment: All environment variables; those of this process if None
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as outputs:
        paths = [Path(outputs) / name for name in ("stdout", "stderr")]
        for path in paths:
            path.touch()
        program = {
            "arguments": arguments,
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "outputs": [str(path) for path in paths],
        }
        server.stdin.write(json.dumps(program) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(path.read_text() for path in paths))


def run(site: Path, folder: Path, *arguments: str, fails: bool = False, **variables: str) -> str:
    """A command as users type it, with the package installed from its wheel."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **variables}
    environment.pop("MUJOCO_GL", None)  # other tests set it, users need not
    done = python(*arguments, folder=folder, environment=environment)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr
