"""Available memory, asked before a lot of it is needed."""

from pathlib import Path

import torch as th

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """
    Bytes of main memory that can still be used without swapping, within the limit of a container.

    :return: Bytes, or None where neither the system nor the package ``psutil`` tells
    """
    known = [amount for amount in (_of_system(), _of_container(_CONTROL_GROUP)) if amount is not None]
    return min(known, default=None)


def check_memory(needed: int, device: th.device, what: str, remedy: str) -> None:
    """
    Refuse to fill more of the main memory than there is. A GPU refuses by itself, when memory is allocated on it.

    :param needed: Bytes
    :param device: Where they are needed
    :param what: What needs them, begins the message
    :param remedy: What to do, ends it
    :raises MemoryError: if fewer bytes are available.
    """
    available = available_memory() if device.type == "cpu" else None
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs {needed:,} bytes ({needed / 2**30:.1f} GiB), of which {available:,} ({available / 2**30:.1f} GiB) "
            f"are available: {remedy}"
        )


def _of_system() -> int | None:
    try:
        import psutil  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return _of_linux(Path("/proc/meminfo"))
    return int(psutil.virtual_memory().available)


def _of_linux(file: Path) -> int | None:
    if not file.exists():
        return None
    entries = dict(line.split(":") for line in file.read_text().splitlines())
    return 1024 * int(entries["MemAvailable"].split()[0])


def _of_container(folder: Path) -> int | None:
    """What is left of the limit that Linux sets to a container (control groups, version 2)."""
    limit, used, parts = (folder / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not limit.exists() or limit.read_text().strip() == "max":
        return None
    # Cached files are given up when a program needs their place.
    cached = dict(line.split() for line in parts.read_text().splitlines()).get("inactive_file", 0)
    return int(limit.read_text()) - int(used.read_text()) + int(cached)
