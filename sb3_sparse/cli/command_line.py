"""The command line: ``sb3-sparse`` and ``python -m sb3_sparse``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

import gymnasium as gym

from sb3_sparse.cli import COMMANDS
from sb3_sparse.cli.zoo_commands import ZOO_COMMANDS, check_options, run_zoo
from sb3_sparse.zoo.registration import register


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: Command line without the program's name, that of the process if None
    :return: Exit status; 1 after an error that the user can mend, which is printed without a traceback
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_cut_off():  # a pipe to a process of ours
            raise
        return 128 + signal.SIGPIPE
    return status


def _is_cut_off() -> bool:
    """Whether what reads our output has ended, as ``| head`` does; what is left of it then goes nowhere."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _run(words: list[str]) -> int:
    is_zoo_command = bool(words) and words[0] in ZOO_COMMANDS
    try:
        if is_zoo_command:
            check_options(words)
            register()
        else:
            options = parser().parse_args(words)
            options.run(options)
    except BrokenPipeError:
        raise
    except (ImportError, OSError, ValueError, gym.error.Error) as error:
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    if is_zoo_command:  # not above, as what goes wrong in hours of training is worth a traceback
        return run_zoo(*words)
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    result = argparse.ArgumentParser(prog="sb3-sparse", description="Static network sparsity for Stable-Baselines3.")
    result.add_argument("--version", action="version", version=f"%(prog)s {version('sb3-sparse')}")
    commands = result.add_subparsers(required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    return result
