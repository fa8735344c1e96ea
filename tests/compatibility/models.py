"""The one table of models: every way in which this package puts a network into an algorithm of SB3 or sb3-contrib."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from catch_env import Catch
from dot_env import DotEnv
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import sb3_sparse
from compatibility.environments import CHOICES, AnyEnv
from sb3_sparse import (
    SparseSimBaCrossQPolicy,
    SparseSimBaExtractor,
    SparseSimBaPolicy,
    SparseSimBaTD3Policy,
    SparseSimBaTQCPolicy,
    sparsify,
)
from sb3_sparse.stream_ac import StreamWrapper

# Agent steps that make every model of the table learn something.
STEPS = 16
OFF_POLICY: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 200, "train_freq": 1}
ON_POLICY: dict[str, Any] = {"n_steps": 8}
MINIBATCHES: dict[str, Any] = {**ON_POLICY, "batch_size": 4, "n_epochs": 2}
Q_LEARNING: dict[str, Any] = {**OFF_POLICY, "target_update_interval": 4}
# All actions are random unless they are to be deterministic.
EPSILON_GREEDY: dict[str, Any] = {**Q_LEARNING, "exploration_final_eps": 1.0}
SIMBA: dict[str, Any] = {"width_scale": 0.0625, "sparsity": 0.5}
ENCODER: dict[str, Any] = {
    "features_extractor_class": SparseSimBaExtractor,
    "features_extractor_kwargs": {"width_scale": 0.125, "sparsity": 0.5},
    "net_arch": [8],
}
MLP: dict[str, Any] = {"net_arch": [16, 16]}


@dataclass(frozen=True)
class Model:
    """
    :param name: Name in the ids of tests
    :param algorithm: Class
    :param policy: Class, or name of a stock policy
    :param arguments: Further arguments of the constructor
    :param policy_kwargs: Arguments of the policy
    :param make_env: Makes its environment
    :param budget: Of ``sparsify``, which prunes the model when it is built; None if the policy is sparse by itself
    """

    name: str
    algorithm: type[BaseAlgorithm]
    policy: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    make_env: Callable[[], gym.Env] = AnyEnv
    budget: str | None = None

    @property
    def is_off_policy(self) -> bool:
        return issubclass(self.algorithm, OffPolicyAlgorithm)

    @property
    def is_on_policy(self) -> bool:
        return issubclass(self.algorithm, OnPolicyAlgorithm)

    @property
    def is_streaming(self) -> bool:
        """Whether it learns in one environment only."""
        return self.algorithm is sb3_sparse.StreamAC

    @property
    def sees_images(self) -> bool:
        return self.policy == "CnnPolicy"

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.make_env().action_space, spaces.Discrete)

    @property
    def is_recurrent(self) -> bool:
        return self.algorithm is sb3_contrib.RecurrentPPO

    @property
    def is_ours(self) -> bool:
        """Whether the algorithm itself is this package's."""
        return self.algorithm.__module__.startswith("sb3_sparse")

    @property
    def is_simba(self) -> bool:
        """Whether the policy is one of the SimBa policies."""
        return isinstance(self.policy, type)

    def evaluation_env(self) -> gym.Env:
        """An environment to evaluate in, monitored."""
        env = Monitor(self.make_env())
        return StreamWrapper(env) if self.is_streaming else env

    def build(self, env: Any = None, **changes: Any) -> Any:
        """
        Build the model.

        :param env: Environment; one of its own if None
        :param changes: Arguments that are different
        """
        env = self.make_env() if env is None else env
        space = getattr(env, "observation_space", None)
        policy_kwargs = {**copy.deepcopy(self.policy_kwargs), **changes.pop("policy_kwargs", {})}
        policy = changes.pop("policy", self.policy)
        if isinstance(space, spaces.Dict) and self not in OWN_ALGORITHMS and isinstance(policy, str):
            policy = policy.replace("Mlp", "MultiInput")
        arguments = {"seed": 0, "device": "cpu", **copy.deepcopy(self.arguments), **changes}
        model = self.algorithm(policy, env, policy_kwargs=policy_kwargs, **arguments)  # type: ignore[call-arg]
        return model if self.budget is None else sparsify(model, 0.5, budget=self.budget)


def discrete() -> gym.Env:
    return AnyEnv(action_space=CHOICES)


def small_dots() -> gym.Env:
    return DotEnv(length=8)


def extractor(algorithm: Any, arguments: dict[str, Any], **changes: Any) -> Model:
    policy_kwargs = {**ENCODER, **changes.pop("policy_kwargs", {})}
    policy = changes.pop("policy", "MlpPolicy")
    return Model(f"extractor in {algorithm.__name__}", algorithm, policy, arguments, policy_kwargs, **changes)


def pruned(algorithm: Any, arguments: dict[str, Any], **changes: Any) -> Model:
    changes = {"policy": "MlpPolicy", "policy_kwargs": MLP, "budget": "all", **changes}
    return Model(f"sparsified {algorithm.__name__}", algorithm, arguments=arguments, **changes)


