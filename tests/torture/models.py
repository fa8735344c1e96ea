"""Small models of all algorithms, as torture runs train them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import stable_baselines3
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_sparse.common import SparseSimBaExtractor, sparsify
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy
from torture.envs import DISCRETE, IMAGES, MASKS

ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], Any]] = {
    "SB3 SAC": (stable_baselines3.SAC, SparseSimBaPolicy),
    "SB3 DDPG": (stable_baselines3.DDPG, SparseSimBaTD3Policy),
    "SB3 TD3": (stable_baselines3.TD3, SparseSimBaTD3Policy),
    "TQC": (TQC, SparseSimBaTQCPolicy),
    "SAC": (SAC, SparseSimBaPolicy),
    "DDPG": (DDPG, SparseSimBaTD3Policy),
    "TD3": (TD3, SparseSimBaTD3Policy),
    "StreamAC": (StreamAC, "MlpPolicy"),
    "DrQv2": (DrQv2, "CnnPolicy"),
    "DER": (DER, "MlpPolicy"),
    "SB3 SAC, MlpPolicy": (stable_baselines3.SAC, "MlpPolicy"),
    "CrossQ": (CrossQ, "MlpPolicy"),
    "DQN": (DQN, "MlpPolicy"),
    "QR-DQN": (QRDQN, "MlpPolicy"),
    "PPO": (PPO, "MlpPolicy"),
    "PPO, sparsify": (PPO, "MlpPolicy"),
    "A2C": (A2C, "MlpPolicy"),
    "TRPO": (TRPO, "MlpPolicy"),
    "MaskablePPO": (MaskablePPO, "MlpPolicy"),
    "RecurrentPPO": (RecurrentPPO, "MlpLstmPolicy"),
}
# Of those that cannot do with Pendulum.
ENVIRONMENTS = {"DrQv2": IMAGES, "DER": DISCRETE, "DQN": DISCRETE, "QR-DQN": DISCRETE, "MaskablePPO": MASKS}
# What TensorBoard writes is compared where it is installed.
OUTPUTS = ("csv", "log", "json", *(["tensorboard"] if find_spec("tensorboard") else []))
# Policies of SB3 without our encoder.
_STOCK = {"SB3 SAC, MlpPolicy", "CrossQ", "PPO, sparsify"}


@dataclass(frozen=True)
class TortureRun:
    """
    A run.

    :param algorithm: Key of ``ALGORITHMS``
    :param sparsity: Of the policy
    :param topology: Method of ``SparseTopologyCallback``, None for static masks
    :param env: Id of the environment; with goals, there is hindsight experience replay
    :param n_envs: Number of environments
    :param subprocesses: Whether environments have processes of their own
    :param normalize: Whether there is a ``VecNormalize``
    :param noise: Action noise: "normal", "ou", or None
    :param n_steps: Of n-step returns
    :param use_sde: Whether exploration is state-dependent
    :param callbacks: Further ones: "eval", "plasticity", "reset", "redo"
    :param outputs: Of the logger
    :param log_interval: As in ``learn()``
    :param steps: Agent steps
    :param save_freq: Agent steps between two checkpoints
    :param buffer_size: Transitions that are kept
    :param seed: Seed of everything
    """

    algorithm: str
    sparsity: float = 0.5
    topology: str | None = None
    env: str = "Pendulum-v1"
    n_envs: int = 1
    subprocesses: bool = False
    normalize: bool = False
    noise: str | None = None
    n_steps: int = 1
    use_sde: bool = False
    callbacks: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("csv", "log", "json")
    log_interval: int = 1
    steps: int = 180
    save_freq: int = 40
    buffer_size: int = 1_000
    seed: int = 0


def make_model(run: TortureRun, env: VecEnv) -> BaseAlgorithm:
    """
    :param run: What to train
    :param env: Environment to train in
    """
    algorithm, policy = ALGORITHMS[run.algorithm]
    arguments = _arguments_of(algorithm)(run, env)
    if isinstance(env.observation_space, spaces.Dict) and policy == "MlpPolicy":
        policy = "MultiInputPolicy"
    network = {**_network(run, policy), **arguments.pop("policy_kwargs", {})}
    model = algorithm(policy, env, policy_kwargs=network, seed=run.seed, device="cpu", **arguments)  # type: ignore[call-arg]
    if run.algorithm == "PPO, sparsify":
        sparsify(model, run.sparsity, mask_seed=run.seed)
    return model


def _network(run: TortureRun, policy: Any) -> dict[str, Any]:
    """Arguments of the policy."""
    if run.algorithm == "StreamAC":
        return {"sparsity": run.sparsity, "width": 32}
    if run.algorithm == "DrQv2":
        small = {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}}
        return {**small, "sparsity": run.sparsity}
    if run.algorithm == "DER":
        return {"net_arch": [32], "n_atoms": 11, "v_max": 100.0, "sparsity": run.sparsity}
    if not isinstance(policy, str):
        return {"sparsity": run.sparsity, "width_scale": 0.125}
    if run.algorithm in _STOCK:
        return {"net_arch": [32, 32]}
    encoder = {"features_extractor_kwargs": {"sparsity": run.sparsity, "width_scale": 0.125}, "net_arch": []}
    return {"features_extractor_class": SparseSimBaExtractor, **encoder}


def _arguments_of(algorithm: type[BaseAlgorithm]) -> Callable[[TortureRun, VecEnv], dict[str, Any]]:
    if issubclass(algorithm, StreamAC):
        return lambda run, env: {}
    if issubclass(algorithm, OnPolicyAlgorithm):
        return lambda run, env: _on_policy_arguments(algorithm, run)
    if issubclass(algorithm, DQN | QRDQN):
        return lambda run, env: {**_replay(run), "exploration_fraction": 0.8, "target_update_interval": 25}
    if issubclass(algorithm, DrQv2 | DER):
        return lambda run, env: {**_replay(run), "batch_size": 8}
    return _continuous_arguments


def _on_policy_arguments(algorithm: type[BaseAlgorithm], run: TortureRun) -> dict[str, Any]:
    if issubclass(algorithm, MaskablePPO):
        return {"n_steps": 16, "batch_size": 8, "n_epochs": 2}
    common: dict[str, Any] = {"use_sde": run.use_sde}
    if issubclass(algorithm, A2C):
        return common
    if issubclass(algorithm, TRPO):
        return {**common, "n_steps": 16, "batch_size": 16}
    common |= {"n_steps": 16, "batch_size": 8, "n_epochs": 2}
    return {**common, "policy_kwargs": {"lstm_hidden_size": 8}} if algorithm is RecurrentPPO else common


def _replay(run: TortureRun) -> dict[str, Any]:
    return {"learning_starts": 50, "batch_size": 16, "buffer_size": run.buffer_size}


def _continuous_arguments(run: TortureRun, env: VecEnv) -> dict[str, Any]:
    mean = np.zeros(env.action_space.shape or ())
    noises = {
        None: None,
        "normal": NormalActionNoise(mean, np.full_like(mean, 0.1)),
        "ou": OrnsteinUhlenbeckActionNoise(mean, np.full_like(mean, 0.1)),
    }
    arguments = {**_replay(run), "action_noise": noises[run.noise]}
    if run.use_sde:
        arguments["use_sde"] = True
    if isinstance(env.observation_space, spaces.Dict) and "desired_goal" in env.observation_space.spaces:
        return {**arguments, "replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}}
    return arguments if run.algorithm == "CrossQ" else {**arguments, "n_steps": run.n_steps}
