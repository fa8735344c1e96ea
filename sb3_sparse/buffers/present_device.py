"""Devices named on another machine."""

import torch as th


def present_device(device: th.device) -> th.device:
    """
    :param device: A device, perhaps of the machine that a file was written on
    :return: The same, or the CPU where this machine has no such device
    """
    is_there = device.type != "cuda" or (device.index or 0) < th.cuda.device_count()
    return device if is_there else th.device("cpu")
