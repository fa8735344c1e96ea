"""Modules by the names that they had in earlier versions, which saved models, buffers and checkpoints hold."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PLACES = "sb3_sparse.common.former_places"


class MovedModules(MetaPathFinder, Loader):
    """Asked last, for names of this package that are nowhere: looks whether a module had one of them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        if not name.startswith("sb3_sparse.") or name == _PLACES:
            return None
        importlib.import_module(_PLACES)  # makes former names known
        return ModuleSpec(name, self, loader_state=sys.modules[name].__spec__) if name in sys.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See :class:`importlib.abc.Loader`."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It was executed when it was imported: have it keep its present name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state
