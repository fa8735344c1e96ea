"""The steps that a compiled pass through a network is made of."""

from typing import NamedTuple

import numpy as np

# Step -> the arrays it takes, in order: float32, but for the columns (uint16), row starts, sizes and atoms (int32).
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "standardize": ("mean", "scale"),
    "clip": ("low", "high"),
    "affine": ("scale", "offset"),
    "one_hot": ("sizes",),  # of every entry: the number of its values, 0 for one that stays as it is
    "layer_norm": ("weight", "bias", "eps"),
    "sparse": ("values", "columns", "starts", "bias"),
    "dense": ("weight", "bias"),
    "relu": (),
    "tanh": (),
    "sigmoid": (),
    "silu": (),
    "gelu": (),
    "gelu_tanh": (),
    "elu": ("alpha",),
    "leaky_relu": ("slope",),
    "hardtanh": ("min", "max"),
    "save": (),  # keep the vector, until
    "add": (),  # it is added
    "dueling": ("atoms",),  # advantages of every action, then a value, with this many atoms each
    "expectation": ("support",),  # of the distributions of all actions, whose logits are given
    "argmax": (),  # the number of the largest entry
    "argmax_of_each": ("sizes",),  # of several discrete actions
    "is_positive": (),
}


class Step(NamedTuple):
    """
    One step: what happens to the vector.

    :param name: One of ``ARGUMENTS``
    :param arrays: The arrays it takes
    """

    name: str
    arrays: dict[str, np.ndarray]


def size_after(name: str, arrays: dict[str, np.ndarray], size: int) -> int:
    """
    :param name: Name of a step
    :param arrays: Its arrays
    :param size: Size of the vector before it
    :return: Size of the vector after it
    """
    if name in ("sparse", "dense"):
        return len(arrays["bias"])
    if name == "one_hot":
        return int(np.maximum(arrays["sizes"], 1).sum())
    if name == "dueling":
        return size - int(arrays["atoms"][0])
    if name == "expectation":
        return size // len(arrays["support"])
    if name == "argmax_of_each":
        return len(arrays["sizes"])
    return 1 if name == "argmax" else size
