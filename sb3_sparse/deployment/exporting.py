"""Writing a trained policy for other programs, and checking that the file does what the model does."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.deployment.c_program import write_c
from sb3_sparse.deployment.c_source import prefix_of
from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy
from sb3_sparse.deployment.environment_observations import Observations, Statistics, environment_observations
from sb3_sparse.deployment.onnx_file import check_opset, write_onnx
from sb3_sparse.deployment.recording import RECORDED, Policy, Recording, flat, metadata_of, record
from sb3_sparse.deployment.runtime import TOLERANCE, SparsePolicy, load_policy
from sb3_sparse.deployment.safe_file import SUFFIX, read_model, write_model
from sb3_sparse.deployment.step_list import step_list
from sb3_sparse.deployment.torchscript_file import write_torchscript

# The one that holds more than a policy.
SAFE_FORMAT = "safetensors"


class _Contents(NamedTuple):
    """
    What a file is to hold.

    :param policy: The policy
    :param recording: Observations and actions that the file carries
    :param metadata: What it tells of the policy
    :param target: The file in the end
    :param opset: Version of ONNX's operators, if any was asked for
    """

    policy: DeterministicPolicy
    recording: Recording
    metadata: Mapping[str, Any]
    target: Path
    opset: int | None


@dataclass(frozen=True)
class Export:
    """
    An exported policy.

    :param path: The file
    :param bytes: Its size
    :param largest_error: Largest deviation from the model's actions, as a fraction of half their range; 0 of discrete ones
    """

    path: Path
    bytes: int
    largest_error: float


def export(
    model: BaseAlgorithm,
    path: str | Path,
    format: str = "onnx",
    vec_normalize: Statistics = None,
    channels_last: bool | None = None,
    opset: int | None = None,
    observations: Observations | None = None,
) -> Export:
    """
    Write the deterministic policy of a model: observation as the environment returns it in, action as ``predict`` returns it
    out, normalisation and scaling included. The file is checked against the model before it appears under its name.

    :param model: Model of an algorithm of this package, or of SB3 or sb3-contrib but for those with memory or masked actions
    :param path: File to write
    :param format: One of:

        - "onnx": a dense graph with zeros for what was pruned, input "observation" (one vector for a Dict of vectors, in the
          order of ``gymnasium.spaces.flatten``; of a Dict with images or discrete entries, every entry is an input), output
          "action", any batch size
        - "torchscript": the same for libtorch
        - "sparse": the active weights, for :func:`~sb3_sparse.deployment.runtime.load_policy`
        - "c": the active weights as one file of C99; it needs a C compiler to be checked
        - "safetensors": the whole model with what it needs to go on training, for :func:`read_model`, for any model
    :param vec_normalize: What normalised the observations that the model was trained on; the ``VecNormalize`` that its
        environment has, if any, for None; False if nothing did
    :param channels_last: Whether the environment's images have their channels last; None asks the model's environment, or
        what the model's file says of it
    :param opset: Version of ONNX's operators, from 13 to 18; 18 if None
    :param observations: A batch of observations as the environment returns them, which the file is checked with, and of which
        it carries the first 16 with their actions; drawn at random for None
    :return: What was written
    :raises ValueError: for an unknown format, and whatever cannot be exported.
    :raises RuntimeError: if the file acts otherwise than the model.
    """
    if format not in (*FORMATS, SAFE_FORMAT):
        raise ValueError(f"Unknown format {format!r}: choose one of {', '.join(map(repr, (*FORMATS, SAFE_FORMAT)))}.")
    if opset is not None and format != "onnx":
        raise ValueError(f'opset belongs to the format "onnx", got {format!r}.')
    check_opset(opset)
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {path}: there is no folder {path.parent}.")
    if format == SAFE_FORMAT:
        return _export_model(model, path, vec_normalize, observations)
    policy = DeterministicPolicy(model, environment_observations(model, vec_normalize, channels_last))
    recording = record(model, policy, observations)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        contents = _Contents(policy, recording.first(RECORDED), metadata_of(model, policy), path, opset)
        error = recording.deviation(FORMATS[format](contents, unfinished))
        if not error <= TOLERANCE:
            raise RuntimeError(f"The exported policy deviates from the model by {error:.1e}, more than {TOLERANCE:g}.")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Export(path, path.stat().st_size, error)


def _export_model(model: BaseAlgorithm, path: Path, given: Statistics, observations: Observations | None) -> Export:
    if path.suffix != SUFFIX:
        raise ValueError(f"Files of this format are told by their ending {SUFFIX}, got {path}.")
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    # Of rewards as well: training goes on with them. Without statistics, the file tells that there were some.
    vec_normalize = (model.get_vec_normalize_env() if given is None else given) or None
    try:
        if observations is not None and vec_normalize is not None and vec_normalize.norm_obs:
            observations = vec_normalize.normalize_obs(observations)
        write_model(model, unfinished, vec_normalize, observations)
        _check_same(model, read_model(unfinished, device=model.device, has_buffer=False))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Export(path, path.stat().st_size, 0.0)


def _check_same(model: BaseAlgorithm, read: BaseAlgorithm) -> None:
    for name, state in model.policy.state_dict().items():
        if not th.equal(state, read.policy.state_dict()[name]):
            raise RuntimeError(f"The exported model differs from the model in {name}.")


def _write_sparse(contents: _Contents, path: Path) -> Policy:
    policy, recording = contents.policy, contents.recording
    shapes = {key: tuple(space.shape or ()) for key, space in policy.entries.items()}
    recorded = recording.flat(), recording.actions
    action, steps = tuple(policy.action_space.shape or ()), step_list(policy)
    SparsePolicy(shapes, action, steps, False, recording.half_range, recorded, contents.metadata).save(path)
    loaded = load_policy(path)
    return lambda inputs: loaded.act_on_vectors(flat(inputs))


# Format -> what writes it and returns the policy as read from the file.
FORMATS: dict[str, Callable[[_Contents, Path], Policy]] = {
    "onnx": lambda c, path: write_onnx(c.policy, path, c.recording, c.metadata, c.opset),
    "torchscript": lambda c, path: write_torchscript(c.policy, path, c.recording, c.metadata),
    "sparse": _write_sparse,
    "c": lambda c, path: write_c(c.policy, path, c.recording, c.metadata, prefix_of(c.target)),
}
