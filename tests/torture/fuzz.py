"""Random configurations: valid ones train and keep what sparsity promises, invalid ones get one clear error."""

import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
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
from torture.trial import Trial

STEPS = 50
# Builds something with arguments of it.
Build = Callable[[random.Random, dict[str, Any]], Any]


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
        build, name, value = generator.choice(_SPOILED)
        yield Trial(f"trial {trial}: {name}={value!r}", _unclear_error(build, name, value, generator))


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


def _unclear_error(build: Build, name: str, value: Any, generator: random.Random) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            build(generator, {name: value})
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


def _simba(generator: random.Random, given: dict[str, Any]) -> Any:
    return _pendulum(*generator.choice(OFF_POLICY), given)


def _extractor(generator: random.Random, given: dict[str, Any]) -> Any:
    encoder = {"features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": given}
    return generator.choice([PPO, A2C, DQN])("MlpPolicy", DISCRETE, policy_kwargs=encoder, device="cpu")


def _of(algorithm: Any, policy: Any) -> Build:
    return lambda _, given: _pendulum(algorithm, policy, {}, **given)


def _der(_: random.Random, given: dict[str, Any]) -> Any:
    return DER("MlpPolicy", DISCRETE, buffer_size=100, device="cpu", **given)


def _drqv2(_: random.Random, given: dict[str, Any]) -> Any:
    return DrQv2("CnnPolicy", make(IMAGES), buffer_size=100, device="cpu", **given)


def _with_policy_kwargs(build: Build) -> Build:
    return lambda generator, given: build(generator, {"policy_kwargs": given})


def _callback(kind: Callable[..., BaseCallback]) -> Build:
    return lambda _, given: kind(**given)


# What is built, and for each of its arguments what it cannot be.
_SPOILS: list[tuple[Build, dict[str, tuple[Any, ...]]]] = [
    (
        _simba,
        {
            "sparsity": (1.0, -0.1, 1.5, float("nan"), "much", {"actor": 0.5}, {"critics": 0.5}, 0.9999),
            "distribution": ("erk", "", 3),
            "budget": ("some", None),
            "width_scale": (0, -1.0, float("nan"), 1e-4, "wide"),
            "depth_scale": (-1.0, float("inf"), "deep"),
            "mask_seed": (-1, 0.5, "seed"),
            "skip": (["nothing"], ["actor.nothing"]),
            "net_width": (256,),
        },
    ),
    (_of(SAC, SparseSimBaPolicy), {"update_rule": ("jax", None), "matmul_precision": ("tf32", 3)}),
    (_of(TD3, SparseSimBaTD3Policy), {"update_rule": ("paper",)}),
    (_of(DDPG, SparseSimBaTD3Policy), {"replay_buffer_device": ("gpu", 0)}),
    (_of(StreamAC, "MlpPolicy"), dict.fromkeys(("gamma", "trace_lambda", "kappa_actor", "ent_coef"), (-1.0,))),
    (_of(StreamAC, "MlpPolicy"), dict.fromkeys(("optimizer", "backend"), ("none",))),
    (
        lambda _, given: _pendulum(StreamAC, "MlpPolicy", given),
        {"sparsity": (1.0, -0.5, "half"), "width": (0, 1, 2.5, "wide"), "init": ("zeros", None)},
    ),
    (_der, dict.fromkeys(("n_steps", "target_update_interval", "priority_exponent", "priority_beta"), (-1,))),
    (_with_policy_kwargs(_der), {"n_atoms": (1,), "v_min": (20.0,), "sigma_0": (-1.0,), "sparsity": (1.0,)}),
    (_drqv2, {"n_steps": (0,), "shift_pixels": (-1,), "stddev_schedule": ("cosine(1)",)}),
    (_with_policy_kwargs(_drqv2), {"prune_modules": ("all",), "feature_dim": (0,), "sparsity": (1.5,)}),
    (_extractor, {"sparsity": (1.0,), "distribution": ("erk",), "width_scale": (0,)}),
    (
        _callback(PlasticityCallback),
        {"log_freq": (0,), "batch_size": (0,), "metrics": ("dormant", ["rank"], [])},
    ),
    (_callback(ResetCallback), {"reset_freq": (0,), "part": ("all",)}),
    (_callback(ReDoCallback), {"redo_freq": (-1,), "tau": (-0.1,), "batch_size": (0,)}),
    (
        _callback(SparseTopologyCallback),
        {"method": ("snfs",), "update_freq": (0,), "drop_fraction": (1.5,), "schedule": ("step",)},
    ),
    (_callback(partial(ExactCheckpointCallback, "never-made")), {"save_freq": (0, 1.5), "keep": (0,)}),
]
_SPOILED = [(build, name, value) for build, given in _SPOILS for name, values in given.items() for value in values]
