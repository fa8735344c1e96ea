"""Base of the algorithms with a compiled update: one gradient step after another, without waiting for the device."""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.arguments import check_action_bounds, check_choice, refuse_vector_env
from sb3_sparse.common.initial_statistics import start_statistics
from sb3_sparse.buffers.loaded_buffer import check_loaded_buffer
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.sparsity import SparseLayer
from sb3_sparse.training.batches import Samples, StaticSamples, generators_on_device, sampling
from sb3_sparse.training.divergence import broken_losses, divergence
from sb3_sparse.training.gradient_means import GradientMeans
from sb3_sparse.training.held_objects import all_optimizers
from sb3_sparse.training.live_optimizers import obstacle_to_capture
from sb3_sparse.training.program_cache import ProgramCache
from sb3_sparse.training.programs import EagerProgram, GraphProgram
from sb3_sparse.training.torch_settings import MATMUL_PRECISIONS, matmul_precision, without_validation
from sb3_sparse.training.warn_once import WarnOnce
from sb3_sparse.training.weight_updates import WeightUpdates

# Graphs that are captured over and over are slower than no graphs.
_MANY_CAPTURES = 20
_NOT_SAVED = ("_programs", "_weights", "_former_gradients", "_captures", "_warn_once", "gradient_means")


class CompiledTraining(OffPolicyAlgorithm, OwnAlgorithm):
    """
    Mixin for off-policy algorithms: ``train()`` runs the subclass's :meth:`gradient_step` as fast as the device allows.

    On a GPU each gradient step is one CUDA graph, its batch drawn from a replay buffer that lies there as well; on a CPU it
    runs operation by operation. On both, gradients are computed only where they are used, the matrices of sparse layers are
    kept instead of built anew in every forward pass, and losses are fetched once per ``train()``.

    Before the first gradient step, running observation statistics take in what the replay buffer holds then, as the paper's
    code takes in its warm-up; in SB3's own classes that step sees raw observations.

    :param args: Positional arguments of the SB3 algorithm
    :param matmul_precision: Precision of matrix products in updates, "highest", "high" (TF32 on a GPU) or "medium", see
        ``torch.set_float32_matmul_precision``; what torch is set to if None
    :param replay_buffer_device: "auto" for the model's device where that is possible, "cpu" for the host's memory
    :param kwargs: Keyword arguments of the SB3 algorithm
    :raises ValueError: for an unknown precision or buffer device.
    """

    networks_with_gradients: ClassVar[tuple[str, ...]] = ("actor", "critic")
    # Told the gradients of every update, if there is one.
    gradient_means: GradientMeans | None = None
    actor: Any
    critic: Any
    tau: float
    _programs: ProgramCache
    _weights: WeightUpdates

    def __init__(
        self, *args: Any, matmul_precision: str | None = None, replay_buffer_device: str = "auto", **kwargs: Any
    ) -> None:
        self.matmul_precision = check_choice("matmul_precision", matmul_precision, (None, *MATMUL_PRECISIONS))
        self.replay_buffer_device = check_choice("replay_buffer_device", replay_buffer_device, ("auto", "cpu"))
        self._warn_once = WarnOnce()
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        note_preprocessing(self)
        check_action_bounds(self.action_space)
        self._build()
        self.recapture()
        self._warn_without_tf32()

    def _build(self) -> None:
        super()._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        refuse_vector_env(env)
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def load_replay_buffer(self, *args: Any, **kwargs: Any) -> None:
        """
        Load a replay buffer, see :class:`~stable_baselines3.common.off_policy_algorithm.OffPolicyAlgorithm`.

        :raises ValueError: if it does not fit the model, which has not changed then.
        """
        former = self.replay_buffer
        try:
            super().load_replay_buffer(*args, **kwargs)
            assert self.replay_buffer is not None
            self._check_loaded_buffer(self.replay_buffer)
        except BaseException:
            self.replay_buffer = former
            raise

    def _check_loaded_buffer(self, buffer: ReplayBuffer) -> None:
        check_loaded_buffer(self, buffer)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        note_preprocessing(self, again=True)
        return super()._setup_learn(*args, **kwargs)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything random, batches that are drawn on a GPU included.

        :param seed: Seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None and isinstance(self.replay_buffer, DeviceReplayBuffer | FrameReplayBuffer):
            self.replay_buffer.seed(seed)

    def _warn_without_tf32(self) -> None:
        if self.matmul_precision in ("high", "medium") and self.device.type == "cuda":
            if th.cuda.get_device_capability(self.device) < (8, 0):
                name = th.cuda.get_device_name(self.device)
                self._warn_once(f"{name} has no TF32: matmul_precision={self.matmul_precision!r} has no effect.")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def __getstate__(self) -> dict[str, Any]:
        # Graphs can neither be copied nor pickled, and what they read belongs to this model.
        return {key: value for key, value in self.__dict__.items() if key not in _NOT_SAVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _warn_once=WarnOnce())
        self.recapture()

    def recapture(self) -> None:
        """
        Forget captured updates; the next ``train()`` makes new ones. That modules, parameters, buffers, optimizer states or
        hyperparameters were replaced and topologies moved is noticed without it. Call it after other changes of what an update
        computes, such as an attribute of a module, a hook, or torch's own settings.
        """
        self._programs, self._weights = ProgramCache(self), WeightUpdates(self, self._warn_once)
        self._former_gradients: dict[str, dict[str, th.Tensor]] = {}
        self._captures = 0

    def gradients(self, name: str) -> dict[str, th.Tensor]:
        """
        Read the gradients of the network's last update: those of its own loss, and nothing of another's.

        :param name: "actor" or "critic"
        :return: Parameter name -> gradient; empty before the first update
        """
        found = self._programs.gradients()
        own = {key: found[parameter] for key, parameter in getattr(self, name).named_parameters() if parameter in found}
        return own or self._former_gradients.get(name, {})

    def restore_gradients(self, gradients: dict[str, dict[str, th.Tensor]]) -> None:
        """
        Say what the gradients of the last update were, of a run that goes on; the next update makes new ones.

        :param gradients: Network -> what :meth:`gradients` returned for it
        """
        self._former_gradients = gradients

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update the networks.

        :param gradient_steps: Number of updates
        :param batch_size: Number of transitions in each batch
        :raises DivergenceError: if a loss is not finite, noticed after the last step: nothing waits for the GPU before.
        :raises torch.OutOfMemoryError: if the GPU's memory does not suffice; it says what would help.
        """
        if self._n_updates == 0 and gradient_steps > 0:
            start_statistics(self)
        self._update(gradient_steps, batch_size)

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        self.policy.set_training_mode(True)
        if not self._programs.is_valid():
            captures = self._captures
            self.recapture()
            self._captures = captures
        self._update_learning_rate(self._programs.optimizers)
        losses: list[dict[str, th.Tensor]] = []
        try:
            with matmul_precision(self.matmul_precision), without_validation():
                for step in range(gradient_steps):
                    self._n_updates += 1
                    losses.append(self._step(batch_size, self.is_full(step)))
        except th.OutOfMemoryError as error:
            raise th.OutOfMemoryError(f"{error}\n{self._memory_advice(batch_size)}") from error
        if losses:
            self._log(losses)

    def _step(self, batch_size: int, full: bool) -> dict[str, th.Tensor]:
        key = (batch_size, full, self.matmul_precision, self.update_settings())
        losses = self._programs.run(key, full, functools.partial(self._make_program, batch_size, full))
        if self.gradient_means is not None:
            self.gradient_means.add(self._programs.last.gradients())
        return losses

    def _make_program(self, batch_size: int, full: bool) -> EagerProgram:
        sample, weights = sampling(self, batch_size), self._weights
        groups = [group for optimizer in all_optimizers(self) for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"]]

        def update(samples: Samples) -> dict[str, th.Tensor]:
            with weights.dense.serving(self.policy):
                return self.gradient_step(samples, full)

        if not self._uses_graphs():
            return EagerProgram(lambda: update(sample()), parameters)
        self._count_captures()
        graph = functools.partial(GraphProgram, optimizers=self._programs.live_optimizers, device=self.device)
        generators = generators_on_device(self)
        if generators:
            return graph(lambda: update(sample()), parameters, generators=generators)
        static = StaticSamples()
        return graph(lambda: update(static.samples), parameters, feed=lambda: static.load(sample()))

    def _uses_graphs(self) -> bool:
        if not self._runs_on_gpu() or self._records_gradients():
            return False
        obstacle = self._obstacle_to_capture()
        if obstacle is not None:
            self._warn_once(f"{type(self).__name__} updates kernel by kernel, which is slower, because {obstacle}.")
        return obstacle is None

    def _runs_on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _obstacle_to_capture(self) -> str | None:
        return next(filter(None, map(obstacle_to_capture, all_optimizers(self))), None)

    def _records_gradients(self) -> bool:
        """Whether a layer collects gradients of inactive weights, which it does outside of any graph."""
        return any(isinstance(layer, SparseLayer) and layer.records_dense_gradient for layer in self.policy.modules())

    def _count_captures(self) -> None:
        self._captures += 1
        if self._captures > _MANY_CAPTURES:
            self._warn_once(
                "Updates are captured over and over, which is slow, because networks or hyperparameters other than learning "
                "rates keep changing."
            )

    def _log(self, losses: Sequence[dict[str, th.Tensor]]) -> None:
        numbers = iter(th.stack([loss for of_step in losses for loss in of_step.values()]).tolist())
        logged: dict[str, list[float]] = {}
        for of_step in losses:
            for name in of_step:
                logged.setdefault(name, []).append(next(numbers))
        if broken := broken_losses(logged):
            raise divergence(self, broken)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in logged.items():
            self.logger.record(f"train/{name}", np.mean(values))

    def _memory_advice(self, batch_size: int) -> str:
        free, total = th.cuda.mem_get_info(self.device)
        active = sum(parameter.numel() for parameter in self.policy.parameters())
        buffer = self.replay_buffer.nbytes if generators_on_device(self) else 0  # type: ignore[union-attr]
        return (
            f"The networks hold {active:,} parameters (targets included), the replay buffer {buffer / 2**30:.1f} GiB, of "
            f"{total / 2**30:.1f} GiB on the device, {free / 2**30:.1f} GiB free. What helps: replay_buffer_device='cpu' or a "
            f"smaller buffer_size ({self.buffer_size:,}), a smaller batch_size ({batch_size}), a smaller width_scale."
        )

    def gradient_step(self, samples: Samples, full: bool) -> dict[str, th.Tensor]:
        """
        Make one gradient step without waiting for the device.

        :param samples: Batch
        :param full: What :meth:`is_full` says
        :return: What is logged of it: name -> tensor with one element
        """
        raise NotImplementedError

    def update_settings(self) -> tuple[Hashable, ...]:
        """All numbers and choices that a gradient step is made with and a graph holds on to: others need another graph."""
        raise NotImplementedError

    def is_full(self, step: int) -> bool:
        """
        Tell whether a gradient step does all, or leaves out what it does at intervals only.

        :param step: Its number within ``train()``, from 0; ``_n_updates`` counts it already
        """
        return True
