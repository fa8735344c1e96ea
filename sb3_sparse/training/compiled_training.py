"""Base of the algorithms with a compiled update: one gradient step after another, without waiting for the device."""

import itertools
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_sparse.algorithms.own_algorithm import OwnAlgorithm
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer
from sb3_sparse.arguments import check_action_bounds, refuse_vector_env
from sb3_sparse.common.initial_statistics import start_statistics
from sb3_sparse.buffers.loaded_buffer import check_loaded_buffer
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.sparsity import SparseLayer, Topology
from sb3_sparse.sparsity.products.dense_weights import DenseWeights
from sb3_sparse.training.divergence import DivergenceError, broken_tensors
from sb3_sparse.training.gradient_means import GradientMeans
from sb3_sparse.training.live_optimizers import LiveOptimizers, obstacle_to_capture
from sb3_sparse.training.programs import EagerProgram, GraphProgram
from sb3_sparse.training.static_samples import Samples, StaticSamples

_NOT_SAVED = (
    "_programs",
    "_last_programs",
    "_former_gradients",
    "_kept",
    "_dense_weights",
    "_live_optimizers",
    "_captures",
    "_warned",
    "gradient_means",
)
UPDATE_RULES = ("sb3", "paper")
MATMUL_PRECISIONS = ("highest", "high", "medium")
# Graphs that are captured over and over are slower than no graphs.
_MANY_CAPTURES = 20
# Each holds memory, so those made first go: numbers that change all the time would fill the GPU.
_MOST_PROGRAMS = 8


