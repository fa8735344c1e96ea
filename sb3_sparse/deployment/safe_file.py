"""A model, with what it needs to go on training, in a file that executes nothing when it is read: safetensors and JSON."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sparse.common.observation_preprocessing import ATTRIBUTE as PREPROCESSING
from sb3_sparse.common.observation_preprocessing import ObservationPreprocessing, noted_preprocessing
from sb3_sparse.common.pruned_policy import PrunedPolicy
from sb3_sparse.common.sparsify import SparsifiedPolicy, pruned_policy_class
from sb3_sparse.deployment.environment_observations import EnvironmentObservations, Observations
from sb3_sparse.deployment.known_classes import ALGORITHMS, POLICIES, name_in, named
from sb3_sparse.deployment.model_settings import read_settings, settings_of
from sb3_sparse.deployment.no_buffer import place_holder, remove_place_holder
from sb3_sparse.deployment.plain_data import from_plain, space_from_plain, space_to_plain, to_plain
from sb3_sparse.deployment.recording import RECORDED, Recording, example_observations, half_range
from sb3_sparse.installation import import_extra
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.stream_ac.stream_wrapper import RewardScaling

FORMAT = "sb3-sparse model"
VERSION = 1
SUFFIX = ".safetensors"
_CHECKSUM = "sha256"
_COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "_current_progress_remaining",
    "_total_timesteps",
    "exploration_rate",
    "time_feature",
)
_STATISTICS = ("mean", "var")
# Before the name of a stock policy that sparsify() has pruned.
_SPARSIFIED = "sparsified "


def write_model(
    model: BaseAlgorithm,
    path: str | Path,
    vec_normalize: VecNormalize | None = None,
    observations: Observations | None = None,
) -> None:
    """
    Write networks, masks, optimizers, settings and counters. The replay buffer, random streams and functions (of a learning
    rate that is one, the present value, with a warning; SB3's schedules are written) are not part of it: for these there are
    checkpoints.

    :param model: Model of one of ``ALGORITHMS``, with a policy of this package, or one that its algorithm knows by a name
    :param path: File to write, as a whole or not at all
    :param vec_normalize: What normalised the observations that the model was trained on, if anything did
    :param observations: A batch as the model gets them, which the file carries with their actions, for :func:`check_model`;
        drawn at random for None
    :raises ValueError: if something of it cannot be written without pickling it.
    """
    safetensors = import_extra("safetensors.torch", "export")
    path = Path(path)
    tensors, header = dict(_tensors(model)), _header(model)
    header["recorded"] = _recorded(model, observations).to_json()
    if vec_normalize is not None:
        header["vec_normalize"], statistics = _statistics(vec_normalize)
        tensors.update(statistics)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Tensors may share memory, which the format refuses.
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        text = json.dumps(header)
        safetensors.save_file(copies, unfinished, {"format": "pt", FORMAT: text, _CHECKSUM: _checksum(text, copies)})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_model(
    path: str | Path,
    env: GymEnv | None = None,
    device: th.device | str = "auto",
    has_buffer: bool = True,
    **changes: Any,
) -> BaseAlgorithm:
    """
    Read what :func:`write_model` wrote, without unpickling anything: a file from a stranger can be wrong, but not run code.

    :param path: The file
    :param env: Environment to go on training in
    :param device: Device
    :param has_buffer: Whether to make the replay buffer that training needs; acting does not, and it can take gigabytes
    :param changes: Attributes to change, as in ``load``
    :return: The model, as ``load`` of its class would return it
    :raises ValueError: if it is no such file, or it does not fit the environment.
    """
    header, tensors = _read(path)
    try:
        algorithm = named(ALGORITHMS, header["algorithm"])
        observation_space, action_space = (space_from_plain(header[f"{name}_space"]) for name in ("observation", "action"))
        if env is not None:
            env = algorithm._wrap_env(env)
            check_for_correct_spaces(env, observation_space, action_space)
        policy_class = _policy_class(algorithm, header["policy"])
        model = algorithm(policy_class, env, device=device, _init_setup_model=False)
        _set_attributes(model, header, {"observation_space": observation_space, "action_space": action_space})
        vars(model).update(changes)
        if env is None:
            model.n_envs = 1
        _set_up(model, has_buffer)
        _fill(model, header, tensors)
    except (KeyError, TypeError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} does not hold a whole model: {type(error).__name__}: {error}") from error
    return model


def check_model(path: str | Path) -> float:
    """
    See that a model does on this machine what it did where it was written.

    :param path: File of :func:`write_model`
    :return: Largest deviation from the recorded actions, as a fraction of half the range of an action; 0 of discrete ones
    :raises ValueError: if it is no such file, it is damaged, or actions differ.
    """
    header, _ = _read(path)
    if "recorded" not in header:
        raise ValueError("it carries no recorded observations")
    model = read_model(path, device="cpu", has_buffer=False)
    return Recording.from_json(header["recorded"]).check(lambda inputs: _act(model, inputs))


def _recorded(model: BaseAlgorithm, observations: Observations | None) -> Recording:
    if observations is None:
        observations = example_observations(EnvironmentObservations(model.observation_space, None, False), RECORDED)
    inputs = dict(observations) if isinstance(observations, Mapping) else {"": np.asarray(observations)}
    return Recording(inputs, _act(model, inputs), half_range(model.action_space)).first(RECORDED)


def _act(model: BaseAlgorithm, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    observations = dict(inputs) if isinstance(model.observation_space, spaces.Dict) else inputs[""]
    return np.asarray(model.predict(observations, deterministic=True)[0])


def read_vec_normalize(path: str | Path) -> VecNormalize:
    """
    Read the statistics of observations that a model was trained with: without an environment.

    :param path: File of :func:`write_model`
    :raises ValueError: if there are none in it.
    """
    header, tensors = _read(path)
    if "vec_normalize" not in header:
        raise ValueError(f"{path} has no statistics of VecNormalize.")
    settings = header["vec_normalize"]
    loaded = VecNormalize.__new__(VecNormalize)
    loaded.__dict__.update(from_plain({key: value for key, value in settings.items() if key != "statistics"}))
    loaded.observation_space = space_from_plain(header["observation_space"])
    # What is left of its environment in one that is loaded.
    vars(loaded).update(class_attributes={}, returns=np.zeros(0), venv=None, num_envs=0, old_reward=np.zeros(0))
    for name in ("obs_rms", "ret_rms") if loaded.norm_obs else ("ret_rms",):
        kept = {key: _moments(tensors, key, count) for key, count in settings["statistics"].items() if key.startswith(name)}
        is_dict = any("/" in key for key in kept)
        setattr(loaded, name, {key.split("/", 1)[1]: value for key, value in kept.items()} if is_dict else kept[name])
    return loaded


def has_vec_normalize(path: str | Path) -> bool:
    """
    :param path: File of :func:`write_model`
    :return: Whether there are statistics for :func:`read_vec_normalize` in it
    """
    return "vec_normalize" in _read(path)[0]


def read_policy_tensors(path: str | Path) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """
    Read a policy's arguments and tensors alone.

    :param path: The file
    :raises ValueError: if it is no file of :func:`write_model`.
    """
    header, tensors = _read(path)
    prefix = "parameters/policy/"
    return from_plain(header["policy_kwargs"]), {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _header(model: BaseAlgorithm) -> dict[str, Any]:
    return {
        "version": VERSION,
        "algorithm": name_in(ALGORITHMS, type(model), "algorithm"),
        "policy": _policy_name(model),
        "policy_kwargs": {k: to_plain(v, f"policy_kwargs[{k!r}]") for k, v in _policy_kwargs(model).items()},
        "observation_space": space_to_plain(model.observation_space),
        "action_space": space_to_plain(model.action_space),
        "settings": settings_of(model),
        "counters": {name: getattr(model, name) for name in _COUNTERS if name in vars(model)},
        "groups": {name: _groups(state) for name, state in model.get_parameters().items() if "param_groups" in state},
        "variables": model._get_torch_save_params()[1],
        **_reward_scaling(model),
        **_preprocessing(model),
    }


def _preprocessing(model: BaseAlgorithm) -> dict[str, Any]:
    noted = noted_preprocessing(model)
    return {} if noted is None else {PREPROCESSING: noted._asdict()}


def _reward_scaling(model: BaseAlgorithm) -> dict[str, Any]:
    scaling = model.reward_scaling if isinstance(model, StreamAC) else None
    return {} if scaling is None else {"reward_scaling": to_plain(asdict(scaling), "reward_scaling")}


def _policy_kwargs(model: BaseAlgorithm) -> dict[str, Any]:
    policy: Any = model.policy
    # Of a policy that was pruned further while it trained, the present one.
    return {**model.policy_kwargs, **({"sparsity": policy.sparsity} if isinstance(policy, PrunedPolicy) else {})}


def _policy_name(model: BaseAlgorithm) -> str:
    kind: Any = model.policy_class
    prefix = ""
    if issubclass(kind, SparsifiedPolicy):
        kind, prefix = kind.stock_class, _SPARSIFIED
    for name, alias in model.policy_aliases.items():
        if alias is kind:
            return prefix + name
    return name_in(POLICIES, kind, "policy")


def _policy_class(algorithm: type[BaseAlgorithm], name: str) -> Any:
    if name in POLICIES:
        return named(POLICIES, name)
    stock = name.removeprefix(_SPARSIFIED)
    if stock not in algorithm.policy_aliases:
        raise ValueError(f"The policy {name!r} is unknown.")
    kind = algorithm.policy_aliases[stock]
    return kind if stock == name else pruned_policy_class(kind)


def _groups(state: Mapping[str, Any]) -> Any:
    return [to_plain(group, "An optimizer's arguments") for group in state["param_groups"]]


def _tensors(model: BaseAlgorithm) -> Iterator[tuple[str, th.Tensor]]:
    for name, state in model.get_parameters().items():
        entries = state["state"] if "param_groups" in state else {"": state}
        for index, values in entries.items():
            for key, value in values.items():
                tensor = value if th.is_tensor(value) else th.tensor(value, device="cpu")
                yield "/".join(str(part) for part in ("parameters", name, index, key) if part != ""), tensor
    for name in model._get_torch_save_params()[1]:
        yield f"variables/{name}", recursive_getattr(model, name)


def _set_attributes(model: Any, header: Mapping[str, Any], known: Mapping[str, spaces.Space]) -> None:
    settings = read_settings(type(model), header["settings"])
    unknown = header["counters"].keys() - set(_COUNTERS)
    if unknown:
        raise ValueError(f"The file has counters that are not known: {', '.join(sorted(unknown))}.")
    if PREPROCESSING in header:
        noted = ObservationPreprocessing(**header[PREPROCESSING])
        setattr(model, PREPROCESSING, {name: bool(value) for name, value in noted._asdict().items()})
    vars(model).update({**settings, **header["counters"], **known, "policy_kwargs": from_plain(header["policy_kwargs"])})


def _set_up(model: Any, has_buffer: bool) -> None:
    kind = model.replay_buffer_class if isinstance(model, OffPolicyAlgorithm) else None
    if has_buffer and model.env is None and kind is not None and issubclass(kind, HerReplayBuffer):
        raise ValueError("A replay buffer of HER needs the environment: give env=..., or has_buffer=False to act only.")
    settings = dict(vars(model))
    vars(model).update({} if has_buffer else place_holder(type(model)))
    model._setup_model()
    remove_place_holder(model, settings)


def _fill(model: BaseAlgorithm, header: Mapping[str, Any], tensors: Mapping[str, th.Tensor]) -> None:
    parameters: dict[str, Any] = {}
    for name, present in model.get_parameters().items():
        prefix = f"parameters/{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        parameters[name] = _optimizer_state(own, header["groups"][name]) if "param_groups" in present else own
    model.set_parameters(parameters, exact_match=True, device=model.device)
    with th.no_grad():
        for name in header["variables"]:
            if name in model._get_torch_save_params()[1]:
                recursive_getattr(model, name).copy_(tensors[f"variables/{name}"])
    vars(model).update(header["counters"])
    if isinstance(model, StreamAC) and "reward_scaling" in header:
        model.reward_scaling = RewardScaling(**from_plain(header["reward_scaling"]))


def _optimizer_state(own: Mapping[str, th.Tensor], groups: Any) -> dict[str, Any]:
    state: dict[int, dict[str, th.Tensor]] = {}
    for key, value in own.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": [_with_tuples(from_plain(group)) for group in groups]}


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    # Adam's betas are compared with those of the optimizer that is loaded into.
    return {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}


def _statistics(vec_normalize: VecNormalize) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    counts, tensors = {}, {}
    for name in ("obs_rms", "ret_rms"):
        # Its own; getattr would ask the environments that it wraps. Of rewards only, it has none of observations.
        kept = vars(vec_normalize).get(name)
        if kept is None:
            continue
        entries = {f"{name}/{key}": value for key, value in kept.items()} if isinstance(kept, dict) else {name: kept}
        for key, moments in entries.items():
            counts[key] = float(moments.count)
            tensors.update({f"vec_normalize/{key}/{s}": th.as_tensor(getattr(moments, s), device="cpu") for s in _STATISTICS})
    names = ("clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs", "norm_reward", "norm_obs_keys", "training")
    settings = {name: to_plain(getattr(vec_normalize, name), name) for name in names}
    return {**settings, "statistics": counts}, tensors


def _moments(tensors: Mapping[str, th.Tensor], key: str, count: float) -> RunningMeanStd:
    moments = RunningMeanStd()
    moments.mean, moments.var = (tensors[f"vec_normalize/{key}/{s}"].numpy().astype(np.float64) for s in _STATISTICS)
    moments.count = count
    return moments


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    safetensors = import_extra("safetensors", "export")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata[FORMAT])
            if header["version"] != VERSION:
                raise ValueError(f"it has version {header['version']} of the format, and this package reads {VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            # Files of others need not have one.
            if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(metadata[FORMAT], tensors):
                raise ValueError("its checksum is not that of its content")
            return header, tensors
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written by export --format safetensors, or it is damaged: {error}") from error


def _checksum(header: str, tensors: Mapping[str, th.Tensor]) -> str:
    """Of all that is read; safetensors itself has none."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(th.uint8).numpy().data)
    return digest.hexdigest()
