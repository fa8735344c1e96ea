"""Whether a replay buffer that was saved fits a model."""

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape


def check_loaded_buffer(model: OffPolicyAlgorithm, buffer: ReplayBuffer) -> None:
    """
    Refuse transitions of other environments, which would fail, or be mixed up, only when something is added or drawn.

    :param model: Model that goes on with the buffer
    :param buffer: Loaded buffer
    :raises ValueError: if numbers of environments, or shapes of observations or actions, differ.
    """
    for name, saved, own in (
        ("environments", buffer.n_envs, model.n_envs),
        ("observations of shape", buffer.obs_shape, get_obs_shape(model.observation_space)),
        ("actions of shape", buffer.action_space.shape, model.action_space.shape),
    ):
        if saved != own:
            raise ValueError(
                f"The saved replay buffer holds transitions of {_words(name, saved)}, the model has {_words(name, own)}: load "
                "it into a model with environments like those it was collected in, or go on without it."
            )


def _words(name: str, value: object) -> str:
    return f"{value} {name}" if isinstance(value, int) else f"{name} {value}"
