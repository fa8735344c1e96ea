"""Whether an exported file does, on the machine where it will run, what the model did where it was exported."""

import importlib
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

# Format -> module that checks it, and its function. Active weights need NumPy only, so nothing else is imported for them.
_CHECKS = {
    "sparse": ("runtime", "check"),
    "onnx": ("onnx_file", "check_onnx"),
    "torchscript": ("torchscript_file", "check_torchscript"),
    "c": ("c_program", "check_c"),
    "safetensors": ("safe_file", "check_model"),
}


def check(path: str | Path) -> float:
    """
    Have an exported file act on the observations that it carries, and compare with the actions that it carries. A file of C is
    compiled and run, and one of TorchScript is run, so check only those that you trust.

    :param path: File that :func:`export` wrote
    :return: Largest deviation, as a fraction of half the range of an action; 0 of discrete ones
    :raises ValueError: if it is no such file, it is damaged or edited, or actions differ by more than 1e-5.
    :raises ImportError: if what it takes to run it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    format = format_of(path)
    module, name = _CHECKS[format]
    function = getattr(importlib.import_module(f"sb3_sparse.deployment.{module}"), name)
    if format == "sparse":  # which says itself what it was given
        return function(path)  # type: ignore[no-any-return]
    try:
        return function(path)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ValueError(f"{path} fails, as a file of the format {format!r}: {error}") from error


def format_of(path: Path) -> str:
    """
    Tell a format by what a file begins with.

    :param path: The file
    :raises ValueError: if it is a model that was saved, not exported, or nothing known.
    """
    with path.open("rb") as file:
        first = file.read(64)
    if first.startswith(b"PK"):
        return _format_of_zip(path)
    if first.startswith(b"/* sb3-sparse policy"):
        return "c"
    if path.suffix == ".safetensors":
        return "safetensors"
    # The field of an ONNX file that comes first is the version of its format.
    if first.startswith(b"\x08"):
        return "onnx"
    raise ValueError(f"{path} is no file that was exported: it begins neither as NumPy arrays, ONNX, TorchScript nor C.")


def _format_of_zip(path: Path) -> str:
    try:
        with ZipFile(path) as file:
            names, damaged = file.namelist(), file.testzip()
    except (BadZipFile, EOFError, RuntimeError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} in it has another checksum than it had.")
    if "header.npy" in names:
        return "sparse"
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if "data" in names and "policy.pth" in names:
        raise ValueError(f"{path} is a model that was saved: export it first.")
    raise ValueError(f"{path} is no file that was exported.")
