"""Changes to observations between environment and model, of which SB3's files keep no word."""

from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage, unwrap_vec_wrapper

ATTRIBUTE = "observation_preprocessing"


class ObservationPreprocessing(NamedTuple):
    """
    What the wrappers of an environment do to its observations.

    :param normalized: Whether ``VecNormalize`` normalises them
    :param channels_last: Whether ``VecTransposeImage`` moves the channels of images from their end to their front
    """

    normalized: bool
    channels_last: bool


def preprocessing_of(env: VecEnv) -> ObservationPreprocessing:
    """
    :param env: Environment as a model has it, with its wrappers
    :return: What they do to observations
    """
    normalizer, transposer = unwrap_vec_wrapper(env, VecNormalize), unwrap_vec_wrapper(env, VecTransposeImage)
    return ObservationPreprocessing(
        normalizer is not None and normalizer.norm_obs, transposer is not None and not transposer.skip
    )


def note_preprocessing(model: BaseAlgorithm | None, again: bool = False) -> None:
    """
    Keep with a model what its environment's wrappers do, as an attribute, so that ``save`` writes it down.

    :param model: The model, if any
    :param again: Whether to replace what is known already; a loaded model may be in another environment to be evaluated
    """
    if model is not None and model.env is not None and (again or noted_preprocessing(model) is None):
        # A dictionary of plain values: reading the file needs no class of this package.
        setattr(model, ATTRIBUTE, preprocessing_of(model.env)._asdict())


def noted_preprocessing(model: Any) -> ObservationPreprocessing | None:
    """
    :param model: Model
    :return: What :func:`note_preprocessing` kept, if it did
    """
    noted = getattr(model, ATTRIBUTE, None)
    return None if noted is None else ObservationPreprocessing(**noted)
