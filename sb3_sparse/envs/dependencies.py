import os
import sys
import warnings
from importlib.metadata import version
from types import ModuleType

_INSTALL = 'pip install "sb3-sparse[dmc]"'


def check_mujoco_version(mujoco_version: str) -> None:
    """
    Refuse the MuJoCo versions on which dm_control cannot load a single task: dm_control 1.0.50 declares no upper bound, and
    on MuJoCo 4 it fails with an ``AttributeError`` about ``flex_vertedge``.

    :param mujoco_version: Installed version of the package ``mujoco``, e.g. ``"3.17.0"``
    :raises ImportError: If it is 4 or newer
    """
    if int(mujoco_version.split(".")[0]) >= 4:
        raise ImportError(f'dm_control does not work with mujoco {mujoco_version}, run: pip install "mujoco>=3.17,<4"')


def import_suite(rendering: bool = False) -> ModuleType:
    """
    Import ``dm_control.suite``, an optional dependency.

    :param rendering: Whether images will be asked for; without a display, this sets the environment variable ``MUJOCO_GL`` to
        ``egl`` unless it is set already
    :return: The module
    :raises ImportError: If dm_control or mujoco is missing, or does not fit; the message tells what to install
    :raises RuntimeError: If images will be asked for, and dm_control was imported before without a way to make them
    """
    if rendering and not _has_display():
        _choose_headless_renderer()
    try:
        check_mujoco_version(version("mujoco"))
        with warnings.catch_warnings():
            # dm_control tries GLFW first, which complains about a missing display even if nothing is ever drawn.
            warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
            from dm_control import suite
    except ModuleNotFoundError as error:
        raise ImportError(f"The environments dm_control/... need dm_control, run: {_INSTALL}") from error
    return suite


def _has_display() -> bool:
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _choose_headless_renderer() -> None:
    if "MUJOCO_GL" in os.environ:
        return
    if "dm_control" in sys.modules:
        raise RuntimeError(
            "Images cannot be made: there is no display, and dm_control was imported without another renderer. Set the "
            "environment variable MUJOCO_GL=egl (or osmesa), or make the first environment with a render_mode."
        )
    os.environ["MUJOCO_GL"] = "egl"
