"""The classes that a file may name. Nothing else is ever looked up for one."""

from collections.abc import Mapping
from typing import Any

import stable_baselines3
import torch as th
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_sparse.algorithms.known_algorithms import STOCK, KnownAlgorithm
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.common.extractor import SparseSimBaExtractor
from sb3_sparse.crossq import SparseSimBaCrossQPolicy
from sb3_sparse.der import DER
from sb3_sparse.der.networks import ImageExtractor
from sb3_sparse.der.prioritized_frame_replay_buffer import PrioritizedFrameReplayBuffer
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.drqv2.networks import PixelExtractor
from sb3_sparse.drqv2.policies import DrQv2Policy
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.stream_ac.policies import StreamACPolicy
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy

OWN: tuple[Any, ...] = (SAC, DDPG, TD3, StreamAC, DrQv2, DER)
# What files call them; where two share policies, the special one comes first.
_ROWS: dict[type[BaseAlgorithm], KnownAlgorithm] = {kind: kind.known_as for kind in OWN} | STOCK
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {row.name: kind for kind, row in _ROWS.items()}
# Algorithms whose acting part is one network.
EXPORTABLE = sorted({kind.__name__ for kind, row in _ROWS.items() if row.acting})
# Those that their algorithms do not know by a name.
_POLICIES = (
    SparseSimBaPolicy,
    SparseSimBaTD3Policy,
    SparseSimBaTQCPolicy,
    SparseSimBaCrossQPolicy,
    StreamACPolicy,
    DrQv2Policy,
)
POLICIES: dict[str, type[BasePolicy]] = {kind.__name__: kind for kind in _POLICIES}
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "sb3_sparse": (
        SparseSimBaExtractor,
        PixelExtractor,
        ImageExtractor,
        DeviceReplayBuffer,
        FrameReplayBuffer,
        PrioritizedFrameReplayBuffer,
    ),
    "stable_baselines3": (
        torch_layers.FlattenExtractor,
        torch_layers.NatureCNN,
        torch_layers.CombinedExtractor,
        buffers.ReplayBuffer,
        buffers.DictReplayBuffer,
        buffers.NStepReplayBuffer,
        stable_baselines3.HerReplayBuffer,
        buffers.RolloutBuffer,
        buffers.DictRolloutBuffer,
        RMSpropTFLike,
    ),
    "sb3_contrib": (
        MaskableRolloutBuffer,
        MaskableDictRolloutBuffer,
        RecurrentRolloutBuffer,
        RecurrentDictRolloutBuffer,
    ),
}
_CLASSES: dict[str, type] = {f"{package}.{kind.__name__}": kind for package, kinds in _ARGUMENTS.items() for kind in kinds}
# Package -> all its classes of this kind.
_FAMILIES: dict[str, tuple[Any, type]] = {"torch.nn": (nn, nn.Module), "torch.optim": (th.optim, th.optim.Optimizer)}


def saved_algorithm(data: Mapping[str, Any]) -> type[BaseAlgorithm] | None:
    """
    Find the algorithm of a saved model, which does not tell.

    :param data: What SB3 keeps in a model's zip file
    """
    return next((kind for kind, row in _ROWS.items() if row.has_saved(data)), None)


def short_algorithm(algorithm: str) -> str:
    """
    An algorithm as figures call it.

    :param algorithm: The zoo's name
    """
    labels = {row.zoo: row.label for row in _ROWS.values()}
    return labels.get(algorithm) or algorithm.upper()


def name_in(table: Mapping[str, type], kind: type, role: str) -> str:
    """
    :param table: ``ALGORITHMS`` or ``POLICIES``
    :param kind: Class to find
    :param role: What errors call it
    :raises ValueError: if it is not in the table.
    """
    for name, known in table.items():
        if known is kind:
            return name
    raise ValueError(f"The {role} {kind.__module__}.{kind.__qualname__} cannot be written: known are {', '.join(table)}.")


def named(table: Mapping[str, Any], name: str) -> Any:
    """
    :param table: ``ALGORITHMS`` or ``POLICIES``
    :param name: A name in it
    :raises ValueError: if it is not in the table.
    """
    if name not in table:
        raise ValueError(f"{name!r} is unknown: known are {', '.join(table)}.")
    return table[name]


def argument_name(kind: type, name: str) -> str:
    """
    :param kind: Class that is an argument: an activation, optimizer, features extractor or buffer
    :param name: What errors call it
    :raises ValueError: if it is not torch's, SB3's or ours.
    """
    for package, (module, _) in _FAMILIES.items():
        if vars(module).get(kind.__name__) is kind:
            return f"{package}.{kind.__name__}"
    for key, known in _CLASSES.items():
        if known is kind:
            return key
    raise ValueError(
        f"{name} is the class {kind.__name__}, which cannot be written: only torch's, SB3's and this package's can."
    )


def argument_class(name: str) -> type:
    """
    :param name: What :func:`argument_name` returned
    :raises ValueError: if it is unknown.
    """
    if name in _CLASSES:
        return _CLASSES[name]
    package, _, kind = name.rpartition(".")
    if package in _FAMILIES:
        module, base = _FAMILIES[package]
        found = vars(module).get(kind)
        if isinstance(found, type) and issubclass(found, base):
            return found
    raise ValueError(f"The class {name!r} is unknown.")
