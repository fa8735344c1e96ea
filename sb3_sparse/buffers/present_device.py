"""Devices that are named, and whether they are here."""

import torch as th


def present_device(device: th.device) -> th.device:
    """
    :param device: A device, perhaps of the machine that a file was written on
    :return: The same, or the CPU where this machine has no such device
    """
    is_there = device.type != "cuda" or (device.index or 0) < th.cuda.device_count()
    return device if is_there else th.device("cpu")


def check_device(name: str, is_here: bool = True) -> None:
    """
    Refuse a device that SB3 would fail on, or silently train on the CPU instead of.

    :param name: What a user gave
    :param is_here: Whether it has to be a device of this machine
    :raises ValueError: if there is no such device.
    """
    if name == "auto":
        return
    try:
        device = th.device(name)
    except RuntimeError as error:
        raise ValueError(f"There is no device {name!r}: give cpu, cuda, cuda:1 and so on, or auto.") from error
    if is_here and (th.accelerator.device_count() if device.type == _accelerator() else device.type == "cpu") <= (
        device.index or 0
    ):
        raise ValueError(f"This machine has no device {name!r} that torch {th.__version__} can use: give cpu, or auto.")


def _accelerator() -> str | None:
    found = th.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type
