"""Random configurations that are valid: algorithms, environments, and arguments of both."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from compatibility.environments import AnyEnv
from sb3_sparse.common import SparseSimBaExtractor
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy
from torture.envs import ImageEnv

OFF_POLICY: list[tuple[type[BaseAlgorithm], Any]] = [
    (stable_baselines3.SAC, SparseSimBaPolicy),
    (stable_baselines3.TD3, SparseSimBaTD3Policy),
    (stable_baselines3.DDPG, SparseSimBaTD3Policy),
    (TQC, SparseSimBaTQCPolicy),
    (SAC, SparseSimBaPolicy),
    (TD3, SparseSimBaTD3Policy),
    (DDPG, SparseSimBaTD3Policy),
]


@dataclass(frozen=True)
class Configuration:
    """
    What is trained.

    :param algorithm: Class of the model
    :param policy: Its policy
    :param arguments: Its other arguments
    :param make_env: Makes one environment
    :param n_envs: Number of environments
    :param env: Describes the environment
    """

    algorithm: type[BaseAlgorithm]
    policy: Any
    arguments: dict[str, Any]
    make_env: Callable[[], gym.Env[Any, Any]]
    n_envs: int
    env: str

    def make(self, seed: int) -> BaseAlgorithm:
        """
        Make the model.

        :param seed: Its seed
        """
        env = DummyVecEnv([self.make_env] * self.n_envs)
        return self.algorithm(self.policy, env, device="cpu", seed=seed, **self.arguments)  # type: ignore[arg-type]

    def describe(self) -> str:
        """All that is needed to make it again."""
        name = f"{self.algorithm.__module__}.{self.algorithm.__name__}"
        return f"{name}, {self.env}, n_envs={self.n_envs}, {self.arguments}"


def random_configuration(generator: random.Random) -> Configuration:
    """
    Draw a configuration.

    :param generator: What draws
    """
    kinds = [_off_policy, _goals, _stream, _pixels, _rainbow, _stock]
    (kind,) = generator.choices(kinds, weights=[10, 1, 3, 2, 2, 4])
    return kind(generator)


def _off_policy(generator: random.Random) -> Configuration:
    algorithm, policy = generator.choice(OFF_POLICY)
    size = generator.randint(1, 6)
    make_env, space, env = _environment(generator, spaces.Box(-2.0, 1.0, (size,)))
    arguments = _arguments(generator, algorithm, size)
    if isinstance(space, spaces.Dict):
        arguments["n_steps"] = 1  # SB3's buffers have no more for dictionaries
    return Configuration(algorithm, policy, arguments, make_env, generator.choice([1, 1, 1, 2, 3]), env)


def _goals(generator: random.Random) -> Configuration:
    algorithm, policy = generator.choice(OFF_POLICY)
    size = generator.randint(1, 6)
    arguments = {**_arguments(generator, algorithm, size), "n_steps": 1, "replay_buffer_class": HerReplayBuffer}
    arguments["learning_starts"] = 30  # what is sampled comes from episodes that are over
    arguments["batch_size"] = max(arguments["batch_size"], 2)  # SB3's buffer cannot draw none with other goals
    return Configuration(
        algorithm,
        policy,
        arguments,
        lambda: gym.wrappers.TimeLimit(BitFlippingEnv(size, continuous=True, max_steps=10), 10),
        generator.choice([1, 2]),
        f"BitFlippingEnv({size})",
    )


def _stream(generator: random.Random) -> Configuration:
    make_env, _, env = _environment(generator, spaces.Box(-2.0, 1.0, (generator.randint(1, 6),)))
    return Configuration(StreamAC, "MlpPolicy", _stream_arguments(generator), make_env, 1, env)


def _pixels(generator: random.Random) -> Configuration:
    size, length = generator.choice([17, 20, 33]), generator.randint(8, 30)
    policy_kwargs = {
        **_pruning(generator),
        "hidden_dim": generator.choice([8, 16]),
        "feature_dim": 8,
        "features_extractor_kwargs": {"channels": 4},
    }
    arguments = {
        **_replay(generator),
        "n_steps": generator.choice([1, 3]),
        "shift_pixels": generator.choice([0, 2]),
        "policy_kwargs": policy_kwargs,
    }
    n_envs = generator.choice([1, 1, 2])
    env = f"ImageEnv({size}) of {length} steps"
    return Configuration(DrQv2, "CnnPolicy", arguments, lambda: gym.wrappers.TimeLimit(ImageEnv(size), length), n_envs, env)


def _rainbow(generator: random.Random) -> Configuration:
    make_env, _, env = _environment(generator, spaces.Discrete(generator.randint(2, 5)), _box(generator))
    policy_kwargs = {
        **_pruning(generator),
        "net_arch": generator.choice([[16], [32, 16]]),
        "n_atoms": generator.choice([5, 21]),
        **{name: _coin(generator) for name in ("distributional", "dueling", "noisy")},
    }
    arguments = {
        **_replay(generator),
        "n_steps": generator.choice([1, 3, 10]),
        **{name: _coin(generator) for name in ("double_q", "prioritized")},
        "policy_kwargs": policy_kwargs,
    }
    return Configuration(DER, "MlpPolicy", arguments, make_env, generator.choice([1, 1, 2]), env)


def _stock(generator: random.Random) -> Configuration:
    """Stock policies with our features extractor."""
    algorithm: Any = generator.choice([PPO, A2C, TRPO, DQN, QRDQN, CrossQ])
    discrete, continuous = spaces.Discrete(generator.randint(2, 5)), spaces.Box(-2.0, 1.0, (generator.randint(1, 4),))
    needed: dict[Any, spaces.Space] = {DQN: discrete, QRDQN: discrete, CrossQ: continuous}
    action_space = needed.get(algorithm, generator.choice([discrete, continuous]))
    # CrossQ has no policy for dictionaries.
    make_env, space, env = _environment(generator, action_space, _box(generator) if algorithm is CrossQ else None)
    shape = {name: generator.choice(choices) for name, choices in _SHAPES.items()}
    encoder = {"sparsity": round(generator.uniform(0.0, 0.9), 3), **shape}
    policy_kwargs = {
        "features_extractor_class": SparseSimBaExtractor,
        "features_extractor_kwargs": encoder,
        "net_arch": generator.choice([[], [16]]) if algorithm is not CrossQ else [16],
    }
    if issubclass(algorithm, PPO | TRPO):
        sizes: dict[str, Any] = {"n_steps": 16, "batch_size": generator.choice([8, 16])}
    else:
        sizes = {} if algorithm is A2C else _replay(generator)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    return Configuration(algorithm, policy, {**sizes, "policy_kwargs": policy_kwargs}, make_env, 1, env)


# Of encoders.
_SHAPES: dict[str, list[Any]] = {
    "distribution": ["erdos_renyi", "uniform"],
    "budget": ["all", "weights"],
    "width_scale": [0.125, 0.25, 0.5],
    "depth_scale": [0.5, 1.0, 2.0],
    "normalize_observations": [True, False],
    "mask_seed": [None, 0, 12345],
}


def _environment(
    generator: random.Random, action_space: spaces.Space, space: spaces.Space | None = None
) -> tuple[Callable[[], gym.Env[Any, Any]], spaces.Space, str]:
    space = space or _space(generator)
    length, terminates = generator.randint(5, 30), _coin(generator)
    description = f"{space}, {action_space}, length={length}, terminates={terminates}"
    return lambda: AnyEnv(space, action_space, length, terminates), space, description


def _pruning(generator: random.Random) -> dict[str, Any]:
    return {
        "sparsity": generator.choice([0.0, round(generator.uniform(0.05, 0.9), 3)]),
        "distribution": generator.choice(["erdos_renyi", "uniform"]),
        "budget": generator.choice(["all", "weights"]),
        "mask_seed": generator.choice([None, 0, 12345]),
    }


def _replay(generator: random.Random) -> dict[str, Any]:
    return {
        "batch_size": generator.choice([2, 8]),
        "buffer_size": generator.choice([60, 200]),
        "learning_starts": generator.choice([15, 30]),
        "train_freq": generator.choice([1, 3]),
    }


def _box(generator: random.Random) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (generator.randint(1, 40),))


def _space(generator: random.Random) -> spaces.Space:
    box = _box(generator)
    return spaces.Dict({"a": box, "b": spaces.Box(-5.0, 5.0, (2,))}) if generator.random() < 0.2 else box


def _arguments(generator: random.Random, algorithm: type[BaseAlgorithm], action_size: int) -> dict[str, Any]:
    choose = generator.choice
    shares = {"actor": 0.3, "critic": round(generator.uniform(0.0, 0.9), 3)}
    sparsity: Any = choose([0.0, round(generator.uniform(0.05, 0.9), 3), shares])
    policy_kwargs: dict[str, Any] = {
        "sparsity": sparsity,
        **{name: choose(choices) for name, choices in _SHAPES.items()},
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


def _coin(generator: random.Random) -> bool:
    return generator.random() < 0.5
