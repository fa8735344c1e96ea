"""Packages that import their modules when one of their names is first asked for (PEP 562). Every floor may import it."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, places: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    What a package's ``__init__`` defines as ``__getattr__`` and ``__dir__``. For type checkers it imports the same names under
    ``TYPE_CHECKING``.

    :param package: Name of the package
    :param places: Module of the package -> names that the package offers from there; the module itself is offered, too, unless
        one of the names is its own
    :return: The two functions
    """
    modules = {name: module for module, names in places.items() for name in names}

    def resolve(name: str) -> Any:
        if name not in modules and name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules.get(name, name)}")
        found = getattr(module, name) if name in modules else module
        setattr(sys.modules[package], name, found)  # asked for once only
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *places})

    return resolve, names
