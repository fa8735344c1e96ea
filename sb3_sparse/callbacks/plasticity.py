"""Callback that measures the plasticity of a model's networks while it trains."""

import itertools
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sparse.algorithms.own_algorithm import TellsGradients
from sb3_sparse.arguments import check_integer
from sb3_sparse.callbacks.gradient_watch import GradientWatch, gradient_norms
from sb3_sparse.callbacks.latest_episode import LatestEpisode, known_returns, value_bias
from sb3_sparse.callbacks.measured_networks import MeasuredNetwork, measured_networks, optimizers_with, run
from sb3_sparse.callbacks.measurement_file import FILE_NAME, Measurement, MeasurementFile, run_folder
from sb3_sparse.algorithms.sampling import can_sample, private_randomness, replay_buffer_of, sample_batch
from sb3_sparse.common.environment_steps import action_repeat
from sb3_sparse.common.initial_statistics import started_statistics
from sb3_sparse.diagnostics import Recording, gradient_covariance, gradient_gram
from sb3_sparse.diagnostics.metrics import METRICS, Metric
from sb3_sparse.diagnostics.recording import evaluation_mode
from sb3_sparse.training.compiled_training import CompiledTraining
from sb3_sparse.training.gradient_means import GradientMeans
from sb3_sparse.algorithms.own_algorithm import sample_losses

DEFAULT_METRICS = tuple(name for name, metric in METRICS.items() if metric.is_default)


