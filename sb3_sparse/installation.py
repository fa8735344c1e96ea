"""What is installed, and how to install what is not. Every floor may import it; it needs nothing of the package."""

import importlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "sb3-sparse"


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
        raise ImportError(f"{module} is missing, run: {install_command(extra)}") from error


def install_command(extras: str, is_for_others: bool = False) -> str:
    """
    The command that adds extras to this package, from where it was installed: a checkout, a wheel, a repository, an index.

    :param extras: Extras, separated by commas
    :param is_for_others: Whether people on other machines read it, who do not have the files of this one
    """
    installed = distribution(_NAME)
    pip = "uv pip" if (installed.read_text("INSTALLER") or "").strip() == "uv" and not is_for_others else "pip"
    # Installers leave this file (PEP 610) unless the package came from an index.
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return f"{pip} install {_requirement(origin, extras, is_for_others)}"


def _requirement(origin: dict[str, Any], extras: str, is_for_others: bool) -> str:
    url = origin.get("url", "")
    is_file = url.startswith("file:")
    if not url or (is_file and is_for_others):
        return f'"{_NAME}[{extras}]"'
    if is_file and not (path := Path(url2pathname(urlsplit(url).path))).exists():
        return f'"{_NAME}[{extras}] @ URL", with the new place of {path}, which it was installed from'
    if is_file:
        place = "." if path == Path.cwd() else str(path)
        return f'{"-e " if origin.get("dir_info", {}).get("editable") else ""}"{place}[{extras}]"'
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return f'"{_NAME}[{extras}] @ {url}"'


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """
    :param packages: Names of distributions
    :return: Name -> version of those that are installed
    """
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
