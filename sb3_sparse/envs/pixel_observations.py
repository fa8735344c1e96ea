"""Images as observations, of any environment."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from sb3_sparse.arguments import check_integer
from sb3_sparse.installation import import_extra
from sb3_sparse.envs.action_repeat import ActionRepeat
from sb3_sparse.envs.frame_stack import FrameStack, image_shape


def pixel_observations(
    env: gym.Env[Any, Any],
    image_size: int | tuple[int, int] = 84,
    frame_stack: int = 3,
    action_repeat: int = 1,
) -> gym.Env[Any, Any]:
    """
    Have any gymnasium environment observed by its images, as ``DrQv2`` and ``FrameReplayBuffer`` want them; with repeated
    actions, only the last image of an agent step is rendered.

    :param env: Environment, see :class:`PixelObservations`
    :param image_size: Height and width of the images, or the two of them
    :param frame_stack: Number of frames in an observation
    :param action_repeat: Steps of the environment per agent step
    :return: The environment with uint8 observations of shape (frame_stack * channels, height, width)
    :raises ValueError: if an argument is invalid, or the environment can neither show nor render images.
    :raises ImportError: if images must be scaled and OpenCV is missing.
    """
    return PixelObservations(ActionRepeat(env, action_repeat), image_size, frame_stack)


class PixelObservations(gym.Wrapper[np.ndarray, Any, Any, Any], RecordConstructorArgs):
    """
    The last images of an environment as its observation: uint8, channels first, the oldest frame first; at the start of an
    episode the first one repeated.

    Where observations are images already (CarRacing), they are taken; else the environment is rendered after every step, for
    which it must be made with ``render_mode="rgb_array"``. MuJoCo's render fastest in the size that is wanted:
    ``gym.make("HalfCheetah-v4", render_mode="rgb_array", width=84, height=84)``. Images of another size are scaled, for which
    OpenCV is needed (extra ``pixels``).

    :param env: Environment
    :param image_size: Height and width of the images, or the two of them
    :param frame_stack: Number of frames in an observation
    :raises ValueError: if an argument is invalid, or the environment can neither show nor render images.
    """

    def __init__(self, env: gym.Env[Any, Any], image_size: int | tuple[int, int] = 84, frame_stack: int = 3):
        self._shape, self.frame_stack = image_shape(image_size), check_integer("frame_stack", frame_stack)
        RecordConstructorArgs.__init__(self, image_size=self._shape, frame_stack=self.frame_stack)
        super().__init__(env)
        self._stack = FrameStack(self.frame_stack)
        space = env.observation_space
        self._renders = not _shows_images(space)
        if self._renders and env.render_mode != "rgb_array":
            raise ValueError(
                f"Observations of shape {space.shape} ({space.dtype}) are no images (uint8 from 0 to 255 with two or three "
                f"axes), so the environment must be rendered: make it with render_mode='rgb_array', not {env.render_mode!r}."
            )
        self._channels_first = not self._renders and len(space.shape or ()) == 3 and is_image_space_channels_first(space)  # type: ignore[arg-type]
        channels = 3 if self._renders else len(self._frame(np.zeros(space.shape or (), np.uint8)))
        self.observation_space = gym.spaces.Box(0, 255, (self.frame_stack * channels, *self._shape), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Seed of the environment
        :param options: Options of the environment
        :return: The first frame, repeated, and the environment's info
        """
        observation, info = self.env.reset(seed=seed, options=options)
        return self._stack.start(self._frame(self._image(observation))), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """
        Make a step.

        :param action: Action
        :return: The last frames, and what the environment returns beside its observation
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._stack.append(self._frame(self._image(observation))), reward, terminated, truncated, info

    def _image(self, observation: Any) -> np.ndarray:
        if not self._renders:
            return observation
        image: Any = self.env.render()
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"The environment must render images of uint8 and shape (height, width, 3), it renders {found}.")
        return image

    def _frame(self, image: np.ndarray) -> np.ndarray:
        """(channels, height, width) in the size that is wanted."""
        image = image[..., None] if image.ndim == 2 else image.transpose(1, 2, 0) if self._channels_first else image
        if image.shape[:2] != self._shape:
            cv2 = import_extra("cv2", "pixels")
            image = cv2.resize(image, self._shape[::-1], interpolation=cv2.INTER_AREA).reshape(*self._shape, -1)
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def _shows_images(space: gym.Space[Any]) -> bool:
    is_grey = isinstance(space, gym.spaces.Box) and len(space.shape) == 2 and is_image_space(_with_channel(space))
    return is_grey or is_image_space(space)


def _with_channel(space: gym.spaces.Box) -> gym.spaces.Box:
    return gym.spaces.Box(space.low[..., None], space.high[..., None], dtype=space.dtype)  # type: ignore[arg-type]