SIMBA_POLICIES = [
    Model("SAC", stable_baselines3.SAC, SparseSimBaPolicy, OFF_POLICY, SIMBA),
    Model("TD3", stable_baselines3.TD3, SparseSimBaTD3Policy, OFF_POLICY, SIMBA),
    Model("DDPG", stable_baselines3.DDPG, SparseSimBaTD3Policy, OFF_POLICY, SIMBA),
    Model("TQC", sb3_contrib.TQC, SparseSimBaTQCPolicy, OFF_POLICY, SIMBA),
    Model("our SAC", sb3_sparse.SAC, SparseSimBaPolicy, OFF_POLICY, SIMBA),
    Model("our TD3", sb3_sparse.TD3, SparseSimBaTD3Policy, OFF_POLICY, SIMBA),
    Model("our DDPG", sb3_sparse.DDPG, SparseSimBaTD3Policy, OFF_POLICY, SIMBA),
    Model("CrossQ", sb3_contrib.CrossQ, SparseSimBaCrossQPolicy, OFF_POLICY, SIMBA),
]
DRQV2 = Model(
    "DrQv2",
    sb3_sparse.DrQv2,
    "CnnPolicy",
    {**OFF_POLICY, "train_freq": 2},
    {"hidden_dim": 16, "feature_dim": 8, "features_extractor_kwargs": {"channels": 4}, "sparsity": 0.5},
    small_dots,
)
STREAM_AC = Model("StreamAC", sb3_sparse.StreamAC, "MlpPolicy", {}, {"width": 16, "sparsity": 0.3})
DER_VECTORS = Model(
    "DER", sb3_sparse.DER, "MlpPolicy", Q_LEARNING, {"net_arch": [16], "v_max": 100.0, "sparsity": 0.5}, discrete
)
DER_PIXELS = Model(
    "DER, pixels", sb3_sparse.DER, "CnnPolicy", Q_LEARNING, {"net_arch": [16], "width_scale": 0.125, "sparsity": 0.5}, Catch
)
OWN_ALGORITHMS = [DRQV2, STREAM_AC, DER_VECTORS, DER_PIXELS]
RECURRENT: dict[str, Any] = {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}}
EXTRACTORS = [
    extractor(stable_baselines3.PPO, MINIBATCHES),
    extractor(stable_baselines3.A2C, ON_POLICY),
    extractor(stable_baselines3.DQN, EPSILON_GREEDY, make_env=discrete),
    extractor(stable_baselines3.SAC, OFF_POLICY),
    extractor(sb3_contrib.CrossQ, OFF_POLICY),
    extractor(sb3_contrib.QRDQN, EPSILON_GREEDY, make_env=discrete),
    extractor(sb3_contrib.TRPO, {**ON_POLICY, "batch_size": 4}),
    extractor(sb3_contrib.RecurrentPPO, MINIBATCHES, **RECURRENT),
    extractor(sb3_contrib.MaskablePPO, MINIBATCHES, make_env=discrete),
]
SPARSIFIED = [
    pruned(stable_baselines3.PPO, MINIBATCHES),
    pruned(stable_baselines3.A2C, ON_POLICY),
    pruned(stable_baselines3.DQN, EPSILON_GREEDY, make_env=discrete),
    pruned(stable_baselines3.SAC, OFF_POLICY),
    pruned(stable_baselines3.TD3, OFF_POLICY),
    pruned(stable_baselines3.DDPG, OFF_POLICY),
    pruned(sb3_contrib.TQC, OFF_POLICY),
    pruned(sb3_contrib.CrossQ, OFF_POLICY),
    pruned(sb3_contrib.QRDQN, EPSILON_GREEDY, make_env=discrete),
    pruned(sb3_contrib.TRPO, {**ON_POLICY, "batch_size": 4}),
    pruned(sb3_contrib.RecurrentPPO, MINIBATCHES, budget="weights", **RECURRENT),
    pruned(sb3_contrib.MaskablePPO, MINIBATCHES, make_env=discrete),
    Model("our SAC, sparsified", sb3_sparse.SAC, "MlpPolicy", OFF_POLICY, MLP, budget="all"),
]
MODELS = [*SIMBA_POLICIES, *OWN_ALGORITHMS, *EXTRACTORS, *SPARSIFIED]
# Those with a policy or an algorithm of ours: all of their behaviour is this package's.
OURS = [*SIMBA_POLICIES, *OWN_ALGORITHMS]
# One of each kind, for concerns that depend on the kind only.
KINDS = [
    *(model for model in MODELS if model.name in ("SAC", "our TD3", "extractor in PPO", "sparsified DQN")),
    *OWN_ALGORITHMS,
]


def each(models: Iterable[Model], by_default: Iterable[Model] = MODELS) -> Any:
    """
    Run a test for each of these models.

    :param models: Models
    :param by_default: Those of them for which the test runs by default; it is slow for the others
    """
    quick = {model.name for model in by_default}
    marks = {True: (), False: (pytest.mark.slow,)}
    found = [pytest.param(model, id=model.name, marks=marks[model.name in quick]) for model in models]
    return pytest.mark.parametrize("case", found)


each_model = each(MODELS)
# What takes longer is slow for stock classes with stock policies, of which one is like the other; what takes longest, for all
# but one of each kind.
each_model_in_time = each(MODELS, by_default=[*OURS, *KINDS])
each_model_at_leisure = each(MODELS, by_default=KINDS)
each_of_ours = each(OURS)
each_kind = each(KINDS)


def observations(model: Any, number: int = 5) -> Any:
    """
    Draw observations that a model can be asked about.

    :param model: Model
    :param number: How many
    :return: (number, ...) or a dictionary of these
    """
    space = copy.deepcopy(model.observation_space)
    space.seed(0)
    samples = [space.sample() for _ in range(number)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def predictions(model: Any, like: Any = None) -> np.ndarray:
    """
    What a model does without exploration.

    :param model: Model, or a policy
    :param like: Model whose observations it is asked about; itself if None
    """
    return model.predict(observations(like or model), deterministic=True)[0]
