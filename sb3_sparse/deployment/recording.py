"""What every exported policy carries beside its network: what it is, and observations with the actions that the model took."""

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sparse.deployment.deterministic_policy import DeterministicPolicy, entries_of, input_type, statistics_of_entry
from sb3_sparse.deployment.environment_observations import EnvironmentObservations, Observations
from sb3_sparse.deployment.runtime import FORMAT, TOLERANCE, VERSION, deviation
from sb3_sparse.installation import installed_versions

RECORDED = 16
CHECKED_OBSERVATIONS = 64
_PACKAGES = ("sb3-sparse", "torch", "stable-baselines3", "sb3-contrib")

# Name of an input -> (batch, *shape), to (batch, *action shape).
Policy = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Recording:
    """
    Observations, and what the model did.

    :param inputs: Name of an input -> (number, *shape)
    :param actions: (number, *action shape)
    :param half_range: (*action shape,) half the range of every action, 1 of those without bounds; None of discrete ones
    """

    inputs: dict[str, np.ndarray]
    actions: np.ndarray
    half_range: np.ndarray | None

    def first(self, number: int) -> "Recording":
        """
        :param number: How many to keep
        """
        return Recording({k: v[:number] for k, v in self.inputs.items()}, self.actions[:number], self.half_range)

    def flat(self) -> np.ndarray:
        """(number, size) observations as vectors."""
        return flat(self.inputs)

    def deviation(self, policy: Policy) -> float:
        """
        Compare at several batch sizes.

        :param policy: What may act otherwise
        :return: Largest deviation as a fraction of half an action's range; of discrete actions 1 if one is another, else 0
        """
        number = len(self.actions)
        batches = [slice(*pair) for pair in itertools.pairwise(sorted({0, min(1, number), min(3, number), number}))]
        parts = [policy({key: value[batch] for key, value in self.inputs.items()}) for batch in batches]
        return deviation(np.concatenate(parts), self.actions, self.half_range)

    def check(self, policy: Policy) -> float:
        """
        Compare, and refuse what acts otherwise.

        :param policy: What may act otherwise
        :return: The deviation
        :raises ValueError: if it is too large.
        """
        found = self.deviation(policy)
        if not found <= TOLERANCE:
            raise ValueError(f"recorded actions are missed by {found:.1e}, more than {TOLERANCE:g}")
        return found

    def to_json(self) -> str:
        """As text, for files that hold no arrays."""
        arrays = {**{f"inputs/{key}": value for key, value in self.inputs.items()}, "actions": self.actions}
        if self.half_range is not None:
            arrays["half_range"] = self.half_range
        return json.dumps({key: _packed(array) for key, array in arrays.items()})

    @classmethod
    def from_json(cls, text: str) -> "Recording":
        """
        :param text: What :meth:`to_json` returned
        """
        arrays = {key: _unpacked(packed) for key, packed in json.loads(text).items()}
        inputs = {key.removeprefix("inputs/"): array for key, array in arrays.items() if key.startswith("inputs/")}
        return cls(inputs, arrays["actions"], arrays.get("half_range"))


def flat(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    :param inputs: Name of an input -> (batch, *shape)
    :return: (batch, size) float32, all inputs as one vector each
    """
    parts = [part.reshape(len(part), -1) for part in inputs.values()]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def _packed(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"type": str(array.dtype), "shape": list(array.shape), "base64": data}


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(packed["base64"]), np.dtype(packed["type"]))
    return array.reshape(packed["shape"])


def record(model: BaseAlgorithm, policy: DeterministicPolicy, observations: Observations | None = None) -> Recording:
    """
    Have a model act.

    :param model: The model
    :param policy: Its policy, which knows the inputs
    :param observations: A batch as the environment returns it; drawn for None
    """
    source = policy.observations
    if observations is None:
        observations = example_observations(source, CHECKED_OBSERVATIONS)
    inputs = policy.inputs(observations)
    if not len(next(iter(inputs.values()))):
        raise ValueError("There must be at least one observation to record.")
    actions = model.predict(source.as_model_gets_them(observations), deterministic=True)[0]  # type: ignore[arg-type]
    return Recording(inputs, np.asarray(actions), half_range(model.action_space))


def half_range(space: spaces.Space) -> np.ndarray | None:
    """
    :param space: Action space
    :return: (*shape,) float32 half the range of every action, 1 of those without bounds; None of discrete actions
    """
    if not isinstance(space, spaces.Box):
        return None
    half = 0.5 * (space.high.astype(np.float64) - space.low)
    return np.where((half > 0.0) & np.isfinite(half), half, 1.0).astype(np.float32)


def example_observations(source: EnvironmentObservations, number: int) -> Observations:
    """
    Draw observations within the bounds of their space: from a standard normal distribution, or one with the moments that
    ``VecNormalize`` found; uniformly of images and discrete entries.

    :param source: The environment's observations
    :param number: How many
    :return: A batch as the environment would return it
    """
    rng = np.random.default_rng(0)
    drawn = {key: _draw(rng, part, source, key, number) for key, part in entries_of(source.space).items()}
    return drawn if isinstance(source.space, spaces.Dict) else drawn[""]


def _draw(rng: np.random.Generator, space: spaces.Space, source: EnvironmentObservations, key: str, number: int) -> np.ndarray:
    shape = (number, *(space.shape or ()))
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, shape)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, shape)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, shape).astype(np.int8)
    assert isinstance(space, spaces.Box)
    if input_type(space) is np.uint8:
        return rng.integers(0, 256, shape).clip(space.low, space.high).astype(np.uint8)
    mean, scale = _moments(source, key)
    return (mean + scale * rng.standard_normal(shape)).clip(space.low, space.high).astype(np.float32)


def _moments(source: EnvironmentObservations, key: str) -> tuple[Any, Any]:
    found = None if source.vec_normalize is None else statistics_of_entry(source.vec_normalize, key)
    return (0.0, 1.0) if found is None else (found.mean, np.sqrt(found.var))


def metadata_of(model: BaseAlgorithm, policy: DeterministicPolicy) -> dict[str, Any]:
    """
    What a file tells of its policy.

    :param model: The model
    :param policy: Its policy
    :return: JSON: format, shapes and types of observations, the action space, and where it comes from
    """
    entries = policy.entries.items()
    return {
        "format": FORMAT,
        "version": VERSION,
        "observation": {key: {"shape": list(s.shape or ()), "type": str(np.dtype(input_type(s)))} for key, s in entries},
        "action": _action(model.action_space),
        "provenance": {
            "algorithm": type(model).__name__,
            "policy": type(model.policy).__name__,
            "steps": int(model.num_timesteps),
            "versions": installed_versions(_PACKAGES),
        },
    }


def _action(space: spaces.Space) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": type(space).__name__, "shape": list(space.shape or ())}
    if isinstance(space, spaces.Box):
        # JSON has no infinity.
        return described | {name: [str(v) for v in getattr(space, name).ravel()] for name in ("low", "high")}
    if isinstance(space, spaces.MultiDiscrete):
        return described | {"sizes": space.nvec.ravel().tolist()}
    return described | {"n": int(space.n)} if isinstance(space, spaces.Discrete) else described