class PlasticityCallback(BaseCallback):
    """
    Measures plasticity while any off-policy model of SB3 trains, per network and per layer, on batches of its replay buffer.

    A run with this callback is bit-identical to one without: batches come from a random stream of their own, networks run in
    evaluation mode, and observation statistics do not move; before the first update, networks are measured with those of what
    the replay buffer holds. Measured are the online networks as they are at that step: a first
    time before the first update, then every ``log_freq`` agent steps, and when training ends.

    Per network go to SB3's logger, ``plasticity/critic/dormant_0.1`` and so on, which is dumped then (as ``EvalCallback``
    does), so that TensorBoard, CSV and Weights & Biases get them at the right step. All values, those of single layers too, go
    to ``plasticity.csv``, one line each, beside the run's other files; ``python -m sb3_sparse plot`` draws it. A resumed run
    goes on with that file, a new one begins it anew.

    - ``dormant``: :func:`~sb3_sparse.diagnostics.dormant_ratio` of all hidden units, for every ``tau``
    - ``active``: :func:`~sb3_sparse.diagnostics.fraction_active_units` of all hidden units
    - ``srank``, ``feature_norm``: :func:`~sb3_sparse.diagnostics.srank` (Kumar et al.; ``srank_threshold`` is the paper's
      plain count) and :func:`~sb3_sparse.diagnostics.feature_norm` of what enters the output layer, averaged over output
      layers with inputs of their own (several critics); of an encoder (``DrQv2``), of what it returns
    - ``parameter_norm``, ``effective_learning_rate``: of all parameters
    - ``gradient_norm``: of the gradient with respect to the active weights. Of this package's compiled classes it is the mean
      over the updates since the last measurement; of others that of the first update after the step, read when its optimizer
      gets it, or, of a model with a method ``gradients(network)``, which returns parameter -> gradient, its last update's
    - ``value_bias``: :func:`~sb3_sparse.diagnostics.q_value_bias` of a critic or Q-network (not DER's) over the episode that
      ended last in the first environment: what its actions were worth, entropy bonuses included, by the discounted rewards
      that followed. Steps so close to a time limit that the rewards beyond would weigh more than a tenth are left out
    - ``gradient_interference``: mean absolute off-diagonal entry of
      :func:`~sb3_sparse.diagnostics.gradient_covariance`, whose matrices are saved beside it as
      ``plasticity-covariance-<network>-<agent steps>.npz``

    :param log_freq: Agent steps between two measurements
    :param batch_size: Transitions of a measurement; Srank cannot exceed it. The paper has 256
    :param metrics: What to measure, out of the above; ``gradient_interference`` is asked for by ``covariance_freq``
    :param tau: Threshold of the dormant ratio, or several
    :param activation: "post": units are measured after the non-linearity (Sokar et al.), "pre": the outputs of layers before
        it, heads excluded (the paper's code). Networks without activation modules are measured "pre"
    :param covariance_freq: Agent steps between two gradient covariance matrices, which cost more than the rest; also one
        before the first update and one at the end. None: never
    :param covariance_networks: Networks to compute them for
    :param path: File for the measurements; ``plasticity.csv`` in the run's folder if None
    :param seed: Seed of the batches; those of a step depend on nothing else
    :param verbose: 1 tells where measurements go
    :raises ValueError: if an argument is out of range, or the model has no replay buffer.
    """

    def __init__(
        self,
        log_freq: int = 1_000,
        batch_size: int = 256,
        metrics: Sequence[str] = DEFAULT_METRICS,
        tau: float | Sequence[float] = 0.1,
        activation: str = "post",
        covariance_freq: int | None = None,
        covariance_networks: Sequence[str] = ("critic", "q_net"),
        path: str | Path | None = None,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        _check(metrics, activation)
        self.log_freq, self.batch_size = check_integer("log_freq", log_freq), check_integer("batch_size", batch_size, 2)
        self.metrics = tuple(metrics)
        self.taus = (float(tau),) if isinstance(tau, int | float) else tuple(map(float, tau))
        if not self.taus or min(self.taus) < 0:
            raise ValueError(f"tau must be at least 0, got {tau!r}.")
        self.activation = activation
        self.covariance_freq = None if covariance_freq is None else check_integer("covariance_freq", covariance_freq)
        self.covariance_networks = tuple(covariance_networks)
        self.path, self.seed = None if path is None else Path(path), seed
        # State: agent steps of the last measurements, None before the first.
        self.last_step: int | None = None
        self.last_covariance_step: int | None = None
        self.said: set[str] = set()
        self._file: MeasurementFile | None = None
        self._pending: _Pending | None = None
        self._means: GradientMeans | None = None
        self._episode = LatestEpisode()

    def _init_callback(self) -> None:
        replay_buffer_of(self.model, type(self).__name__)
        measured_networks(self.model)

    def _on_training_start(self) -> None:
        self._action_repeat = action_repeat(self.training_env)
        if self.num_timesteps == 0:
            self.last_step = self.last_covariance_step = None
        elif self.last_step is None and self.model._n_updates > 0:  # type: ignore[attr-defined]
            self.last_step = self.last_covariance_step = self.num_timesteps
        if isinstance(self.model, CompiledTraining) and "gradient_norm" in self.metrics:
            networks = measured_networks(self.model)
            self._means = GradientMeans({name: network.module for name, network in networks.items()})
            self.model.gradient_means = self._means
        folder = run_folder(self) if self.path is None else None
        path = self.path if folder is None else folder / FILE_NAME
        if path is None:
            self._say("measurements go to the logger only: give a path, or a Monitor with a file name, to keep them.")
        else:
            self._file = MeasurementFile(Path(path), resume_from=self.num_timesteps)
            if self.verbose:
                print(f"Plasticity is written to {path}")

    def _on_rollout_start(self) -> None:
        # After the update and before anything else, so that who saves the run at this moment finds the measurement written.
        if self._pending is not None and self._pending.is_complete:
            self._finish()

    def _on_step(self) -> bool:
        if self._pending is not None and self._pending.is_complete:
            self._finish()
        if "value_bias" in self.metrics:
            self._episode.follow(self.model, self.locals)
        units_are_due = self._is_due(self.last_step, self.log_freq)
        covariance_is_due = self._is_due(self.last_covariance_step, self.covariance_freq)
        if units_are_due or covariance_is_due:
            self.measure(units_are_due, covariance_is_due)
        return True

    def _on_training_end(self) -> None:
        self._finish()
        wants_units = self.last_step != self.num_timesteps
        wants_covariance = self.covariance_freq is not None and self.last_covariance_step != self.num_timesteps
        if wants_units or wants_covariance:
            self.measure(wants_units, wants_covariance)
            self._finish()
        if isinstance(self.model, CompiledTraining):
            self.model.gradient_means = self._means = None

    def _is_due(self, last_step: int | None, freq: int | None) -> bool:
        if freq is None:
            return False
        if last_step is None:  # before the first update
            return self.num_timesteps >= self.model.learning_starts  # type: ignore[attr-defined]
        return self.num_timesteps // freq > last_step // freq

    def measure(self, units: bool = True, covariance: bool = False) -> None:
        """
        Measure the networks as they are now. Values are written and logged once the next update has told the gradients.

        :param units: Whether to measure everything but the gradient covariance
        :param covariance: Whether to measure that
        """
        self._finish()
        if not can_sample(self.model, self.batch_size):
            self._say(f"the replay buffer does not hold {self.batch_size} transitions yet; measuring starts when it does.")
            return
        networks = measured_networks(self.model)
        self._pending = _Pending(self.num_timesteps, self.model._n_updates)  # type: ignore[attr-defined]
        with private_randomness(self.model, self.seed, self.num_timesteps), started_statistics(self.model):  # type: ignore[arg-type]
            batch = sample_batch(self.model, self.batch_size)
            if units:
                for name, network in networks.items():
                    self._measure_network(name, network, batch)
                self._watch_gradients(networks)
                self.last_step = self.num_timesteps
            if covariance:
                self._measure_covariance(networks, batch)
                self.last_covariance_step = self.num_timesteps

    def _measure_network(self, name: str, network: MeasuredNetwork, batch: Any) -> None:
        assert self._pending is not None
        recording = run(network, batch)
        units = recording.pre if self.activation == "pre" else recording.post
        if not units:
            self._say(f"{name} has no activation modules, so the outputs of its layers are measured before activation.")
            units = recording.pre
        note = self._pending.note
        for metric, measure in self._unit_metrics().items():
            if units:
                note(name, "", metric, measure(units))
            for layer, activations in units.items():
                note(name, layer, metric, measure(activations))
        self._measure_features(name, network, recording)
        for chosen in self._chosen("parameters"):
            note(name, "", chosen.name, chosen.measure(network.module))
        optimizers = optimizers_with(self.model, network.module)[:1]
        for chosen, optimizer in itertools.product(self._chosen("optimizer"), optimizers):
            note(name, "", chosen.name, chosen.measure(float(optimizer.param_groups[0]["lr"]), network.module))
        if "value_bias" in self.metrics and network.values is not None:
            self._measure_value_bias(name, network)
        if any(np.isnan(m[3]) for m in self._pending.values if m[0] == name):
            self._say(f"{name} returns numbers that are not finite; what depends on them is logged as NaN.")

    def _chosen(self, kind: str) -> list[Metric]:
        return [METRICS[name] for name in METRICS if name in self.metrics and METRICS[name].kind == kind]

    def _unit_metrics(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for metric in self._chosen("units"):
            if metric.name == "dormant":
                chosen |= {f"dormant_{tau:g}": partial(metric.measure, tau=tau) for tau in self.taus}
            else:
                chosen[metric.name] = metric.measure
        return chosen

    def _measure_features(self, name: str, network: MeasuredNetwork, recording: Recording) -> None:
        assert self._pending is not None
        for metric in self._chosen("features") if recording.features else []:
            values = {layer: metric.measure(features) for layer, features in recording.features.items()}
            self._pending.note(name, "", metric.name, float(np.mean(list(values.values()))))
            for layer, value in values.items():
                self._pending.note(name, layer, metric.name, value)
        widths = [features.shape[1] for features in recording.features.values()]
        # Nobody takes that for the rank of an encoder, whose features are many more than any batch.
        is_wide = bool(widths) and max(widths) > self.batch_size and not network.is_encoder
        if "srank" in self.metrics and is_wide:
            self._say(f"the Srank of {name} is bounded by the batch ({self.batch_size}), not by its {max(widths)} features.")

    def _measure_value_bias(self, name: str, network: MeasuredNetwork) -> None:
        assert self._pending is not None
        model: Any = self.model
        episode = self._episode.finished
        if episode is None:
            return  # none has ended since learning started
        if known_returns(episode, model.gamma) == 0:
            self._say(
                f"episodes of {len(episode.rewards)} agent steps end by time before a return is known with gamma="
                f"{model.gamma}: no value_bias."
            )
            return
        with evaluation_mode(model.policy):
            self._pending.note(name, "", "value_bias", value_bias(model, network, episode))

    def _watch_gradients(self, networks: dict[str, MeasuredNetwork]) -> None:
        assert self._pending is not None
        if "gradient_norm" not in self.metrics:
            return
        answered: set[str] = set()
        if isinstance(self.model, TellsGradients):
            if self._pending.updates == 0:
                return
            means = {} if self._means is None else self._means.take()
            for name, norms in means.items():
                for parameter, norm in norms.items():
                    self._pending.note(name, parameter, "gradient_norm", norm)
            answered.update(means)
            # None are offered where the model had to fall back to SB3's own update.
            for name in [name for name in networks if name not in means]:
                gradients = self.model.gradients(name)
                if gradients:
                    self._pending.note_gradients(name, gradient_norms(gradients))
                    answered.add(name)
        silent = {name: n.module for name, n in networks.items() if name not in answered}
        trained = {name: module for name, module in silent.items() if optimizers_with(self.model, module)}
        optimizers = {id(o): o for module in trained.values() for o in optimizers_with(self.model, module)}
        self._pending.watch = GradientWatch(optimizers.values(), trained)

    def _measure_covariance(self, networks: dict[str, MeasuredNetwork], batch: Any) -> None:
        assert self._pending is not None
        known = sample_losses(self.model)
        for name in [name for name in self.covariance_networks if name in networks]:
            if not any(parameter.requires_grad for parameter in networks[name].module.parameters()):
                self._say(f"{name} is frozen, so there are no gradients of it: no covariance.")
                continue
            if name not in known:
                self._say(f"the losses of {type(self.model).__name__}'s {name} are not known sample by sample: no covariance.")
                continue
            with evaluation_mode(self.model.policy):
                losses = known[name](self.model, batch)
                matrix = gradient_covariance(gram=gradient_gram(networks[name].module, losses))
            off_diagonal = matrix[~th.eye(len(matrix), dtype=th.bool, device=matrix.device)]
            self._pending.note(name, "", "gradient_interference", float(off_diagonal.abs().mean()))
            if self._file is not None:
                self._file.save_matrix(
                    name,
                    self.num_timesteps,
                    matrix=matrix.float().cpu().numpy(),
                    env_steps=self.num_timesteps * self._action_repeat,
                    updates=self._pending.updates,
                )

    def _finish(self) -> None:
        """Write down what the last measurement found, with the gradients that came since."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.close()
        if self._file is not None:
            env_steps = pending.agent_steps * self._action_repeat
            self._file.append(
                Measurement(pending.agent_steps, env_steps, pending.updates, network, layer, metric, value)
                for network, layer, metric, value in pending.values
            )
        for network, layer, metric, value in pending.values:
            if layer == "":
                self.logger.record(f"plasticity/{network}/{metric}", value)
        if pending.values:
            self.logger.record("time/total_timesteps", pending.agent_steps, exclude="tensorboard")
            self.logger.dump(pending.agent_steps)

    def checkpoint_state(self) -> dict[str, Any]:
        """What a run that goes on needs: when it was measured last, what waits for its gradients, and the file so far."""
        pending = None if self._pending is None else self._pending.state()
        file = None if self._file is None else self._file.state()
        means = {} if self._means is None else self._means.state()
        steps = self.last_step, self.last_covariance_step
        episode = self._episode.state()
        return {"steps": steps, "said": self.said, "pending": pending, "file": file, "means": means, "episode": episode}

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """
        :param state: What :meth:`checkpoint_state` returned
        """
        (self.last_step, self.last_covariance_step), self.said = state["steps"], set(state["said"])
        if "episode" in state:  # which former versions lack, and the means
            self._episode.restore(state["episode"])
        self._pending = None
        if state["pending"] is not None:
            steps, updates, values, norms = state["pending"]
            self._pending = _Pending(steps, updates)
            if norms is not None:
                self._watch_gradients(measured_networks(self.model))
            self._pending.values = list(values)
            if norms is not None and self._pending.watch is not None:
                self._pending.watch.norms = norms
        if self._means is not None and "means" in state:
            self._means.restore(state["means"])
        if self._file is not None and state["file"] is not None:
            self._file.restore(state["file"])

    def _say(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            warnings.warn(f"{type(self).__name__}: {message}", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        # Hooks and files are no part of a copy.
        return {**self.__dict__, "_pending": None, "_means": None, "_episode": LatestEpisode()}


class _Pending:
    """A measurement whose gradients are still to come."""

    def __init__(self, agent_steps: int, updates: int):
        self.agent_steps, self.updates = agent_steps, updates
        self.values: list[tuple[str, str, str, float]] = []
        self.watch: GradientWatch | None = None

    @property
    def is_complete(self) -> bool:
        return self.watch is None or self.watch.is_complete

    def note(self, network: str, layer: str, metric: str, value: float) -> None:
        self.values.append((network, layer, metric, value))

    def note_gradients(self, network: str, norms: dict[str, th.Tensor]) -> None:
        total = th.stack([norm.double() for norm in norms.values()]).norm()
        self.note(network, "", "gradient_norm", float(total))
        for parameter, norm in norms.items():
            self.note(network, parameter, "gradient_norm", float(norm))

    def state(self) -> tuple[int, int, list[tuple[str, str, str, float]], dict[str, dict[str, th.Tensor]] | None]:
        return self.agent_steps, self.updates, self.values, None if self.watch is None else self.watch.norms

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
            for network, norms in self.watch.norms.items():
                self.note_gradients(network, norms)


def _check(metrics: Sequence[str], activation: str) -> None:
    known = [name for name, metric in METRICS.items() if metric.is_default is not None]
    if isinstance(metrics, str) or not metrics or set(metrics) - set(known):
        raise ValueError(f"metrics must be some of {', '.join(map(repr, known))}; got {metrics!r}.")
    if activation not in ("post", "pre"):
        raise ValueError(f'activation must be "post" or "pre", got {activation!r}.')
