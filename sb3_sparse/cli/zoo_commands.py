"""The RL Zoo's own commands, with our environments and hyperparameters."""

import argparse
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

# Our commands that are the RL Zoo's own, and the zoo's modules behind them.
ZOO_COMMANDS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record": "rl_zoo3.record_video",
    "push": "rl_zoo3.push_to_hub",
    "pull": "rl_zoo3.load_from_hub",
}
# Functions that run when a command does what it was asked for.
_UNDER_WAY = ("learn", "hyperparameters_optimization", "predict", "step")


def add(commands: argparse._SubParsersAction) -> None:
    """List the zoo's commands in the help; the zoo parses their options."""
    for name, module in ZOO_COMMANDS.items():
        commands.add_parser(name, help=f"the RL Zoo's {module} with our environments and hyperparameters")


def check_options(words: Sequence[str]) -> None:
    """
    Register our environments, algorithms and hyperparameters with the zoo. Say what an Atari game needs where it is missing;
    the zoo would say that there is no such game. Say that there is no such device; the zoo would fail, or use the CPU.

    :param words: Command line of one of the zoo's commands
    :raises ImportError: if a game is named, and the emulator or OpenCV is missing; the message tells what to install.
    :raises ValueError: if there is no such device.
    """
    from sb3_sparse.buffers.present_device import check_device
    from sb3_sparse.installation import import_extra
    from sb3_sparse.zoo.registration import register

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default="auto")
    check_device(parser.parse_known_args(words)[0].device)
    if any(word.startswith("ALE/") for word in words):
        for module in ("ale_py", "cv2"):
            import_extra(module, "atari")
    register()


def run_zoo(command: str, *options: str) -> int:
    """
    Run one of the zoo's commands.

    :param command: Its name here
    :param options: Its command line
    :return: Exit status
    """
    given = sys.argv
    try:
        surroundings, words = _prepare(command, *options)
        sys.argv = [f"sb3-sparse {command}", *words]
        with surroundings:
            runpy.run_module(ZOO_COMMANDS[command], run_name="__main__")
    except BrokenPipeError:
        raise
    except Exception as error:
        if not is_of_the_user(error):
            raise
        print(f"sb3-sparse: {error}", file=sys.stderr)
        return 1
    finally:
        sys.argv = given
    return 0


def is_of_the_user(error: Exception) -> bool:
    """
    Tell whether an error is about what was asked for, so that its message is enough: those that we raise so, and those of the
    zoo and SB3 before anything is trained or shown. What goes wrong in hours of training is worth a traceback.

    :param error: What a command ended with
    """
    import gymnasium as gym

    from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
    from sb3_sparse.zoo.resuming import OptionError
    from sb3_sparse.zoo.sharing import SharingError

    if isinstance(error, CheckpointError | OptionError | SharingError):
        return True
    if any(frame.f_code.co_name in _UNDER_WAY for frame, _ in traceback.walk_tb(error.__traceback__)):
        return False
    is_name = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
    mendable = isinstance(error, AssertionError | ImportError | OSError | ValueError | gym.error.Error)
    return is_name or (mendable and str(error) != "")


def _prepare(command: str, *options: str) -> tuple[AbstractContextManager, list[str]]:
    """In what a command runs, and the options that are left for the zoo."""
    from sb3_sparse.zoo.resuming import checkpointing, parse_options
    from sb3_sparse.zoo.sharing import finding_model, pulling, pushing

    if command != "train":
        surroundings = {"push": pushing, "pull": pulling, "enjoy": finding_model, "record": finding_model}
        return surroundings.get(command, nullcontext)(), list(options)
    asked, words = parse_options(options)
    return checkpointing(asked), words
