"""Multiprocessing's fork server, from which environments and runs with processes of their own are forked."""

import multiprocessing

# What such a process imports before anything else, in seconds. Modules of the tests are not found before Python 3.14.
_IMPORTED = [
    "sb3_contrib",
    "torch._dynamo",
    "sb3_sparse.callbacks",
    "sb3_sparse.checkpoints",
    "sb3_sparse.der",
    "sb3_sparse.drqv2",
    "sb3_sparse.sac",
    "sb3_sparse.stream_ac",
    "sb3_sparse.td3",
]


def preload() -> None:
    """Have the server, unless it has started, import once what all processes need."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
