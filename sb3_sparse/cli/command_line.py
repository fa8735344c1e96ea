"""The command line: ``sb3-sparse`` and ``python -m sb3_sparse``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

import gymnasium as gym

from sb3_sparse.cli import COMMANDS
from sb3_sparse.cli.zoo_commands import ZOO_COMMANDS, check_extras, run_zoo
from sb3_sparse.zoo.registration import register


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: Command line without the program's name, that of the process if None
    :return: Exit status; 1 after an error that the user can mend, which is printed without a traceback
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_zoo_command = bool(words) and words[0] in ZOO_COMMANDS
    try:
        if is_zoo_command:
            check_extras(words)
            register()
        else:
            options = _parser().parse_args(words)
            options.run(options)
    except (ImportError, OSError, ValueError, gym.error.Error) as error:
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    if is_zoo_command:  # not above, as what goes wrong in hours of training is worth a traceback
        return run_zoo(*words)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-sparse", description="Static network sparsity for Stable-Baselines3.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('sb3-sparse')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    return parser
