"""Optional dependencies, asked for where they are needed."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """
    Import a module of an optional dependency.

    :param module: Name of the module
    :param extra: Extra of this package that installs it
    :return: The module
    :raises ImportError: if it is missing; the message tells what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} is missing, run: pip install "sb3-sparse[{extra}]"') from error
