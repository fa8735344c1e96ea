"""Writing a trained policy for other programs, and checking that the file does what the model does."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.installation import import_extra
from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy, shapes_of
from sb3_sparse.deployment.environment_observations import EnvironmentObservations, Statistics, environment_observations
from sb3_sparse.deployment.safe_file import SUFFIX, read_model, write_model
from sb3_sparse.deployment.sparse_policy import SparsePolicy, load_policy
from sb3_sparse.deployment.step_list import step_list

# Largest deviation from the model's own actions, as a fraction of half the range of an action.
TOLERANCE = 1e-5
CHECKED_OBSERVATIONS = 64
# The one that holds more than a policy.
SAFE_FORMAT = "safetensors"

# Flat observations (batch, *shape) -> actions (batch, *action shape).
Policy = Callable[[np.ndarray], np.ndarray]


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
) -> Export:
    """
    Write the deterministic policy of a model: observation as the environment returns it in, action as ``predict`` returns it
    out, normalisation and scaling included. The file is checked against the model before it appears under its name.

    :param model: Model of an algorithm of this package, or of SB3 or sb3-contrib but for those with memory or masked actions
    :param path: File to write
    :param format: "onnx", a dense graph with zeros for what was pruned, input "observation" (one vector for a Dict, in the
        order of ``gymnasium.spaces.flatten``), output "action", any batch size; or "sparse", the active weights, for
        :func:`load_policy`; or "safetensors", the whole model with what it needs to go on training, for :func:`read_model`,
        for any model
    :param vec_normalize: What normalised the observations that the model was trained on; the ``VecNormalize`` that its
        environment has, if any, for None; False if nothing did
    :param channels_last: Whether the environment's images have their channels last; None asks the model's environment, or
        what the model's file says of it
    :return: What was written
    :raises ValueError: for an unknown format, and whatever cannot be exported.
    :raises RuntimeError: if the file acts otherwise than the model.
    """
    if format not in (*FORMATS, SAFE_FORMAT):
        raise ValueError(f"Unknown format {format!r}: choose one of {', '.join(map(repr, (*FORMATS, SAFE_FORMAT)))}.")
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {path}: there is no folder {path.parent}.")
    if format == SAFE_FORMAT:
        return _export_model(model, path, vec_normalize)
    policy = DeterministicPolicy(model, environment_observations(model, vec_normalize, channels_last))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written = FORMATS[format](policy, unfinished)
        error = _largest_error(written, model, policy.observations)
        if not error <= TOLERANCE:
            raise RuntimeError(f"The exported policy deviates from the model by {error:.1e}, more than {TOLERANCE:g}.")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Export(path, path.stat().st_size, error)


def _export_model(model: BaseAlgorithm, path: Path, given: Statistics) -> Export:
    if path.suffix != SUFFIX:
        raise ValueError(f"Files of this format are told by their ending {SUFFIX}, got {path}.")
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    # Of rewards as well: training goes on with them. Without statistics, the file tells that there were some.
    vec_normalize = (model.get_vec_normalize_env() if given is None else given) or None
    try:
        write_model(model, unfinished, vec_normalize)
        _check_same(model, read_model(unfinished, device=model.device, has_buffer=False))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Export(path, path.stat().st_size, 0.0)


def _check_same(model: BaseAlgorithm, read: BaseAlgorithm) -> None:
    for name, state in model.policy.state_dict().items():
        if not th.equal(state, read.policy.state_dict()[name]):
            raise RuntimeError(f"The exported model differs from the model in {name}.")


def _write_onnx(policy: DeterministicPolicy, path: Path) -> Policy:
    import_extra("onnxscript", "export")
    runtime = import_extra("onnxruntime", "export")
    example = th.from_numpy(example_observations(policy.observations.space, 2))
    batch = th.export.Dim("batch")
    with _quiet():
        th.onnx.export(
            policy.eval(),
            (example,),
            path,
            input_names=["observation"],
            output_names=["action"],
            dynamic_shapes=({0: batch},),
            dynamo=True,  # the default since torch 2.9
            external_data=False,
            verbose=False,
        )
    _forget_weight_shapes(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda observations: session.run(["action"], {"observation": observations})[0]


def _forget_weight_shapes(path: Path) -> None:
    """A weight has its shape; where it is written a second time, tools that transpose the weight leave it as it was."""
    onnx = import_extra("onnx", "export")
    model = onnx.load(path)
    weights = {weight.name for weight in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter says about its own internals, and that torchvision is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_sparse(policy: DeterministicPolicy, path: Path) -> Policy:
    space = policy.observations.space
    SparsePolicy(shapes_of(space), tuple(policy.action_space.shape or ()), step_list(policy)).save(path)
    loaded = load_policy(path)
    return lambda observations: loaded(_entries(observations, space))


# Format -> what writes it and returns the policy as read from the file.
FORMATS: dict[str, Callable[[DeterministicPolicy, Path], Policy]] = {
    "onnx": _write_onnx,
    "sparse": _write_sparse,
}


def example_observations(space: spaces.Space, number: int) -> np.ndarray:
    """
    Draw observations from a standard normal distribution, within the bounds of the space.

    :param space: Observation space: a Box or a Dict of Boxes
    :param number: How many
    :return: (number, *shape) float32, uint8 of an image, (number, dim) of a Dict
    """
    rng, parts = np.random.default_rng(0), []
    for key, part in (space.spaces if isinstance(space, spaces.Dict) else {"": space}).items():
        assert isinstance(part, spaces.Box)
        if part.dtype == np.uint8:
            drawn = rng.integers(0, 256, (number, *part.shape)).astype(np.uint8)
        else:
            drawn = rng.standard_normal((number, *part.shape)).clip(part.low, part.high).astype(np.float32)
        parts.append(drawn.reshape(number, -1) if key else drawn)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _largest_error(policy: Policy, model: BaseAlgorithm, source: EnvironmentObservations) -> float:
    """Compare with what the model's own ``predict`` returns, at several batch sizes."""
    observations = example_observations(source.space, CHECKED_OBSERVATIONS)
    inputs = source.as_model_gets_them(_entries(observations, source.space))
    expected = model.predict(inputs, deterministic=True)[0]  # type: ignore[arg-type]
    actual = np.concatenate([policy(observations[:1]), policy(observations[1:3]), policy(observations[3:])])
    return _deviation(actual, expected, model.action_space)


def _deviation(actual: np.ndarray, expected: np.ndarray, space: spaces.Space) -> float:
    if not isinstance(space, spaces.Box):
        return float((actual != expected).any())
    half_range = 0.5 * (space.high - space.low)
    return float(np.abs((actual - expected) / np.where(half_range > 0.0, half_range, 1.0)).max())


def _entries(observations: np.ndarray, space: spaces.Space) -> np.ndarray | dict[str, np.ndarray]:
    """A batch of flat observations as the environment would return it."""
    if not isinstance(space, spaces.Dict):
        return observations
    shapes = shapes_of(space)
    parts = np.split(observations, np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1], axis=1)
    return {key: part.reshape(-1, *shapes[key]) for key, part in zip(shapes, parts, strict=True)}
