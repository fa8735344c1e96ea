"""Settings of torch that hold while a model is updated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th

MATMUL_PRECISIONS = ("highest", "high", "medium")


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """
    Multiply matrices with this precision while it is open.

    :param precision: One of ``MATMUL_PRECISIONS``, see ``torch.set_float32_matmul_precision``; None leaves torch's setting
    """
    if precision is None:  # torch has two interfaces to this, and refuses to read one after the other was written
        yield
        return
    before = th.get_float32_matmul_precision()
    th.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        th.set_float32_matmul_precision(before)


@contextmanager
def without_validation() -> Iterator[None]:
    """torch checks the arguments of distributions on the host, for which it would have to wait for the GPU."""
    before = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(before)
