"""Tasks of the DeepMind Control Suite as seen by a camera."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

from sb3_sparse.envs.dm_control_env import DMControlEnv
from sb3_sparse.envs.frame_stack import FrameStack, image_shape
from sb3_sparse.envs.task_camera import CAMERAS, TaskCamera, check_camera, skip_multisampling

# What render() draws: large enough to look at, and no larger than every model allows.
_PICTURE = {"height": 480, "width": 480}


class DMControlPixelEnv(DMControlEnv):
    """
    A task of the DeepMind Control Suite that is observed by the images of a camera, as in DrQ-v2 (Yarats et al. 2021,
    https://arxiv.org/abs/2107.09645): uint8, channels first, the last ``frame_stack`` frames, the oldest first. One frame is
    drawn per agent step, after the repeated action; at a reset the first one is repeated. Everything else is as in
    :class:`DMControlEnv`.

    Drawing takes nearly all of the time of a step where there is no GPU. ``fast_rendering`` leaves out shadows and
    multisampling, five to ten times as fast in software. It is a deviation from published results: images lack shadows,
    edges are jagged.

    :param domain: Name of the domain, e.g. ``"quadruped"``
    :param task: Name of the task, e.g. ``"run"``
    :param action_repeat: Control steps per agent step, at least 1
    :param image_size: Height and width of the images, or the two of them; at most 480 x 640 in most domains
    :param frame_stack: Number of frames in an observation, at least 1
    :param camera: Number or name of the camera; by default that of DrQ-v2, 2 in ``quadruped`` and else 0
    :param fast_rendering: Whether frames are drawn without shadows and multisampling (:meth:`render` draws shadows)
    :param render_mode: ``"rgb_array"``, ``"depth_array"`` or None; for videos, observations do not need it
    :param render_kwargs: Keyword arguments of ``dm_control.mujoco.Physics.render``, for videos; by default 480 x 480 pixels of
        the same camera
    :param task_kwargs: Keyword arguments of the task
    :param environment_kwargs: Keyword arguments of ``dm_control.rl.control.Environment``
    :param visualize_reward: Whether the colours of rendered objects show the reward, in observations as well
    :raises ValueError: if an argument is invalid
    :raises ImportError: if dm_control is missing or does not fit the installed mujoco
    """

    def __init__(
        self,
        domain: str,
        task: str,
        action_repeat: int = 2,
        image_size: int | tuple[int, int] = 84,
        frame_stack: int = 3,
        camera: int | str | None = None,
        fast_rendering: bool = False,
        render_mode: str | None = None,
        render_kwargs: dict[str, Any] | None = None,
        task_kwargs: dict[str, Any] | None = None,
        environment_kwargs: dict[str, Any] | None = None,
        visualize_reward: bool = False,
    ) -> None:
        self._shape, self._stack = image_shape(image_size), FrameStack(frame_stack)
        self.frame_stack = int(frame_stack)
        self._camera_name = CAMERAS.get(domain, 0) if camera is None else camera
        self._fast_rendering = fast_rendering
        self._camera: TaskCamera | None = None
        picture = {**_PICTURE, "camera_id": self._camera_name, **(render_kwargs or {})}
        super().__init__(domain, task, action_repeat, render_mode, picture, task_kwargs, environment_kwargs, visualize_reward)
        EzPickle.__init__(
            self,
            domain,
            task,
            action_repeat,
            image_size,
            frame_stack,
            camera,
            fast_rendering,
            render_mode,
            render_kwargs,
            task_kwargs,
            environment_kwargs,
            visualize_reward,
        )
        self.observation_space = gym.spaces.Box(0, 255, (3 * frame_stack, *self._shape), np.uint8)
        check_camera(self.physics, self._shape, self._camera_name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Starts the random stream anew; None continues it
        :param options: Not used
        :return: The first frame, repeated, uint8 of shape (3 * frame_stack, height, width), and an empty dict
        :raises NoRendererError: If there is nothing to draw with; the message names the remedy
        """
        _, info = super().reset(seed=seed, options=options)
        return self._stack.start(self._frame()), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Repeat an action.

        :param action: Shape (action size,), in [-1, 1]
        :return: The last frames, uint8 of shape (3 * frame_stack, height, width), and what :class:`DMControlEnv` returns
        :raises gymnasium.error.ResetNeeded: If no episode is running
        """
        _, reward, terminated, truncated, info = super().step(action)
        return self._stack.append(self._frame()), reward, terminated, truncated, info

    def _frame(self) -> np.ndarray:
        if self._camera is None:
            self._camera = TaskCamera(self.physics, self._shape, self._camera_name, shadows=not self._fast_rendering)
        return self._camera.frame()

    def _load(self) -> Any:
        env = super()._load()
        if self._fast_rendering:
            skip_multisampling(env.physics)
        return env

    def _free(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        super()._free()
