"""Models without the replay buffer that training needs: it can take gigabytes, and one of HER an environment."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class NoReplayBuffer:
    """What takes the place of a replay buffer while a model is built: algorithms make one where there is none."""


def place_holder(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """
    :param algorithm: Class of an algorithm
    :return: Attributes of a model of it that is to be built without a replay buffer
    """
    return {"replay_buffer": NoReplayBuffer()} if issubclass(algorithm, OffPolicyAlgorithm) else {}


def remove_place_holder(model: Any, settings: Mapping[str, Any]) -> None:
    """
    Leave a model that was built as if its replay buffer had been made and taken away.

    :param model: The model
    :param settings: Its attributes before it was built; building notes the class of the buffer
    """
    if isinstance(model, OffPolicyAlgorithm) and isinstance(model.replay_buffer, NoReplayBuffer):
        model.replay_buffer = None
        kept = {name: value for name, value in settings.items() if name.startswith("replay_buffer_")}
        vars(model).update(kept)
