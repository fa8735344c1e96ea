"""Provenance of a result: software, commit, hardware."""

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_sparse.installation import installed_versions

_PACKAGES = (
    "sb3-sparse",
    "stable-baselines3",
    "sb3-contrib",
    "rl-zoo3",
    "torch",
    "numpy",
    "gymnasium",
    "dm-control",
    "mujoco",
)


def commit() -> str:
    """The checkout's commit, or "release" for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # a project that this package is installed in may be a checkout too
        return "release"
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "release"


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of what results depend on, as far as it is installed."""
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}


def hardware(device: th.device | str) -> str:
    """
    :param device: What is trained on; "auto" as SB3 takes it
    :return: Name of the processor, and of the GPU if that is used
    """
    used = get_device(device)
    return f"{th.cuda.get_device_name(used)}, {processor()}" if used.type == "cuda" else processor()


def provenance(device: th.device | str) -> dict[str, Any]:
    """
    :param device: What is trained on
    :return: Commit, date, hardware, versions
    """
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(device),
        "versions": versions(),
    }
