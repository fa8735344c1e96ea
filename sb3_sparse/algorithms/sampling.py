"""Batches of the replay buffer that leave no trace in the run."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer


def replay_buffer_of(model: BaseAlgorithm, user: str) -> Any:
    """
    The replay buffer of a model.

    :param model: Model
    :param user: Who needs it, for the error
    :raises ValueError: if the model has none.
    """
    buffer = model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None
    if buffer is None:
        raise ValueError(
            f"{user} works on batches of the replay buffer, which {type(model).__name__} does not have: use it with an "
            "off-policy algorithm (SAC, TD3, DDPG, TQC, DQN, ...), or call the functions of sb3_sparse.diagnostics on batches "
            "of your own."
        )
    return buffer


def can_sample(model: BaseAlgorithm, batch_size: int) -> bool:
    """
    Tell whether the replay buffer holds a batch.

    :param model: Off-policy model
    :param batch_size: Number of transitions
    """
    buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
    if isinstance(buffer, HerReplayBuffer) and not (buffer.ep_length > 0).any():
        return False  # goals are relabelled within finished episodes
    return buffer.size() * buffer.n_envs >= batch_size


def sample_batch(model: BaseAlgorithm, batch_size: int) -> Any:
    """
    Draw a batch as the algorithm's ``train()`` does; call it within :func:`private_randomness`.

    :param model: Off-policy model
    :param batch_size: Number of transitions
    :return: What the replay buffer returns
    """
    return model.replay_buffer.sample(batch_size, env=model._vec_normalize_env)  # type: ignore[attr-defined]


@contextmanager
def private_randomness(model: BaseAlgorithm, *seed: int) -> Iterator[None]:
    """
    Draw from random streams of one's own; those of the run (NumPy's, Python's, torch's, and generators that the replay buffer
    keeps) are as before afterwards.

    :param model: Off-policy model
    :param seed: Non-negative integers that make the streams
    """
    number = seed_from(*seed)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
    own = [value for value in vars(buffer).values() if isinstance(value, _GENERATORS)]
    states = [_state(generator) for generator in own]
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    with th.random.fork_rng(devices):
        try:
            np.random.seed(number)
            random.seed(number)
            th.manual_seed(number)
            for generator in own:
                _seed(generator, number)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            for generator, state in zip(own, states, strict=True):
                _restore(generator, state)


def seed_from(*numbers: int) -> int:
    """
    Make one seed of several numbers.

    :param numbers: Non-negative integers, e.g. a user's seed and the agent step
    :return: Integer below 2^32
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


_GENERATORS = (np.random.Generator, np.random.RandomState, th.Generator)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _seed(generator: Any, number: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(number)
    else:
        generator.manual_seed(number)


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
