"""Where a result comes from: software, commit, hardware."""

import platform
import subprocess
from pathlib import Path

from sb3_sparse.common.installed_versions import installed_versions

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
