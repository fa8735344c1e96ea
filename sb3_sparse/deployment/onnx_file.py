"""Policies as ONNX: a dense graph for onnxruntime and all else that reads it."""

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch as th
from torch import nn

from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy
from sb3_sparse.deployment.recording import Policy, Recording
from sb3_sparse.installation import import_extra

# What torch's exporter writes, and the versions of the operators that a graph can be brought back to.
DEFAULT_OPSET = 18
OLDEST_OPSET = 13
# The first with an operator for it.
_LAYER_NORMALIZATION = 17
_OUTPUT = "action"
_METADATA, _RECORDING, _CHECKSUM = "sb3_sparse", "sb3_sparse.recording", "sb3_sparse.sha256"


def write_onnx(
    policy: DeterministicPolicy, path: Path, recording: Recording, metadata: Mapping[str, Any], opset: int | None
) -> Policy:
    """
    Write a graph, with metadata.

    :param policy: The policy
    :param path: The file
    :param recording: Observations and actions that the file carries
    :param metadata: What it tells of the policy
    :param opset: Version of the operators, 13 to 18; 18 if None
    :return: The policy as read from the file
    :raises ValueError: for another version, and a graph that it cannot express.
    """
    import_extra("onnxscript", "export")
    import_extra("onnxruntime", "export")
    onnx = import_extra("onnx", "export")
    opset = check_opset(opset)
    batch = th.export.Dim("batch")
    names = list(recording.inputs)
    if _OUTPUT in names:
        raise ValueError(f"An entry of the observations is called {_OUTPUT!r}, as the output of the graph is: rename it.")
    module = policy if opset >= _LAYER_NORMALIZATION else _without_layer_norm(policy)
    with _quiet():
        th.onnx.export(
            module.eval(),
            tuple(th.from_numpy(array[:2].copy()) for array in recording.inputs.values()),
            path,
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_shapes={"inputs": tuple({0: batch} for _ in names)},
            dynamo=True,  # the default since torch 2.9
            opset_version=DEFAULT_OPSET,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    _forget_weight_shapes(model)
    _bring_back(model, opset)
    carried = {_METADATA: json.dumps(metadata), _RECORDING: recording.to_json(), _CHECKSUM: _checksum_of_weights(model)}
    onnx.helper.set_model_props(model, carried)
    onnx.save(model, path)
    return load_onnx(path)


def check_opset(opset: int | None) -> int:
    """
    :param opset: Version of the operators, or None
    :return: The version
    :raises ValueError: if there is no such version for exports.
    """
    if opset is None:
        return DEFAULT_OPSET
    if not OLDEST_OPSET <= opset <= DEFAULT_OPSET:
        raise ValueError(f"opset must lie between {OLDEST_OPSET} and {DEFAULT_OPSET}, got {opset}.")
    return opset


def check_onnx(path: Path) -> float:
    """
    See that a graph does on this machine what the model did.

    :param path: The file
    :return: Largest deviation from the recorded actions
    :raises ValueError: if it is no graph that was exported, it is damaged, or actions differ.
    """
    onnx, runtime = import_extra("onnx", "export"), import_extra("onnxruntime", "export")
    errors, protobuf = runtime.capi.onnxruntime_pybind11_state, import_extra("google.protobuf.message", "export")
    try:
        model = onnx.load(path)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        if _RECORDING not in properties:
            raise ValueError("it carries no recorded observations")
        if properties.get(_CHECKSUM) != _checksum_of_weights(model):
            raise ValueError("its weights are not those that were exported")
        return Recording.from_json(properties[_RECORDING]).check(load_onnx(path))
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.InvalidArgument, errors.NotImplemented) as error:
        raise ValueError(str(error)) from error
    except (LookupError, TypeError, protobuf.DecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _checksum_of_weights(model: Any) -> str:
    """How the file is written may differ from one version of protobuf to another; numbers may not."""
    onnx, digest = import_extra("onnx", "export"), hashlib.sha256()
    for weight in sorted(model.graph.initializer, key=lambda weight: weight.name):
        array = onnx.numpy_helper.to_array(weight)
        digest.update(f"{weight.name} {array.dtype} {list(array.shape)}".encode() + array.tobytes())
    return digest.hexdigest()


def load_onnx(path: Path) -> Policy:
    """
    :param path: File of :func:`write_onnx`
    :return: The policy, by onnxruntime on one thread of the CPU
    """
    runtime = import_extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([_OUTPUT], inputs)[0]


def _forget_weight_shapes(model: Any) -> None:
    """A weight has its shape; where it is written a second time, tools that transpose the weight leave it as it was."""
    weights = {weight.name for weight in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


class _PlainLayerNorm(nn.Module):
    def __init__(self, layer: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.axes = tuple(range(-len(layer.normalized_shape), 0))

    def forward(self, x: th.Tensor) -> th.Tensor:
        centered = x - x.mean(self.axes, keepdim=True)
        normalized = centered / th.sqrt((centered * centered).mean(self.axes, keepdim=True) + self.eps)
        scaled = normalized if self.weight is None else normalized * self.weight
        return scaled if self.bias is None else scaled + self.bias


def _without_layer_norm(policy: DeterministicPolicy) -> nn.Module:
    """A copy whose layer normalisations are arithmetic."""
    copied = copy.deepcopy(policy, {id(policy.observations): policy.observations})  # an environment cannot be copied
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.LayerNorm:
                setattr(parent, name, _PlainLayerNorm(child))
    return copied


# Operator -> version that takes as inputs what were attributes before, and these, with the input's place.
_ATTRIBUTES = {name: (18, "axes") for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd")}
# Attributes that say what used to be so without them, in graphs of policies: operator, name -> version. Of shapes, that zeros
# are zeros: only a batch can be empty, and a zero in its place means the same.
_NEW_ATTRIBUTES = {("Reshape", "allowzero"): 14, ("Shape", "start"): 15, ("Split", "num_outputs"): 18}


def _bring_back(model: Any, opset: int) -> None:
    """
    Express a graph in older operators. Those that policies are made of differ but in what is an attribute and what an input;
    onnx's own converter stops at axes that are constants of the graph. Its checker refuses what does not exist there.
    """
    if opset == DEFAULT_OPSET:
        return
    onnx = import_extra("onnx", "export")
    constants = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    for node in model.graph.node:
        version, name = _ATTRIBUTES.get(node.op_type, (0, ""))
        if opset < version and len(node.input) > 1:
            axes = constants[node.input[1]].tolist()
            del node.input[1:]
            node.attribute.extend([onnx.helper.make_attribute(name, axes)])
            noop = [a for a in node.attribute if a.name == "noop_with_empty_axes"]
            for attribute in noop:
                node.attribute.remove(attribute)
        for attribute in list(node.attribute):
            if opset < _NEW_ATTRIBUTES.get((node.op_type, attribute.name), 0):
                node.attribute.remove(attribute)
    del model.opset_import[:]
    model.opset_import.extend([onnx.helper.make_opsetid("", opset)])
    model.ir_version = min(model.ir_version, 8)  # what readers of that time know
    used = {name for node in model.graph.node for name in node.input}
    kept = [weight for weight in model.graph.initializer if weight.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"The policy cannot be expressed in opset {opset}; leave the option out: {error}") from error


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
