"""Random configurations: valid ones train and keep what sparsity promises, invalid ones get one clear error."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.checkpoints import ExactCheckpointCallback
from sb3_sparse.common.pruned_policy import TARGETS
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.sparsity import sparse_layers, to_dense
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy

STEPS = 50
# Arguments of a model: its class, its policy, its environment, and keyword arguments.
_OFF_POLICY: list[tuple[type[BaseAlgorithm], Any]] = [
    (stable_baselines3.SAC, SparseSimBaPolicy),
    (stable_baselines3.TD3, SparseSimBaTD3Policy),
    (stable_baselines3.DDPG, SparseSimBaTD3Policy),
    (TQC, SparseSimBaTQCPolicy),
    (SAC, SparseSimBaPolicy),
    (TD3, SparseSimBaTD3Policy),
    (DDPG, SparseSimBaTD3Policy),
]


@dataclass(frozen=True)
class Trial:
    """
    What became of a configuration.

    :param what: The configuration
    :param fault: What went wrong, None if nothing did
    """

    what: str
    fault: str | None


class RandomEnv(gym.Env[Any, np.ndarray]):
    """
    Observations drawn at random, rewards that favour small actions.

    :param observation_space: A Box or a Dict
    :param action_size: Entries of an action
    :param length: Steps of an episode, at most
    :param terminates: Whether episodes can end before
    """

    def __init__(self, observation_space: spaces.Space, action_size: int, length: int, terminates: bool):
        self.observation_space, self.length, self.terminates = observation_space, length, terminates
        self.action_space = spaces.Box(-2.0, 1.0, (action_size,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode.

        :param seed: As in gymnasium
        :param options: Not used
        """
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: Its square is the cost
        """
        self.steps += 1
        ends = self.terminates and self.np_random.random() < 0.1
        reward = -float(np.square(action).sum())
        return self.observation_space.sample(), reward, bool(ends), self.steps >= self.length, {}


def valid_trials(number: int, seed: int = 0) -> Iterator[Trial]:
    """
    Train random valid configurations for 50 steps, and check that no weight came or went that should not have.

    :param number: How many
    :param seed: Seed of the configurations
    """
    for trial in range(number):
        generator = random.Random(f"{seed}/{trial}")
        make, what = _configuration(generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fault = _broken_promise(make(), generator)
            except Exception as error:  # every error is one too many
                fault = f"{type(error).__name__}: {error}"
        yield Trial(f"trial {trial}: {what}", fault)


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


def _configuration(generator: random.Random) -> tuple[Callable[[], BaseAlgorithm], str]:
    env_kwargs: dict[str, Any] = {
        "action_size": generator.randint(1, 6),
        "length": generator.randint(5, 30),
        "terminates": _coin(generator),
    }
    space = _space(generator)
    if generator.random() < 0.15:
        algorithm, policy, kwargs = StreamAC, "MlpPolicy", _stream_arguments(generator)
        n_envs = 1
    else:
        algorithm, policy = generator.choice(_OFF_POLICY)  # type: ignore[assignment]
        n_envs = generator.choice([1, 1, 1, 2, 3])
        kwargs = _arguments(generator, algorithm, env_kwargs["action_size"])
        if isinstance(space, spaces.Dict):
            kwargs["n_steps"] = 1  # SB3's buffers have no more for dictionaries

    def make() -> BaseAlgorithm:
        env = DummyVecEnv([lambda: RandomEnv(space, **env_kwargs)] * n_envs)
        return algorithm(policy, env, device="cpu", seed=generator.randint(0, 99), **kwargs)  # type: ignore[arg-type]

    return make, f"{algorithm.__module__}.{algorithm.__name__}, {space}, {env_kwargs}, n_envs={n_envs}, {kwargs}"


def _space(generator: random.Random) -> spaces.Space:
    box = spaces.Box(-1.0, 1.0, (generator.randint(1, 40),))
    return spaces.Dict({"a": box, "b": spaces.Box(-5.0, 5.0, (2,))}) if generator.random() < 0.2 else box


def _arguments(generator: random.Random, algorithm: type[BaseAlgorithm], action_size: int) -> dict[str, Any]:
    choose = generator.choice
    shares = {"actor": 0.3, "critic": round(generator.uniform(0.0, 0.9), 3)}
    sparsity: Any = choose([0.0, round(generator.uniform(0.05, 0.9), 3), shares])
    policy_kwargs: dict[str, Any] = {
        "sparsity": sparsity,
        "distribution": choose(["erdos_renyi", "uniform"]),
        "budget": choose(["all", "weights"]),
        "width_scale": choose([0.125, 0.25, 0.5]),
        "depth_scale": choose([0.5, 1.0, 2.0]),
        "normalize_observations": _coin(generator),
        "mask_seed": choose([None, 0, 12345]),
    }
    if not issubclass(algorithm, stable_baselines3.DDPG) and _coin(generator):
        policy_kwargs["n_critics"] = generator.randint(1, 3)
    if generator.random() < 0.3:
        policy_kwargs["optimizer_class"] = choose([th.optim.Adam, th.optim.SGD, th.optim.RMSprop])
        policy_kwargs["optimizer_kwargs"] = {}
    noise = NormalActionNoise(np.zeros(action_size), np.full(action_size, 0.1)) if _coin(generator) else None
    arguments = {
        "policy_kwargs": policy_kwargs,
        "learning_rate": choose([1e-4, 1e-3, lambda progress: 1e-3 * progress]),
        "batch_size": choose([1, 2, 8, 32]),
        "buffer_size": choose([60, 200, 1_000]),
        "learning_starts": choose([0, 10, 30]),
        "train_freq": choose([1, 3, (5, "step")]),
        "gradient_steps": choose([1, 2, -1]),
        "tau": choose([0.005, 0.5, 1.0]),
        "gamma": choose([0.0, 0.9, 0.99]),
        "n_steps": choose([1, 1, 3]),
        "action_noise": noise,
    }
    if issubclass(algorithm, stable_baselines3.SAC):
        arguments["ent_coef"] = choose(["auto", "auto_0.01", 0.1])
        arguments["target_update_interval"] = choose([1, 3])
    if algorithm in (SAC, DDPG):
        arguments["update_rule"] = choose(["sb3", "paper"])
    return arguments


def _stream_arguments(generator: random.Random) -> dict[str, Any]:
    choose = generator.choice
    policy_kwargs = {"sparsity": choose([0.0, 0.5, 0.9]), "width": choose([16, 64]), "init": choose(["sparse", "dense"])}
    return {
        "policy_kwargs": policy_kwargs,
        "optimizer": choose(["obgd", "adaptive_obgd"]),
        "trace_lambda": choose([0.0, 0.8]),
        "bootstrap_truncated": _coin(generator),
        "learning_rate": choose([1.0, 0.1, lambda progress: progress]),
    }


def _broken_promise(model: BaseAlgorithm, generator: random.Random) -> str | None:
    before = _topologies(model)
    counts = sum(p.numel() for p in model.policy.parameters())
    model.learn(STEPS)
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
        weight = dense.get_submodule(name).get_parameter("weight")
        if bool((weight[~layer.topology.mask()] != 0).any()):
            return f"{name} has weights where there should be none"
        if not th.equal(layer.topology.gather(weight), layer.values):
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


def _coin(generator: random.Random) -> bool:
    return generator.random() < 0.5


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
        algorithm, policy = generator.choice(_OFF_POLICY)
        _pendulum(algorithm, policy, {name: value})

    return name, value, spoil


def _of_the_algorithm(algorithm: Any, policy: Any, name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    return name, value, lambda generator: _pendulum(algorithm, policy, {}, **{name: value})


def _of_the_stream_policy(name: str, value: Any) -> tuple[str, Any, Callable[[random.Random], Any]]:
    return name, value, lambda generator: _pendulum(StreamAC, "MlpPolicy", {name: value})


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
    *(_of_the_callback(PlasticityCallback, name, 0) for name in ("log_freq", "batch_size")),
    *(_of_the_callback(PlasticityCallback, "metrics", value) for value in ("dormant", ["rank"], [])),
    *(_of_the_callback(ResetCallback, name, value) for name, value in (("reset_freq", 0), ("part", "all"))),
    *(_of_the_callback(ReDoCallback, name, value) for name, value in (("redo_freq", -1), ("tau", -0.1), ("batch_size", 0))),
    *(_of_the_callback(SparseTopologyCallback, name, value) for name, value in (("method", "snfs"), ("update_freq", 0))),
    *(_of_the_callback(SparseTopologyCallback, name, value) for name, value in (("drop_fraction", 1.5), ("schedule", "step"))),
    *(_of_the_callback(_checkpoint, name, value) for name, value in (("save_freq", 0), ("save_freq", 1.5), ("keep", 0))),
]
