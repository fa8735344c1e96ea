"""Dependencies of the DeepMind Control Suite: dm_control, a MuJoCo that fits, a renderer."""

import ctypes
import importlib
import logging
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from types import ModuleType

import gymnasium as gym

from sb3_sparse.installation import install_command


def check_mujoco_version(mujoco_version: str) -> None:
    """
    Refuse the MuJoCo versions on which dm_control cannot load a single task: dm_control 1.0.50 declares no upper bound, and
    on MuJoCo 4 it fails with an ``AttributeError`` about ``flex_vertedge``.

    :param mujoco_version: Installed version of the package ``mujoco``, e.g. ``"3.17.0"``
    :raises ImportError: If it is 4 or newer
    """
    if int(mujoco_version.split(".")[0]) >= 4:
        raise ImportError(f'dm_control does not work with mujoco {mujoco_version}, run: pip install "mujoco>=3.17,<4"')


def import_suite() -> ModuleType:
    """
    Import ``dm_control.suite``, an optional dependency. Without a display, and unless the environment variable ``MUJOCO_GL``
    is set already, it is set to the first of EGL and OSMesa that works, and else to ``disabled``: dm_control would choose
    GLFW, which cannot draw there.

    :return: The module
    :raises ImportError: If dm_control or mujoco is missing, or does not fit; the message tells what to install
    :raises NoRendererError: If ``MUJOCO_GL`` names a renderer whose library is missing
    """
    _import_triton()
    try:
        check_mujoco_version(version("mujoco"))
        if "MUJOCO_GL" not in os.environ and "dm_control._render" not in sys.modules and not has_display():
            suite = _import_headless()
        else:
            suite = _import_with_renderer()
    except ModuleNotFoundError as error:
        raise ImportError(f"The environments dm_control/... need dm_control, run: {install_command('dmc')}") from error
    logging.getLogger("absl").addFilter(_concerns_users)
    return suite


def _concerns_users(record: logging.LogRecord) -> bool:
    # The models of the suite use attributes that MuJoCo calls deprecated: a line for each cheetah that is made.
    return not record.getMessage().startswith("compiler attribute")


class NoRendererError(gym.error.DependencyNotInstalled, RuntimeError):
    """Images cannot be drawn on this machine as it is."""


def check_renderer() -> None:
    """
    Refuse to draw where dm_control cannot.

    :raises NoRendererError: If there is no display and no renderer that works without one; the message names the remedy
    """
    from dm_control import _render

    if _render.BACKEND in (None, *_render.constants.NO_RENDERER) or (_render.BACKEND == "glfw" and not has_display()):
        raise _no_renderer(f"without a display it needs EGL or OSMesa, and it has {_render.BACKEND!r}")


def has_display() -> bool:
    """Tell whether a window could be opened."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _no_renderer(reason: str) -> NoRendererError:
    return NoRendererError(
        f"dm_control cannot draw images: {reason}. Install libegl1 and libgl1-mesa-dri, or libosmesa6 (Debian's names), set "
        "the environment variable MUJOCO_GL=egl (or osmesa), and start anew. Without images, MUJOCO_GL=disabled will do."
    )


def _import_triton() -> None:
    # torch's builds for CUDA import triton with the first optimizer. EGL without a GPU (Mesa) loads its own LLVM for all to
    # see, and after it triton 3.9 crashes the process on import; the other way round both work.
    with suppress(ImportError):
        importlib.import_module("triton")


def _import_with_renderer() -> ModuleType:
    try:
        importlib.import_module("dm_control._render")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of any type: PyOpenGL looks up functions without asking whether their library is there
        raise _no_renderer(f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} does not load ({error})") from error
    from dm_control import suite

    return suite


def _import_headless() -> ModuleType:
    for renderer, library in {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}.items():
        if _is_loadable(library):
            os.environ["MUJOCO_GL"] = renderer
            try:
                return _import_with_renderer()
            except NoRendererError:  # the library is there, but nothing that it could draw with
                continue
    os.environ["MUJOCO_GL"] = "disabled"
    return importlib.import_module("dm_control.suite")


def _is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
