"""Stream AC(lambda)."""

import importlib.util
import io
import math
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.arguments import check_choice, check_number
from sb3_sparse.algorithms.known_algorithms import KnownAlgorithm
from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.arguments import check_action_bounds
from sb3_sparse.installation import install_command
from sb3_sparse.diagnostics import dormant_ratio
from sb3_sparse.stream_ac.acting_network import StreamMean
from sb3_sparse.stream_ac.environment import Transition, stepper, with_stream_wrapper
from sb3_sparse.stream_ac.learner import Learner
from sb3_sparse.stream_ac.obgd import OPTIMIZERS
from sb3_sparse.stream_ac.policies import StreamACPolicy
from sb3_sparse.stream_ac.stream_wrapper import RewardScaling
from sb3_sparse.stream_ac.torch_learner import TorchLearner

SelfStreamAC = TypeVar("SelfStreamAC", bound="StreamAC")

BACKENDS = ("auto", "numba", "torch")
# Observations in which dormant units are looked for.
MEASURED = 256


class StreamAC(BaseAlgorithm, OwnAlgorithm):
    """
    Stream AC(lambda) (Elsayed et al., 2024, "Streaming deep reinforcement learning finally works"): one environment, one
    sample, one update, no buffer; with networks that can be wide and statically sparse (Ma et al., ICML 2025, section 5).

    Arithmetic and defaults are those of the authors' code (https://github.com/mohmdelsayed/streaming-drl), including:

    - Truncation counts as termination: no bootstrapping, traces are zeroed. The time feature that
      :class:`~sb3_sparse.stream_ac.StreamWrapper` appends makes the end foreseeable. ``bootstrap_truncated=True`` bootstraps.
    - The running sum behind the reward scaling leaks from one episode into the next
      (``StreamWrapper(env, reset_reward_trace=True)`` mends it), and the first two observations of an episode have the same
      time.
    - Observations are normalised with statistics that include them, each when it comes in, and never again: the update for
      s, a, s' uses s as it was normalised when it was s'. Statistics move with observations of steps and resets, never in
      ``predict``.
    - The sign of the TD error in the entropy bonus is the one of the step at which the bonus enters the trace.

    Different are the random numbers (actions are drawn from a numpy generator of the model's own, so that both back ends draw
    the same), and that environments without a time limit have no time feature.

    With ``learn(..., reset_num_timesteps=False)`` a loaded model goes on in the middle of the episode it was saved in, bit for
    bit, by replaying that episode's actions; where that does not lead to the observation it was saved at (an environment with
    randomness outside of ``np_random``), it says so and begins a new one.

    :param policy: "MlpPolicy" or a policy class
    :param env: Environment (one), or its id; see :class:`~sb3_sparse.stream_ac.StreamWrapper`, which it is wrapped in
    :param learning_rate: Largest step size of both networks, a float or a schedule
    :param gamma: Discount factor
    :param trace_lambda: Decay of the eligibility traces beyond the discount
    :param kappa_actor: Bound of the actor's step; larger is more careful
    :param kappa_critic: Bound of the critic's step
    :param ent_coef: Weight of the entropy bonus
    :param optimizer: "obgd" or "adaptive_obgd" (see :mod:`sb3_sparse.stream_ac.obgd`)
    :param bootstrap_truncated: Whether the value of the last observation of a truncated episode counts
    :param backend: "numba" (CPU; an update touches active weights only), "torch" (any device), or "auto": numba where it is
        installed and the device is the CPU
    :param stats_window_size: Number of episodes that the logged return is averaged over
    :param tensorboard_log: Folder of the TensorBoard log, None for none
    :param policy_kwargs: Keyword arguments of :class:`~sb3_sparse.stream_ac.StreamACPolicy`: width, init, sparsity, ...
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: Seed of everything
    :param device: Device; "auto" is the CPU, as a single sample is too little work for a GPU
    :param _init_setup_model: Whether to build the networks
    :raises ValueError: for a hyperparameter out of its range, several environments, images, VecNormalize.
    :raises ImportError: if ``backend="numba"`` and numba is missing.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": StreamACPolicy}
    known_as = KnownAlgorithm("StreamAC", StreamACPolicy, StreamMean, "stream_ac", label="Stream AC")
    is_streaming = True
    policy: StreamACPolicy
    _last_obs: np.ndarray | None

    def __init__(
        self,
        policy: str | type[StreamACPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1.0,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        kappa_actor: float = 3.0,
        kappa_critic: float = 2.0,
        ent_coef: float = 0.01,
        optimizer: str = "obgd",
        bootstrap_truncated: bool = False,
        backend: str = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu" if device == "auto" else device,
            seed=seed,
            supported_action_spaces=(spaces.Box, spaces.Discrete),
        )
        self.gamma, self.trace_lambda = gamma, trace_lambda
        self.kappa_actor, self.kappa_critic, self.ent_coef = kappa_actor, kappa_critic, ent_coef
        self.optimizer, self.bootstrap_truncated, self.backend = optimizer, bootstrap_truncated, backend
        # Draws actions.
        self._rng: np.random.Generator | None = None
        self.time_feature = True
        # Normalised _last_obs, None before the first step.
        self._features: np.ndarray | None = None
        self._recent: np.ndarray | None = None
        # Whether a step was begun and not finished, by an error or an interrupt.
        self._in_step = False
        # What the environment knows, of a loaded model that has not learned since.
        self._env_state: dict[str, Any] | None = None
        self._learner: Learner | None = None
        # Called after each step, when everything that belongs to it is done.
        self.between_steps: Callable[[], None] | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_action_bounds(self.action_space, are_scaled=False)
        self._check_options()
        self._setup_lr_schedule()
        rng = self._rng
        self.set_random_seed(self.seed)
        # Of a loaded model, the generator goes on where it was. Without a seed, what seeds NumPy makes runs reproduce.
        self._rng = rng or self._rng or np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))
        if self.env is not None:
            self.time_feature = self.env.get_attr("has_time_feature")[0]
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            time_feature=self.time_feature,
            optimizer=self.optimizer,
            **self.policy_kwargs,
        ).to(self.device)
        self._learner = None

    def _check_options(self) -> None:
        for name in ("gamma", "trace_lambda"):
            check_number(name, getattr(self, name), 1.0)
        for name in ("kappa_actor", "kappa_critic"):
            check_number(name, getattr(self, name), is_positive=True)
        check_number("ent_coef", self.ent_coef)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("backend", self.backend, BACKENDS)
        if not issubclass(self.policy_class, StreamACPolicy):
            raise ValueError(f'StreamAC has a policy of its own, got {self.policy_class.__name__}: give "MlpPolicy".')
        for name, place in {"optimizer": "StreamAC", "time_feature": "StreamWrapper"}.items():
            if name in self.policy_kwargs:
                raise ValueError(f"{name} is an argument of {place}, not of the policy: take it out of policy_kwargs.")
        if self._chosen_backend() == "numba" and self.device.type != "cpu":
            raise ValueError(f"backend='numba' runs on the CPU, not on {self.device}: give device='cpu' or backend='torch'.")

    def _chosen_backend(self) -> str:
        installed = importlib.util.find_spec("numba") is not None
        if self.backend == "numba" and not installed:
            raise ImportError(f"backend='numba' needs numba, run: {install_command('streaming')}, or give backend='torch'.")
        if self.backend == "auto":
            return "numba" if installed and self.device.type == "cpu" else "torch"
        return self.backend

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return BaseAlgorithm._wrap_env(with_stream_wrapper(env), verbose, monitor_wrapper)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything random, the generator that draws actions included.

        :param seed: Seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Change the environment. Statistics of the rewards go over to it; a new episode begins, except when a loaded model gets
        its first environment.

        :param env: Environment (one)
        :param force_reset: As in SB3
        """
        if self.env is not None:
            state = self._env_state or self.env.env_method("training_state")[0]
            self._env_state = {**state, "episode": None}
        super().set_env(env, force_reset)

    @property
    def reward_scaling(self) -> RewardScaling | None:
        """Statistics that rewards are scaled by; None without an environment. Setting them ends the episode."""
        if self._env_state is None and self.env is None:
            return None
        state = self._env_state or self.env.env_method("training_state")[0]  # type: ignore[union-attr]
        return state["reward_scaling"]

    @reward_scaling.setter
    def reward_scaling(self, scaling: RewardScaling) -> None:
        self._env_state = {"reward_scaling": scaling, "episode": None}

    def recapture(self) -> None:
        """Take note of parameters, masks or traces that were replaced, rather than written in place, since learning began."""
        if self._learner is not None:
            self._learner.bind()

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """See :class:`~stable_baselines3.common.base_class.BaseAlgorithm`."""
        super().set_parameters(*args, **kwargs)
        self.recapture()

    def learn(
        self: SelfStreamAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str = "StreamAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfStreamAC:
        """
        Learn. Callbacks are called after each update.

        :param total_timesteps: Number of environment steps, and updates
        :param callback: Called at every step
        :param log_interval: Number of episodes between two lines of the log, None for none
        :param tb_log_name: Name of the run in the TensorBoard log
        :param reset_num_timesteps: Whether to count steps anew, and begin a new episode
        :param progress_bar: Whether to show a progress bar
        :return: The model
        :raises ValueError: if the environment returns something that is not finite. Nothing has learned from it then.
        :raises FloatingPointError: if an update is not finite. The networks have not changed then.
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        try:
            callback.on_training_start(locals(), globals())
            self._run(total_timesteps, callback, log_interval)
        finally:
            self.env.env_method("stop_training")
        callback.on_training_end()
        return self

    def _run(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None) -> None:
        """The loop, which is most of the time once the update is fast: attributes are looked up once, not in every step."""
        learner, rng = self._learner, self._rng
        assert learner is not None and rng is not None and self.env is not None and self._features is not None
        step_environment = stepper(self.env).step
        draw, to_environment = self._noise_source(rng), self._action_converter()
        schedule = self.lr_schedule if callable(self.learning_rate) else None
        is_watched = _reads_locals(callback)
        features, recent = self._features, self._recent_observations()
        callback.on_rollout_start()
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            if schedule is not None:
                learner.set_learning_rate(schedule(self._current_progress_remaining))
            self._in_step = True
            action = learner.act(features, draw())
            transition = step_environment(to_environment(action))
            observation, start, _, scaled_reward, terminated, truncated, info = transition
            if not math.isfinite(scaled_reward):
                self._refuse_reward(scaled_reward)
            next_features = learner.observe(observation)
            done = start is not None
            bootstrap = not terminated and (not truncated or self.bootstrap_truncated)
            learner.learn(features, action, scaled_reward, next_features, bootstrap, done)
            if start is not None:
                observation, next_features = start, learner.observe(start)
                self._episode_num += 1
                self._update_info_buffer([info], np.ones(1, dtype=bool))
            self._features = features = next_features
            recent[self.num_timesteps % MEASURED] = observation
            self._last_obs = observation[None]
            self.num_timesteps += 1
            self._n_updates += 1
            self._in_step = False
            if is_watched:
                callback.update_locals(self._locals(action, transition))
            if not callback.on_step():
                break
            if done:
                callback.on_rollout_end()
                if log_interval is not None and self._episode_num % log_interval == 0:
                    self.dump_logs()
                callback.on_rollout_start()
            if self.between_steps is not None:
                self.between_steps()
            # A callback may have changed the environment's or the model's state.
            features = self._features

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError("The model has no environment to learn from: give one to load(path, env=env), or set_env(env).")
        learner = self._make_learner()
        continues = self._resume_episode(reset_num_timesteps)
        if not continues:
            self._last_obs = None
        total_timesteps, callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if not continues:
            assert self._last_obs is not None
            learner.reset_traces()
            self._features, self._in_step = learner.observe(self._last_obs[0]), False
        self._learner = learner
        return total_timesteps, callback

    def _resume_episode(self, reset_num_timesteps: bool) -> bool:
        """Tell the environment that training begins; if it shall go on in its episode, see that this is where it is."""
        assert self.env is not None
        is_loaded = self._env_state is not None
        if is_loaded:
            self.env.env_method("set_training_state", self._env_state)
            self._env_state = None
        is_there = self.env.env_method("start_training", self.gamma)[0]
        if reset_num_timesteps or self._features is None or self._in_step:
            return False
        if is_there and self._last_obs is not None:
            return True
        observation = self.env.env_method("replay")[0]
        if observation is None:
            if is_loaded and self.env.env_method("training_state")[0]["episode"] is None:
                return False
            warnings.warn(
                "The episode that training was in cannot be continued in this environment: replaying its actions does not "
                "lead to the same observation, or takes too long. A new episode begins; all else goes on as it was.",
                stacklevel=4,
            )
            return False
        self._last_obs = observation[None]
        self.env._reset_seeds()
        return True

    def _make_learner(self) -> Learner:
        self._check_options()
        shared = {
            "lr": self.lr_schedule(self._current_progress_remaining),
            "gamma": self.gamma,
            "trace_lambda": self.trace_lambda,
        }
        self.policy.actor.optimizer.param_groups[0].update(**shared, kappa=self.kappa_actor)
        self.policy.critic.optimizer.param_groups[0].update(**shared, kappa=self.kappa_critic)
        if self._chosen_backend() == "torch":
            if self.backend == "auto" and self.device.type == "cpu":
                warnings.warn(
                    "numba is not installed, so StreamAC learns in torch, at less than a twentieth of the speed. Run: "
                    f"{install_command('streaming')}, or give backend='torch' to keep it.",
                    stacklevel=5,
                )
            return TorchLearner(self.policy, self.gamma, self.ent_coef)
        from sb3_sparse.stream_ac.numba_learner import NumbaLearner  # needs numba, and takes seconds without a cache

        return NumbaLearner(self.policy, self.gamma, self.ent_coef)

    def _noise_source(self, rng: np.random.Generator) -> Any:
        if isinstance(self.action_space, spaces.Discrete):
            return lambda: rng.random(1, dtype=np.float32)
        size = int(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        return lambda: rng.standard_normal(size, dtype=np.float32)

    def _action_converter(self) -> Any:
        """What makes of the policy's action the one that the environment gets: clipped, of its shape; or a number."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return lambda action: int(action[0])
        assert isinstance(space, spaces.Box)
        low, high, shape = space.low.reshape(-1), space.high.reshape(-1), space.shape
        if len(shape) == 1:
            return lambda action: np.minimum(np.maximum(action, low), high)
        return lambda action: np.minimum(np.maximum(action, low), high).reshape(shape)

    def _locals(self, action: np.ndarray, transition: Transition) -> dict[str, Any]:
        """What callbacks find in the local variables of SB3's own algorithms."""
        space = self.action_space
        # Learners count actions in floats.
        actions = action.astype(space.dtype) if isinstance(space, spaces.Discrete) else action
        return {
            "actions": actions.reshape(1, *space.shape),  # type: ignore[misc]
            "new_obs": self._last_obs,
            "rewards": np.array([transition.reward], dtype=np.float32),
            "dones": np.array([transition.start is not None]),
            "infos": [transition.info],
        }

    def _refuse_reward(self, reward: float) -> None:
        raise ValueError(
            f"The environment returned a reward of {reward} at step {self.num_timesteps + 1}. Neither statistics nor networks "
            "have seen it; the model can be saved."
        )

    def dump_logs(self) -> None:
        """Write one line of the log; what is logged is explained in the manual, guides/metrics."""
        assert self.ep_info_buffer is not None and self.ep_success_buffer is not None
        if len(self.ep_info_buffer) > 0:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if len(self.ep_success_buffer) > 0:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self._log_training()
        self.logger.dump(step=self.num_timesteps)

    def take_training_means(self) -> dict[str, float]:
        """
        What the updates were like since this was last asked for, or logged: means of the absolute TD error, the entropy, and
        the step size and trace norm (L1) of actor and critic.

        :return: Name -> mean, empty if there were no updates
        """
        return {} if self._learner is None else self._learner.means.take()

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint of a run in progress has beside attributes: means of updates that are still to be logged."""
        assert self._learner is not None, "a model that learns has a learner"
        return {"means": (self._learner.means.sums.copy(), self._learner.means.count)}

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        assert self._learner is not None, "a model that learns has a learner"
        self._learner.means.sums[:], self._learner.means.count = state["means"]

    def _log_training(self) -> None:
        for name, mean in self.take_training_means().items():
            self.logger.record(f"train/{name}", mean)
        for name, network in (("actor", self.policy.actor), ("critic", self.policy.critic)):
            square = sum(float(parameter.detach().square().sum()) for parameter in network.parameters())
            self.logger.record(f"train/{name}_parameter_norm", math.sqrt(square))
        self._log_dormant_units()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _recent_observations(self) -> np.ndarray:
        """(MEASURED, *shape) the last observations, where dormant units are looked for."""
        if self._recent is None:
            space = self.observation_space
            self._recent = np.zeros((MEASURED, *space.shape), space.dtype)  # type: ignore[misc]
        return self._recent

    @th.no_grad()
    def _log_dormant_units(self) -> None:
        recent = self._recent_observations()[: min(self.num_timesteps, MEASURED)]
        if len(recent) > 0:
            observations = th.as_tensor(recent, device=self.device)
            for name, activations in self.policy.hidden_activations(observations).items():
                self.logger.record(f"plasticity/{name}/dormant_0.1", dormant_ratio(activations, tau=0.1))

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model with all that a resumed run needs: networks, traces, statistics, counters, random streams, and the
        episode. A file is replaced as a whole, never left half-written.

        :param path: File, to which ".zip" is added if it has no ending, or a file-like object
        :param exclude: As in SB3
        :param include: As in SB3
        """
        is_pending = self._env_state is not None
        if not is_pending and self.env is not None:
            self._env_state = self.env.env_method("training_state")[0]
        try:
            if isinstance(path, str | pathlib.Path):
                self._save_file(pathlib.Path(path), exclude, include)
            else:
                super().save(path, exclude, include)
        finally:
            if not is_pending:
                self._env_state = None

    def _save_file(self, path: pathlib.Path, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
        # Ending and folder as SB3 makes them.
        target = path if path.suffix else path.with_name(f"{path.name}.zip")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as stream:
            super().save(stream, exclude, include)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)

    @classmethod
    def load(cls: type[SelfStreamAC], path: Any, env: GymEnv | None = None, *args: Any, **kwargs: Any) -> SelfStreamAC:  # type: ignore[override]
        """
        Load a model, see :meth:`~stable_baselines3.common.base_class.BaseAlgorithm.load`. With
        ``learn(..., reset_num_timesteps=False)`` it continues the run, and the episode, that it was saved in.

        :param path: File or file-like object
        :param env: Environment to go on in
        :param args: As in SB3
        :param kwargs: As in SB3; attributes to change, e.g. ``backend``. A ``seed`` starts all random streams anew
        """
        model = super().load(path, env, *args, **kwargs)
        if kwargs.get("seed") is not None:
            model.set_random_seed(kwargs["seed"])
        return model

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learner", "between_steps"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.actor.optimizer", "policy.critic.optimizer"], []


def _reads_locals(callback: BaseCallback) -> bool:
    """Whether a callback is to be told of each step's variables, which takes a tenth of a step's time."""
    if isinstance(callback, CallbackList):
        return any(map(_reads_locals, callback.callbacks))
    if isinstance(callback, ConvertCallback) and callback.callback is None:
        return False
    return getattr(callback, "reads_locals", True)