class CompiledTraining(OffPolicyAlgorithm, OwnAlgorithm):
    """
    Mixin for SB3's off-policy algorithms: ``train()`` runs the subclass's :meth:`gradient_step` as fast as the device allows.

    On a GPU each gradient step is one CUDA graph, its batch drawn from a replay buffer that lies there as well; on a CPU it
    runs operation by operation. On both, gradients are computed only where they are used, the matrices of sparse layers are
    kept instead of built anew in every forward pass, and losses are fetched once per ``train()``.

    Before the first gradient step, running observation statistics take in what the replay buffer holds then, as the paper's
    code takes in its warm-up; in SB3's own classes that step sees raw observations.

    :param args: Positional arguments of the SB3 algorithm
    :param update_rule: "sb3" for the order and losses of SB3, "paper" for those of the paper's code
    :param matmul_precision: Precision of matrix products in updates, "highest", "high" (TF32 on a GPU) or "medium", see
        ``torch.set_float32_matmul_precision``; what torch is set to if None
    :param replay_buffer_device: "auto" for the model's device where that is possible (vectors, no ``VecNormalize``, no replay
        buffer class of one's own), "cpu" for SB3's buffer
    :param kwargs: Keyword arguments of the SB3 algorithm
    :raises ValueError: for an unknown rule, precision or buffer device.
    """

    has_paper_rule: ClassVar[bool] = True
    has_stock_update: ClassVar[bool] = True
    networks_with_gradients: ClassVar[tuple[str, ...]] = ("actor", "critic")
    # Told the gradients of every update, if there is one.
    gradient_means: GradientMeans | None = None
    actor: Any
    critic: Any
    tau: float

    def __init__(
        self,
        *args: Any,
        update_rule: str = "sb3",
        matmul_precision: str | None = None,
        replay_buffer_device: str = "auto",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        if update_rule == "paper" and not self.has_paper_rule:
            raise ValueError(f"The paper has no {type(self).__name__}, so there is no update_rule='paper': use SAC or DDPG.")
        self._set_options(update_rule, matmul_precision, replay_buffer_device)
        super().__init__(*args, _init_setup_model=False, **kwargs)  # type: ignore[call-arg]
        if _init_setup_model:
            self._setup_model()

    def _set_options(self, update_rule: str, matmul_precision: str | None, replay_buffer_device: str) -> None:
        _check_choice("update_rule", update_rule, UPDATE_RULES)
        _check_choice("matmul_precision", matmul_precision, (None, *MATMUL_PRECISIONS))
        _check_choice("replay_buffer_device", replay_buffer_device, ("auto", "cpu"))
        self.update_rule, self.matmul_precision = update_rule, matmul_precision
        self.replay_buffer_device = replay_buffer_device
        self._warned: set[str] = set()

    def _setup_model(self) -> None:
        note_preprocessing(self)
        # SB3 makes a buffer only where there is none, and notes the class it would have made, so checkpoints name its own.
        makes_buffer = self.replay_buffer is None and self._keeps_buffer_on_device()
        if makes_buffer:
            self.replay_buffer = self._device_buffer()
        check_action_bounds(self.action_space)
        super()._setup_model()
        if makes_buffer:
            assert isinstance(self.replay_buffer, DeviceReplayBuffer)
            self.replay_buffer.seed(self.seed)
        self.recapture()
        self._warn_without_tf32()

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

    def _keeps_buffer_on_device(self) -> bool:
        return (
            self.device.type == "cuda"
            and self.replay_buffer_device == "auto"
            and self.replay_buffer_class in (None, ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)
            and not self.optimize_memory_usage
            and self._vec_normalize_env is None
            and DeviceReplayBuffer.takes(self.observation_space)
        )

    def _device_buffer(self) -> DeviceReplayBuffer:
        kwargs = {"n_steps": self.n_steps, "gamma": self.gamma, **self.replay_buffer_kwargs}
        spaces = self.observation_space, self.action_space
        return DeviceReplayBuffer(self.buffer_size, *spaces, device=self.device, n_envs=self.n_envs, **kwargs)

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
        self.__dict__.update(state, _warned=set())
        self.recapture()

    def recapture(self) -> None:
        """
        Forget captured updates; the next ``train()`` makes new ones. That modules, parameters, buffers, optimizer states or
        hyperparameters were replaced and topologies moved is noticed without it. Call it after other changes of what an update
        computes, such as an attribute of a module, a hook, or torch's own settings.
        """
        self._programs: dict[Hashable, EagerProgram] = {}
        # By whether a step was full, the last one last.
        self._last_programs: dict[bool, EagerProgram] = {}
        self._former_gradients: dict[str, dict[str, th.Tensor]] = {}
        self._kept = _Kept(self)
        self._captures = 0
        self._dense_weights = DenseWeights()
        self._live_optimizers: LiveOptimizers | None = None

    def gradients(self, name: str) -> dict[str, th.Tensor]:
        """
        Read the gradients of the network's last update: those of its own loss, and nothing of another's.

        :param name: "actor" or "critic"
        :return: Parameter name -> gradient; empty before the first update
        """
        found: dict[th.Tensor, th.Tensor] = {}
        for program in self._last_programs.values():
            found.update(program.gradients())
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
        obstacle = self._obstacle()
        if obstacle is not None:
            self._fall_back(obstacle, gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        self._notice_changes()
        losses: list[dict[str, th.Tensor]] = []
        try:
            with _matmul_precision(self.matmul_precision), _without_validation():
                for step in range(gradient_steps):
                    self._n_updates += 1
                    losses.append(self._step(batch_size, self.is_full(step)))
        except th.OutOfMemoryError as error:
            raise th.OutOfMemoryError(f"{error}\n{self._memory_advice(batch_size)}") from error
        if losses:
            self._log(losses)

    def _step(self, batch_size: int, full: bool) -> dict[str, th.Tensor]:
        program = self._program(batch_size, full)
        losses = program()
        if self.gradient_means is not None:
            self.gradient_means.add(program.gradients())
        self._last_programs.pop(full, None)
        self._last_programs[full] = program
        return losses

    def _fall_back(self, obstacle: str, gradient_steps: int, batch_size: int) -> None:
        if self.update_rule == "paper":
            raise ValueError(f"update_rule='paper' needs the compiled update, but {obstacle}.")
        self._warn_once(f"{type(self).__name__} updates as Stable-Baselines3 does, at its speed, because {obstacle}.")
        super().train(gradient_steps, batch_size)

    def _obstacle(self) -> str | None:
        """Why SB3's own update has to do; without one, what cannot be captured runs kernel by kernel."""
        if not self.has_stock_update:
            return None
        if self.use_sde:
            return "gSDE (use_sde) draws new noise for every update"
        return self._obstacle_to_capture() if self._runs_on_gpu() else None

    def _program(self, batch_size: int, full: bool) -> EagerProgram:
        key = (batch_size, full, self.matmul_precision, self.update_settings())
        if key not in self._programs:
            if len(self._programs) == _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = self._make_program(batch_size, full)
        return self._programs[key]

    def _make_program(self, batch_size: int, full: bool) -> EagerProgram:
        buffer, normalizing_env = self.replay_buffer, self._vec_normalize_env
        assert buffer is not None
        groups = [group for optimizer in optimizers_of(self.policy) for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"]]

        def sample() -> Samples:
            return buffer.sample(batch_size, env=normalizing_env)

        def update(samples: Samples) -> dict[str, th.Tensor]:
            with self._dense_weights.serving(self.policy):
                return self.gradient_step(samples, full)

        if not self._uses_graphs():
            return EagerProgram(lambda: update(sample()), parameters)
        self._count_captures()
        if self._live_optimizers is None:
            self._live_optimizers = LiveOptimizers(self._optimizers(), self.device)
        generators = self._generators_on_device()
        if generators:
            return GraphProgram(
                lambda: update(sample()), parameters, self._live_optimizers, self.device, generators=generators
            )
        static = StaticSamples()
        return GraphProgram(
            lambda: update(static.samples), parameters, self._live_optimizers, self.device, feed=lambda: static.load(sample())
        )

    def _generators_on_device(self) -> list[th.Generator]:
        """What batches are drawn with if that is part of a graph; nothing if they come from the host or another device."""
        buffer = self.replay_buffer
        if self._vec_normalize_env is not None or not isinstance(buffer, DeviceReplayBuffer | FrameReplayBuffer):
            return []
        generator = buffer.generator  # None for frames in the host's memory
        return [generator] if generator is not None and generator.device == self.policy.device else []

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
        return next(filter(None, map(obstacle_to_capture, self._optimizers())), None)

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

    def _notice_changes(self) -> None:
        if not self._kept.is_valid(self):
            captures = self._captures
            self.recapture()
            self._captures = captures

    def _replaceable(self) -> list[Any]:
        """What an update reads beside the networks and must be made anew for if it is another object."""
        return [self.replay_buffer, self._vec_normalize_env, *itertools.chain.from_iterable(map(_parts, self._optimizers()))]

    def _optimizer_settings(self) -> list[Any]:
        """What optimizers read of their hyperparameters but for learning rates, which are live."""
        groups = [group for optimizer in self._optimizers() for group in optimizer.param_groups]
        return [value for group in groups for key, value in group.items() if key not in ("params", "lr")]

    def _step_optimizer(self, optimizer: th.optim.Optimizer, loss: th.Tensor, *others: th.optim.Optimizer) -> None:
        """
        Step the optimizer of a loss; and others, if the loss trains several networks. Nothing happens if all that it could
        train is frozen: critics are no part of an actor's loss here, so there may be nothing to differentiate.
        """
        optimizers = (optimizer, *others)
        if not loss.requires_grad:
            self._warn_of_frozen(optimizers)
            return
        for stepped in optimizers:
            stepped.zero_grad()
        loss.backward()
        for stepped in optimizers:
            stepped.step()
            self._dense_weights.expire(parameter for group in stepped.param_groups for parameter in group["params"])

    def _warn_of_frozen(self, optimizers: Sequence[th.optim.Optimizer]) -> None:
        owners = [(name, getattr(part, "optimizer", None)) for name, part in self.policy.named_modules()]
        names = [name or "policy" for name, owned in owners if any(owned is optimizer for optimizer in optimizers)]
        self._warn_once(
            f"{type(self).__name__} does not train {' and '.join(names) or 'the temperature'}: all parameters are frozen "
            "(requires_grad=False)."
        )

    def _average(self, network: nn.Module, target: nn.Module, tau: float) -> None:
        """Move a target network towards its online network."""
        with th.no_grad():
            th._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)
        self._dense_weights.expire(target.parameters())

    def _log(self, losses: Sequence[dict[str, th.Tensor]]) -> None:
        numbers = iter(th.stack([loss for of_step in losses for loss in of_step.values()]).tolist())
        logged: dict[str, list[float]] = {}
        for of_step in losses:
            for name in of_step:
                logged.setdefault(name, []).append(next(numbers))
        self._refuse_divergence(logged)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in logged.items():
            self.logger.record(f"train/{name}", np.mean(values))
        self._watch(logged)

    def _watch(self, logged: dict[str, list[float]]) -> None:
        """Take note of what the updates of a ``train()`` returned, after it was logged."""

    def _refuse_divergence(self, logged: dict[str, list[float]]) -> None:
        broken = [name for name, values in logged.items() if not np.isfinite(values).all()]
        if broken:
            weights = ", ".join(broken_tensors(self)) or "no weights yet, so rewards or observations may be the cause"
            raise DivergenceError(
                f"Training diverged by update {self._n_updates}: {', '.join(broken)} are not finite; nor are {weights}. "
                "Go on from the last checkpoint with a lower learning rate, or check what the environment returns "
                "(stable_baselines3's VecCheckNan)."
            )

    def _memory_advice(self, batch_size: int) -> str:
        free, total = th.cuda.mem_get_info(self.device)
        active = sum(parameter.numel() for parameter in self.policy.parameters())
        buffer = self.replay_buffer.nbytes if self._generators_on_device() else 0  # type: ignore[union-attr]
        return (
            f"The networks hold {active:,} parameters (targets included), the replay buffer {buffer / 2**30:.1f} GiB, of "
            f"{total / 2**30:.1f} GiB on the device, {free / 2**30:.1f} GiB free. What helps: replay_buffer_device='cpu' or a "
            f"smaller buffer_size ({self.buffer_size:,}), a smaller batch_size ({batch_size}), a smaller width_scale."
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=3)

    def _optimizers(self) -> list[th.optim.Optimizer]:
        """All optimizers of an update, those that SB3 sets learning rates of."""
        return optimizers_of(self.policy)

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


class _Kept:
    """
    All objects that the programs of a model hold on to. While these are the same, so is what programs read; keeping them makes
    sure that no other object takes the identity of one that is gone.
    """

    def __init__(self, model: CompiledTraining):
        modules = list(model.policy.modules())
        self._contents = [
            contents for module in modules for contents in (module._modules, module._parameters, module._buffers) if contents
        ]
        self._parameters = list(model.policy.parameters())
        self._topologies = [module for module in modules if isinstance(module, Topology)]
        self._layers = [module for module in modules if isinstance(module, SparseLayer)]
        self._objects = self._present(model)
        self._states = self._state(model)

    def is_valid(self, model: CompiledTraining) -> bool:
        present = self._present(model)
        if len(present) != len(self._objects) or self._state(model) != self._states:
            return False
        return all(a is b for a, b in zip(present, self._objects, strict=True))

    def _present(self, model: CompiledTraining) -> list[Any]:
        found = [model.policy, *model._replaceable()]
        for contents in self._contents:
            found.extend(contents.values())
        return found

    def _state(self, model: CompiledTraining) -> list[Any]:
        versions = [-1 if topology.indices.is_inference() else topology.indices._version for topology in self._topologies]
        # Moving a module to another device gives its parameters other memory, but not other objects.
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        records = [layer.records_dense_gradient for layer in self._layers]
        trained = [parameter.requires_grad for parameter in self._parameters]
        return [*versions, *addresses, *records, *trained, *model._optimizer_settings()]


def _parts(optimizer: th.optim.Optimizer) -> Iterator[Any]:
    """An optimizer, its parameters, and the tensors of its state."""
    yield optimizer
    for group in optimizer.param_groups:
        yield group
        yield from group["params"]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, th.Tensor))


