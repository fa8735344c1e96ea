"""Registering the DeepMind Control Suite with gymnasium."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import gymnasium as gym

from sb3_sparse.envs.suite_tasks import SUITE_TASKS

_ENTRY_POINT = "sb3_sparse.envs.dm_control_env:DMControlEnv"
_PIXEL_ENTRY_POINT = "sb3_sparse.envs.dm_control_pixel_env:DMControlPixelEnv"


def env_id(domain: str, task: str, pixels: bool = False) -> str:
    """
    Gymnasium id of a DeepMind Control Suite task: Shimmy's, with ``-pixels`` where images are observed.

    :param domain: Name of the domain, e.g. ``"humanoid"``
    :param task: Name of the task, e.g. ``"run"``
    :param pixels: Whether images are observed
    :return: The id, e.g. ``"dm_control/humanoid-run-v0"`` or ``"dm_control/humanoid-run-pixels-v0"``
    """
    return f"dm_control/{domain}-{task}{'-pixels' if pixels else ''}-v0"


def register_dm_control() -> None:
    """
    Register every task of the DeepMind Control Suite with gymnasium, with states and with images as observations. Does not
    need dm_control, which is imported when an environment is made.

    Shimmy registers the same ids when it is imported. Those registered here win, whichever of the two is imported first.
    """
    for domain, tasks in SUITE_TASKS.items():
        for task in tasks:
            # Without the removal, gymnasium warns that an environment is overridden.
            gym.registry.pop(env_id(domain, task), None)
            kwargs = {"domain": domain, "task": task}
            gym.register(env_id(domain, task), entry_point=_ENTRY_POINT, kwargs=kwargs)
            if env_id(domain, task, pixels=True) not in gym.registry:  # nobody else's
                gym.register(env_id(domain, task, pixels=True), entry_point=_PIXEL_ENTRY_POINT, kwargs=kwargs)
    if not any(isinstance(finder, _ShimmyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ShimmyFinder())


@contextmanager
def _set_aside() -> Iterator[None]:
    ids = [env_id(domain, task) for domain, tasks in SUITE_TASKS.items() for task in tasks]
    specs = {id_: gym.registry.pop(id_) for id_ in ids if id_ in gym.registry}
    try:
        yield
    finally:
        gym.registry.update(specs)


class _ShimmyFinder(MetaPathFinder):
    """Has Shimmy's import, which registers environments, run while the specs registered here are set aside."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "shimmy":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ShimmyLoader(spec.loader)
        return spec


class _ShimmyLoader(Loader):
    """Steps back in favour of the loader it wraps as soon as the module is executed, as ``importlib.util.LazyLoader`` does."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        with _set_aside():
            self.loader.exec_module(module)
