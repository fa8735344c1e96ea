"""Reading saved models without running code that is in them."""

import ast
import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch as th

from sb3_sparse.deployment.safe_file import SUFFIX, read_policy_tensors


def policy_tensors(path: Path) -> dict[str, th.Tensor]:
    """
    Read the tensors of a saved model's policy.

    :param path: What ``model.save`` or ``export --format safetensors`` wrote
    """
    if path.suffix == SUFFIX:
        return read_policy_tensors(path)[1]
    with ZipFile(path) as archive:
        return th.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)


def policy_arguments(path: Path) -> dict[str, Any]:
    """
    Read the keyword arguments of a saved model's policy; of a zip, those that are numbers, strings, or containers of these.

    :param path: What ``model.save`` or ``export --format safetensors`` wrote
    """
    if path.suffix == SUFFIX:
        return read_policy_tensors(path)[0]
    with ZipFile(path) as archive:
        kwargs = json.loads(archive.read("data")).get("policy_kwargs", {})
    # Beside what it has pickled, SB3 writes entries as JSON or, where that cannot be, as text.
    return {key: _value(value) for key, value in kwargs.items() if not key.startswith(":")}


def _value(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
