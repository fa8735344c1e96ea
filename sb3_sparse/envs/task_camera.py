"""Images of a dm_control task, one after the other."""

from typing import Any

import numpy as np

from sb3_sparse.envs.dependencies import check_renderer

#: Cameras that show the whole task; the first one does in all other domains [DrQ-v2's code].
CAMERAS = {"quadruped": 2}


class TaskCamera:
    """
    A camera of a simulation. It keeps its scene, which ``Physics.render`` makes anew for every image, in a millisecond.

    :param physics: dm_control's simulation
    :param shape: Height and width of the images
    :param camera: Number or name of a camera of the model; -1 is the free one
    :param shadows: Whether shadows are drawn
    :raises NoRendererError: if there is nothing to draw with.
    """

    def __init__(self, physics: Any, shape: tuple[int, int], camera: int | str, shadows: bool = True):
        from dm_control.mujoco import Camera

        check_renderer()
        self._camera = Camera(physics, *shape, camera_id=camera)
        self._flags = None if shadows else {"shadow": False}

    def frame(self) -> np.ndarray:
        """
        Draw the present state.

        :return: (3, height, width), uint8
        """
        return np.ascontiguousarray(self._camera.render(render_flag_overrides=self._flags).transpose(2, 0, 1))

    def close(self) -> None:
        """Free the scene."""
        self._camera._scene.free()


def check_camera(physics: Any, shape: tuple[int, int], camera: int | str) -> None:
    """
    Refuse what cannot be drawn, without drawing.

    :param physics: dm_control's simulation
    :param shape: Height and width of the images
    :param camera: Number or name of a camera
    :raises ValueError: if there is no such camera, or the images are larger than the model allows.
    """
    _check_name(physics, camera)
    _check_size(physics, shape)


def skip_multisampling(physics: Any) -> None:
    """
    Have images drawn with one sample per pixel. Takes effect only before the first one.

    :param physics: dm_control's simulation
    """
    physics.model.vis.quality.offsamples = 0


def _check_name(physics: Any, camera: int | str) -> None:
    names = [physics.model.id2name(number, "camera") for number in range(physics.model.ncam)]
    is_number = isinstance(camera, (int, np.integer)) and not isinstance(camera, bool) and -1 <= camera < len(names)
    if not is_number and (not isinstance(camera, str) or camera not in names):
        listing = ", ".join(f"{number} ({name})" if name else str(number) for number, name in enumerate(names))
        raise ValueError(f"The model has no camera {camera!r}, but -1 (free){', ' if names else ''}{listing}.")


def _check_size(physics: Any, shape: tuple[int, int]) -> None:
    largest = (physics.model.vis.global_.offheight, physics.model.vis.global_.offwidth)
    if shape[0] > largest[0] or shape[1] > largest[1]:
        raise ValueError(
            f"image_size must be at most {largest[0]} x {largest[1]} for this model, got {shape[0]} x {shape[1]}."
        )