def smallest(q_values: Sequence[th.Tensor]) -> th.Tensor:
    """
    Take the smallest of what several critics say.

    :param q_values: (batch, 1) of each critic
    :return: (batch, 1)
    """
    if len(q_values) == 1:
        return q_values[0]
    return th.cat(list(q_values), dim=1).min(dim=1, keepdim=True).values


def total_error(q_values: Sequence[th.Tensor], target: th.Tensor) -> th.Tensor:
    """
    Add up the mean squared errors of several critics.

    :param q_values: (batch, 1) of each critic
    :param target: (batch, 1)
    :return: Scalar
    """
    first, *others = [F.mse_loss(q, target) for q in q_values]
    return sum(others, start=first)


def copy_statistics(statistics: Sequence[th.Tensor], copies: Sequence[th.Tensor]) -> None:
    """
    Give a target network the running statistics of its online network, as SB3 does.

    :param statistics: Of the online network
    :param copies: Of the target network
    """
    for statistic, copy in zip(statistics, copies, strict=True):
        copy.copy_(statistic)


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """
    Compute no gradients of these parameters while this is open.

    :param parameters: Parameters that a loss is not for
    """
    moving = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


@contextmanager
def _matmul_precision(precision: str | None) -> Iterator[None]:
    if precision is None:  # torch has two interfaces to this, and refuses to read one after the other was written
        yield
        return
    before = th.get_float32_matmul_precision()
    th.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        th.set_float32_matmul_precision(before)


@contextmanager
def _without_validation() -> Iterator[None]:
    """torch checks the arguments of distributions on the host, for which it would have to wait for the GPU."""
    before = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(before)


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
