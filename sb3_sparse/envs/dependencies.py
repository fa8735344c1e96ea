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


def import_suite() -> ModuleType:
    """
    Import ``dm_control.suite``, an optional dependency.

    :return: The module
    :raises ImportError: If dm_control or mujoco is missing, or does not fit; the message tells what to install
    """
    try:
        check_mujoco_version(version("mujoco"))
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ImportError(f"The environments dm_control/... need dm_control, run: {_INSTALL}") from error
    return suite
