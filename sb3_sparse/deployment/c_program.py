"""What the system's compiler makes of an exported file of C."""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_sparse.deployment.c_source import MAIN, c_source, checked_text, prefix_of
from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy
from sb3_sparse.deployment.recording import Policy, Recording, flat
from sb3_sparse.deployment.step_list import step_list

_COMPILERS = ("cc", "gcc", "clang")
_STANDARD = ("-std=c99", "-O2")


def write_c(policy: DeterministicPolicy, path: Path, recording: Recording, metadata: Mapping[str, Any], prefix: str) -> Policy:
    """
    Write a policy down in C.

    :param policy: The policy
    :param path: The file
    :param recording: Observations and actions that the file carries
    :param metadata: What it tells of the policy
    :param prefix: What all names begin with
    :return: What the system's compiler makes of it
    :raises ValueError: if the policy cannot be written down, or there is no compiler to check it with.
    """
    compiler()
    path.write_text(c_source(prefix, step_list(policy), recording, metadata))
    discrete = recording.half_range is None
    return compiled_policy(path, prefix, recording.actions.shape[1:], np.dtype(np.int32 if discrete else np.float32))


def compiled_policy(path: Path, prefix: str, action: tuple[int, ...], type: np.dtype) -> Policy:
    """
    Compile a file, and load it into this process.

    :param path: The file
    :param prefix: What its names begin with
    :param action: Shape of an action
    :param type: Type of an action
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "policy.so"
        _compile(path, "-shared", "-fPIC", "-o", str(library), "-lm")
        function = getattr(ctypes.CDLL(str(library)), f"{prefix}_act")

    def act(inputs: dict[str, np.ndarray]) -> np.ndarray:
        observations = flat(inputs)
        actions = np.empty((len(observations), *action), type)
        for observation, result in zip(observations, actions.reshape(len(actions), -1), strict=True):
            if function(ctypes.c_void_p(observation.ctypes.data), ctypes.c_void_p(result.ctypes.data)) != 0:
                raise ValueError(f"{prefix}_act refuses an observation: it must be finite.")
        return actions.astype(np.int64) if type == np.int32 else actions

    return act


def check_c(path: Path) -> float:
    """
    Compile a file with the system's compiler, and let it compare its actions with those that were recorded.

    :param path: The file
    :return: Largest deviation from the recorded actions
    :raises ValueError: if it was not exported, was edited, does not compile, or actions differ.
    """
    checked_text(path.read_text())
    prefix_of(path)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "check"
        _compile(path, f"-D{MAIN}", "-o", str(program), "-lm")
        done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise ValueError(f"the compiled program {done.stdout.strip() or 'failed'}")
    return float(done.stdout.split()[-1])


def compiler() -> list[str]:
    """
    The system's C compiler: that of the environment variable CC, else cc, gcc or clang.

    :raises ValueError: if there is none.
    """
    if words := shlex.split(os.environ.get("CC", "")):
        return words
    for name in _COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise ValueError(
        f"A file of C is compiled to be checked, and there is no C compiler ({', '.join(_COMPILERS)}): install one, or set CC."
    )


def _compile(path: Path, *arguments: str) -> None:
    command = [*compiler(), *_STANDARD, "-x", "c", str(path), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"The C compiler {command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
