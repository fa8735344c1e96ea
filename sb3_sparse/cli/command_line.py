"""The command line: ``sb3-sparse`` and ``python -m sb3_sparse``."""

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from sb3_sparse.cli import COMMANDS
from sb3_sparse.cli.zoo_commands import ZOO_COMMANDS, check_options, run_zoo


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: Command line without the program's name, that of the process if None
    :return: Exit status; 1 after an error that the user can mend, which is printed without a traceback; 130 after
        Ctrl-C
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
    options = None if is_zoo_command else parser().parse_args(words)
    try:
        if options is None:
            check_options(words)
        else:
            options.run(options)
    except BrokenPipeError:
        raise
    except _mendable_errors() as error:
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsb3-sparse: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    if is_zoo_command:  # not above, as what goes wrong in hours of training is worth a traceback
        return run_zoo(*words)
    return 0


def _mendable_errors() -> tuple[type[Exception], ...]:
    """Errors that tell what was wrong with a command. Without gymnasium there are none of its own."""
    gym = sys.modules.get("gymnasium")
    return ImportError, OSError, ValueError, *([] if gym is None else [gym.error.Error])


class Parser(argparse.ArgumentParser):
    """Says which of its choices may have been meant."""

    def error(self, message: str) -> NoReturn:
        """
        End the program.

        :param message: What was wrong
        """
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        meant = difflib.get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), 1) if wrong else []
        super().error(f"{message}: did you mean {meant[0]!r}?" if meant else message)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    result = Parser(prog="sb3-sparse", description="Static network sparsity for Stable-Baselines3.")
    result.add_argument("--version", action="version", version=f"%(prog)s {version('sb3-sparse')}")
    commands = result.add_subparsers(required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    return result
