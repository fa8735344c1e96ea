"""Random configurations: valid ones train and keep what sparsity promises, invalid ones get one clear error."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.common import SparseSimBaExtractor
from sb3_sparse.common.pruned_policy import TARGETS
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.sparsity import sparse_layers, to_dense
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from torture.configurations import OFF_POLICY, random_configuration
from torture.envs import DISCRETE, IMAGES, make

STEPS = 50


@dataclass(frozen=True)
class Trial:
    """
    What became of a configuration.

    :param what: The configuration
    :param fault: What went wrong, None if nothing did
    """

    what: str
    fault: str | None


def valid_trials(number: int, seed: int = 0) -> Iterator[Trial]:
    """
    Train random valid configurations for 50 steps, and check that no weight came or went that should not have.

    :param number: How many
    :param seed: Seed of the configurations
    """
    for trial in range(number):
        generator = random.Random(f"{seed}/{trial}")
        configuration = random_configuration(generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fault = _broken_promise(configuration.make(generator.randint(0, 99)))
            except Exception as error:  # every error is one too many
                fault = f"{type(error).__name__}: {error}"
        yield Trial(f"trial {trial}: {configuration.describe()}", fault)


def invalid_trials(number: int, seed: int = 0) -> Iterator[Trial]:
    """
    Spoil one thing about valid configurations, and see whether a clear error comes before training: a ValueError or
    TypeError that names what was given.

    :param number: How many
    :param seed: Seed of the configurations
    """
    for trial in range(number):
        generator = random.Random(f"{seed}/{trial}")
        name, value, spoil = generator.choice(_SPOILS)
        yield Trial(f"trial {trial}: {name}={value!r}", _unclear_error(spoil, name, value, generator))


def format_trials(title: str, results: Sequence[Trial]) -> str:
    """
    Count, and name faults.

    :param title: Of the kind of trials
    :param results: Results
    """
    faults = [f"FAULT: {result.what}: {result.fault}" for result in results if result.fault is not None]
    return "\n".join([f"{title}: {len(results)} configurations, {len(faults)} faults", *faults])


def _broken_promise(model: BaseAlgorithm) -> str | None:
    before = _topologies(model)
    counts = sum(p.numel() for p in model.policy.parameters())
    model.learn(STEPS)
    # SB3's action distributions keep tensors of the last loss, which torch cannot copy, until the policy acts again.
    model.predict(model.observation_space.sample())
    if not all(th.equal(indices, before[name]) for name, indices in _topologies(model).items()):
        return "a static mask has moved"
    if sum(p.numel() for p in model.policy.parameters()) != counts:
        return "the number of parameters has changed"
    named = model.policy.state_dict().items()
    broken = [name for name, tensor in named if tensor.is_floating_point() and not tensor.isfinite().all()]
    return f"not finite: {broken}" if broken else _broken_layer(model) or _broken_target(model) or _broken_copy(model)


def _topologies(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    return {name: layer.indices.clone() for name, layer in sparse_layers(model.policy)}


def _broken_layer(model: BaseAlgorithm) -> str | None:
    dense = to_dense(model.policy)
    for name, layer in sparse_layers(model.policy):
        for weights, values in layer.value_names.items():
            weight = dense.get_submodule(name).get_parameter(weights)
            if bool((weight[~layer.topology.mask()] != 0).any()):
                return f"{name} has {weights} where there should be none"
            if not th.equal(layer.topology.gather(weight), layer.get_parameter(values)):
                return f"{name} is made dense wrongly"
    return None


def _broken_target(model: BaseAlgorithm) -> str | None:
    layers = dict(sparse_layers(model.policy))
    for name, layer in layers.items():
        root, _, rest = name.partition(".")
        target = layers.get(f"{TARGETS.get(root)}.{rest}")
        if target is not None and not th.equal(target.indices, layer.indices):
            return f"the target of {name} has another mask"
    return None


def _broken_copy(model: BaseAlgorithm) -> str | None:
    other = type(model.policy)(
        model.observation_space,
        model.action_space,
        model.lr_schedule,  # type: ignore[call-arg]
        **_constructor_kwargs(model),
    )
    other.load_state_dict(model.policy.state_dict())
    observation = model.observation_space.sample()
    actions = [p.predict(observation, deterministic=True)[0] for p in (model.policy, other)]
    return None if np.allclose(actions[0], actions[1], atol=1e-6) else "a policy that loads it acts otherwise"


def _constructor_kwargs(model: BaseAlgorithm) -> dict[str, Any]:
    if isinstance(model, StreamAC):
        return {**model.policy_kwargs, "time_feature": model.time_feature, "optimizer": model.optimizer}
    return dict(model.policy_kwargs)


def _unclear_error(spoil: Callable[[random.Random], Any], name: str, value: Any, generator: random.Random) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spoil(generator)
        except (ValueError, TypeError) as error:
            says = str(error)
            return (
                None if name in says or str(value) in says or repr(value) in says else f"says neither name nor value: {says}"
            )
        except Exception as error:  # what a user would see as a bare traceback
            return f"{type(error).__name__}: {error}"
    return "no error"


def _pendulum(algorithm: type[BaseAlgorithm], policy: Any, policy_kwargs: dict[str, Any], **kwargs: Any) -> BaseAlgorithm:
    small = {} if policy == "MlpPolicy" else {"width_scale": 0.125}
    if algorithm is not StreamAC:
        kwargs["buffer_size"] = 100
    return algorithm(policy, "Pendulum-v1", policy_kwargs={**small, **policy_kwargs}, device="cpu", **kwargs)  # type: ignore[call-arg]


def _of_the_policy(name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    def spoil(generator: random.Random) -> None:
        algorithm, policy = generator.choice(OFF_POLICY)
        _pendulum(algorithm, policy, {name: value})

    return name, value, spoil


def _of_the_algorithm(algorithm: Any, policy: Any, name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    return name, value, lambda generator: _pendulum(algorithm, policy, {}, **{name: value})


def _of_the_stream_policy(name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    return name, value, lambda generator: _pendulum(StreamAC, "MlpPolicy", {name: value})


def _of_der(name: str, value: Any, is_policys: bool = False) -> tuple[str, Any, Callable[[random.Random], Any]]:
    arguments = {"policy_kwargs": {name: value}} if is_policys else {name: value}
    return name, value, lambda generator: DER("MlpPolicy", DISCRETE, buffer_size=100, device="cpu", **arguments)


def _of_drqv2(name: str, value: Any, is_policys: bool = False) -> tuple[str, Any, Callable[[random.Random], Any]]:
    arguments = {"policy_kwargs": {name: value}} if is_policys else {name: value}
    return name, value, lambda generator: DrQv2("CnnPolicy", make(IMAGES), buffer_size=100, device="cpu", **arguments)


def _of_the_extractor(name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    encoder = {"features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": {name: value}}

    def spoil(generator: random.Random) -> None:
        generator.choice([PPO, A2C, DQN])("MlpPolicy", DISCRETE, policy_kwargs=encoder, device="cpu")

    return name, value, spoil


def _of_the_callback(kind: Callable[..., BaseCallback], name: str, value: Any) -> tuple[str, Any, Callable]:
    return name, value, lambda generator: kind(**{name: value})


def _checkpoint(**kwargs: Any) -> BaseCallback:
    return ExactCheckpointCallback("never-made", **kwargs)


_SPOILS: list[tuple[str, Any, Callable[[random.Random], Any]]] = [
    *(
        _of_the_policy("sparsity", value)
        for value in (1.0, -0.1, 1.5, float("nan"), "much", {"actor": 0.5}, {"critics": 0.5}, 0.9999)
    ),
    *(_of_the_policy("distribution", value) for value in ("erk", "", 3)),
    *(_of_the_policy("budget", value) for value in ("some", None)),
    *(_of_the_policy("width_scale", value) for value in (0, -1.0, float("nan"), 1e-4, "wide")),
    *(_of_the_policy("depth_scale", value) for value in (-1.0, float("inf"), "deep")),
    *(_of_the_policy("mask_seed", value) for value in (-1, 0.5, "seed")),
    *(_of_the_policy("skip", value) for value in (["nothing"], ["actor.nothing"])),
    *(_of_the_policy("net_width", value) for value in (256,)),
    *(_of_the_algorithm(a, SparseSimBaPolicy, "update_rule", v) for a in (SAC,) for v in ("jax", None)),
    _of_the_algorithm(TD3, SparseSimBaTD3Policy, "update_rule", "paper"),
    *(_of_the_algorithm(SAC, SparseSimBaPolicy, "matmul_precision", value) for value in ("tf32", 3)),
    *(_of_the_algorithm(DDPG, SparseSimBaTD3Policy, "replay_buffer_device", value) for value in ("gpu", 0)),
    *(_of_the_algorithm(StreamAC, "MlpPolicy", name, -1.0) for name in ("gamma", "trace_lambda", "kappa_actor", "ent_coef")),
    *(_of_the_algorithm(StreamAC, "MlpPolicy", name, "none") for name in ("optimizer", "backend")),
    *(_of_the_stream_policy("sparsity", value) for value in (1.0, -0.5, "half")),
    *(_of_the_stream_policy("width", value) for value in (0, 1, 2.5, "wide")),
    *(_of_the_stream_policy("init", value) for value in ("zeros", None)),
    *(_of_der(name, -1) for name in ("n_steps", "target_update_interval", "priority_exponent", "priority_beta")),
    *(
        _of_der(name, value, is_policys=True)
        for name, value in (("n_atoms", 1), ("v_min", 20.0), ("sigma_0", -1.0), ("sparsity", 1.0))
    ),
    *(_of_drqv2(name, value) for name, value in (("n_steps", 0), ("shift_pixels", -1), ("stddev_schedule", "cosine(1)"))),
    *(
        _of_drqv2(name, value, is_policys=True)
        for name, value in (("prune_modules", "all"), ("feature_dim", 0), ("sparsity", 1.5))
    ),
    *(_of_the_extractor(name, value) for name, value in (("sparsity", 1.0), ("distribution", "erk"), ("width_scale", 0))),
    *(_of_the_callback(PlasticityCallback, name, 0) for name in ("log_freq", "batch_size")),
    *(_of_the_callback(PlasticityCallback, "metrics", value) for value in ("dormant", ["rank"], [])),
    *(_of_the_callback(ResetCallback, name, value) for name, value in (("reset_freq", 0), ("part", "all"))),
    *(_of_the_callback(ReDoCallback, name, value) for name, value in (("redo_freq", -1), ("tau", -0.1), ("batch_size", 0))),
    *(_of_the_callback(SparseTopologyCallback, name, value) for name, value in (("method", "snfs"), ("update_freq", 0))),
    *(_of_the_callback(SparseTopologyCallback, name, value) for name, value in (("drop_fraction", 1.5), ("schedule", "step"))),
    *(_of_the_callback(_checkpoint, name, value) for name, value in (("save_freq", 0), ("save_freq", 1.5), ("keep", 0))),
]
