"""Policies as TorchScript: the dense network, traced, for programs that have libtorch and no Python."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th

from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy
from sb3_sparse.deployment.recording import Policy, Recording

_METADATA, _RECORDING = "sb3_sparse.json", "recording.json"


@th.no_grad()
def write_torchscript(policy: DeterministicPolicy, path: Path, recording: Recording, metadata: Mapping[str, Any]) -> Policy:
    """
    Trace a policy, and write what was traced.

    :param policy: The policy
    :param path: The file
    :param recording: Observations and actions that the file carries
    :param metadata: What it tells of the policy
    :return: The policy as read from the file
    """
    example = tuple(th.from_numpy(array[:2].copy()) for array in recording.inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against TorchScript, which is what was asked for
        traced = th.jit.freeze(th.jit.trace(policy.eval(), example, check_trace=False))
        files = {_METADATA: json.dumps(metadata), _RECORDING: recording.to_json()}
        th.jit.save(traced, path, _extra_files=files)
    return load_torchscript(path)


def check_torchscript(path: Path) -> float:
    """
    See that a traced policy does on this machine what the model did.

    :param path: The file
    :return: Largest deviation from the recorded actions
    :raises ValueError: if it was not exported, is damaged, or actions differ.
    """
    try:
        policy, recording = _load(path)
        return Recording.from_json(recording).check(policy)
    except (RuntimeError, LookupError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def load_torchscript(path: Path) -> Policy:
    """
    :param path: File of :func:`write_torchscript`
    :return: The policy, by torch on the CPU
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[Policy, str]:
    files = {_RECORDING: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = th.jit.load(path, map_location="cpu", _extra_files=files)

    @th.no_grad()
    def act(inputs: dict[str, Any]) -> Any:
        return module(*(th.from_numpy(array.copy()) for array in inputs.values())).numpy()

    return act, files[_RECORDING]
