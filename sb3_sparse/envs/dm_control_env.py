"""Tasks of the DeepMind Control Suite with states as observations."""

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

from sb3_sparse.arguments import check_integer
from sb3_sparse.envs.dependencies import check_renderer, import_suite
from sb3_sparse.envs.suite_tasks import RANDOM_MODEL_DOMAINS, TIME_LIMITS

# dm_control reports actuators without limits as limited to +-1e10.
_UNLIMITED = 1e10
# Only the actuators of lqr are unlimited; over ten random models the optimal linear controller stays below 5.4.
_UNLIMITED_CONTROL_RANGE = 10.0


class DMControlEnv(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """
    A task of the DeepMind Control Suite (Tassa et al. 2018, https://arxiv.org/abs/1801.00690) as the algorithms want it:
    flat float32 observations, actions in [-1, 1] and repeated actions.

    - Observations are the entries of dm_control's dictionary, flattened and concatenated in the order of their sorted keys.
    - Actions in [-1, 1] are scaled linearly to the limits of the actuators, which differ from [-1, 1] in ``quadruped`` only.
      The actuators of ``lqr`` have no limits; there, [-1, 1] stands for controls in [-10, 10], which include the optimal ones.
      Actions outside [-1, 1] are clipped.
    - An agent step repeats its action for ``action_repeat`` control steps, fewer if the episode ends in between; its reward
      is the sum of theirs, each multiplied by the discounts before it, and ``info["discount"]`` the product of all discounts:
      1, and 0 where the task terminates.
    - Episodes are truncated at the task's time limit: 1000 control steps, in ``lqr`` too, which has no limit in dm_control.
    - Everything random is drawn from ``np_random``: initial states, and in ``lqr`` the model, which is drawn anew by each
      ``reset(seed=...)``. Each reset depends on the state of ``np_random.bit_generator`` alone, apart from lqr's model.

    dm_control is stepped directly instead of through Shimmy's wrapper, which takes 10 to 20 % on top of a cheap task's step,
    writes ``render_fps`` into the metadata of its class and replaces ``np_random`` by an object of another type.

    A pickled environment is made anew from its arguments; its state is not part of the pickle.

    :param domain: Name of the domain, e.g. ``"humanoid"``
    :param task: Name of the task, e.g. ``"run"``
    :param action_repeat: Control steps per agent step, at least 1; 2 is the usual choice for state observations
    :param render_mode: ``"rgb_array"``, ``"depth_array"`` (distances in metres) or None. On a machine without a display,
        images are made with EGL or OSMesa; the environment variable ``MUJOCO_GL`` chooses one
    :param render_kwargs: Keyword arguments of ``dm_control.mujoco.Physics.render``, e.g. ``width``, ``height``, ``camera_id``
    :param task_kwargs: Keyword arguments of the task, e.g. ``time_limit`` in seconds
    :param environment_kwargs: Keyword arguments of ``dm_control.rl.control.Environment``
    :param visualize_reward: Whether the colours of rendered objects show the reward
    :raises ValueError: If an argument is invalid
    :raises ImportError: If dm_control is missing or does not fit the installed mujoco
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "depth_array"]}  # type: ignore[misc]

    def __init__(
        self,
        domain: str,
        task: str,
        action_repeat: int = 2,
        render_mode: str | None = None,
        render_kwargs: dict[str, Any] | None = None,
        task_kwargs: dict[str, Any] | None = None,
        environment_kwargs: dict[str, Any] | None = None,
        visualize_reward: bool = False,
    ) -> None:
        EzPickle.__init__(
            self, domain, task, action_repeat, render_mode, render_kwargs, task_kwargs, environment_kwargs, visualize_reward
        )
        _check_arguments(render_mode, self.metadata["render_modes"], task_kwargs)
        self.domain, self.task = domain, task
        self.action_repeat = check_integer("action_repeat", action_repeat)
        self.render_mode = render_mode
        self._render_kwargs = dict(render_kwargs or {})
        self._task_kwargs = {**({"time_limit": TIME_LIMITS[domain]} if domain in TIME_LIMITS else {}), **(task_kwargs or {})}
        self._environment_kwargs = environment_kwargs
        self._visualize_reward = visualize_reward
        self._suite = import_suite()
        self._env: Any = self._load()
        self._needs_reset = True
        self._set_spaces()
        # An entry of the instance's own: environments of one class differ in their frame rate.
        self.metadata = {**self.metadata, "render_fps": 1 / (self._env.control_timestep() * self.action_repeat)}  # type: ignore[misc]

    @property
    def max_episode_steps(self) -> int | None:
        """
        Agent steps until the task's time limit truncates an episode, None without a limit. The spec does not have it: what
        stands there becomes a ``TimeLimit`` of the environments made from it, whatever their action repeat.
        """
        limit = self._env._step_limit
        return None if math.isinf(limit) else math.ceil(math.ceil(limit) / self.action_repeat)

    @property
    def physics(self) -> Any:
        """dm_control's ``Physics``: the simulation with its model and data. Another object after ``lqr`` was seeded."""
        return self._env.physics

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: Starts the random stream anew; None continues it
        :param options: Not used
        :return: First observation, float32 of shape (observation size,), and an empty dict
        """
        super().reset(seed=seed)
        if seed is not None and self.domain in RANDOM_MODEL_DOMAINS:
            self._free()
            self._env = self._load()
        # Renewed at each reset, because a RandomState buffers draws of its own and np_random can be replaced.
        self._env.task._random = self._random_state()
        self._needs_reset = False
        return _flatten(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Repeat an action.

        :param action: Shape (action size,), in [-1, 1]
        :return: Observation after the last control step, float32 of shape (observation size,); sum of the rewards; whether
            the task terminated; whether its time limit truncated it; ``{"discount": product of the discounts}``
        :raises gymnasium.error.ResetNeeded: If no episode is running
        """
        if self._needs_reset:
            raise gym.error.ResetNeeded("The episode has ended or not begun: call reset() before step().")
        # float64, as dm_control computes; rounded float32 limits could lie outside the actuators' own.
        control = np.minimum(np.maximum(self._center + self._half_range * action, self._low), self._high)
        reward, discount = 0.0, 1.0
        for _ in range(self.action_repeat):
            timestep = self._env.step(control)
            reward += discount * timestep.reward
            discount *= timestep.discount
            if timestep.last():
                self._needs_reset = True
                break
        terminated = self._needs_reset and timestep.discount == 0.0
        truncated = self._needs_reset and not terminated
        return _flatten(timestep.observation), float(reward), terminated, truncated, {"discount": float(discount)}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """
        Draw the current state.

        :return: Image, uint8 of shape (height, width, 3) for ``"rgb_array"``, float32 of shape (height, width) for
            ``"depth_array"``; None without a render mode
        :raises NoRendererError: If there is nothing to draw with
        """
        if self.render_mode is None:
            return None
        check_renderer()
        return self._env.physics.render(depth=self.render_mode == "depth_array", **self._render_kwargs)

    def close(self) -> None:
        """Free the simulation and its rendering contexts. May be called more than once."""
        self._free()
        self._needs_reset = True

    def _free(self) -> None:
        self._env.close()
        self._env.physics.free()

    def _load(self) -> Any:
        return self._suite.load(
            self.domain,
            self.task,
            task_kwargs={**self._task_kwargs, "random": self._random_state()},
            environment_kwargs=self._environment_kwargs,
            visualize_reward=self._visualize_reward,
        )

    def _random_state(self) -> np.random.RandomState:
        # dm_control draws through numpy's older interface; the stream below it is np_random's.
        return np.random.RandomState(self.np_random.bit_generator)

    def _set_spaces(self) -> None:
        size = sum(math.prod(entry.shape) for entry in self._env.observation_spec().values())
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        spec = self._env.action_spec()
        self.action_space = gym.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self._low = np.where(spec.minimum <= -_UNLIMITED, -_UNLIMITED_CONTROL_RANGE, spec.minimum)
        self._high = np.where(spec.maximum >= _UNLIMITED, _UNLIMITED_CONTROL_RANGE, spec.maximum)
        self._center, self._half_range = (self._low + self._high) / 2, (self._high - self._low) / 2


def _check_arguments(render_mode: str | None, render_modes: list[str], task_kwargs: dict[str, Any] | None) -> None:
    if render_mode is not None and render_mode not in render_modes:
        raise ValueError(f"render_mode must be None or one of {render_modes}, got {render_mode!r}.")
    if "random" in (task_kwargs or {}):
        raise ValueError("task_kwargs must not contain 'random': seed the environment with reset(seed=...).")


def _flatten(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(observation[key]) for key in sorted(observation)], dtype=np.float32)
