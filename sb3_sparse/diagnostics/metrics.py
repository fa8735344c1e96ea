"""The table of diagnostics: what the callback measures, tables of results keep and figures draw."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sb3_sparse.diagnostics.dormancy import dormant_ratio, fraction_active_units
from sb3_sparse.diagnostics.norms import effective_learning_rate, feature_norm, parameter_norm
from sb3_sparse.diagnostics.rank import srank
from sb3_sparse.diagnostics.value_bias import q_value_bias

SRANK_THRESHOLD = 0.01  # of the paper's plain count


@dataclass(frozen=True)
class Metric:
    """
    A diagnostic.

    :param name: Name in measurements, before a threshold: ``dormant_0.1``
    :param kind: What it is measured of: hidden "units", "features" of the last layer, "parameters", "optimizer", "gradient"
        of an update, "samples" (gradients of single ones), an "episode", or "streaming" (what Stream AC averages while it
        trains)
    :param label: Label of axes
    :param function: Of units (and a threshold), features, parameters, or of a learning rate and parameters; None where an
        update or a model tells it
    :param is_default: Whether the callback measures it unless told otherwise; None: it is not asked for by its name
    :param is_log: Whether axes are logarithmic
    """

    name: str
    kind: str
    label: str
    function: Callable[..., float] | None = None
    is_default: bool | None = None
    is_log: bool = False

    def measure(self, *measured: Any, **thresholds: float) -> float:
        """
        Measure it.

        :param measured: Units, features, parameters, or learning rate and parameters
        :param thresholds: Thresholds of the function
        :raises TypeError: if it is not measured on a network, but told by an update.
        """
        if self.function is None:
            raise TypeError(f"{self.name} is not measured on a network, but told by an update.")
        return self.function(*measured, **thresholds)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("dormant", "units", "dormant ratio", dormant_ratio, True),
        Metric("active", "units", "active units", fraction_active_units, True),
        Metric("srank", "features", "Srank", srank, True),
        Metric("srank_threshold", "features", "Srank", partial(srank, threshold=SRANK_THRESHOLD), False),
        Metric("feature_norm", "features", "feature norm", feature_norm, True),
        Metric("parameter_norm", "parameters", "parameter norm", parameter_norm, True),
        Metric("effective_learning_rate", "optimizer", "effective learning rate", effective_learning_rate, False, is_log=True),
        Metric("gradient_norm", "gradient", "gradient norm", None, True, is_log=True),
        Metric("gradient_interference", "samples", "gradient interference"),
        Metric("value_bias", "episode", "Q-value bias", q_value_bias, False),
        Metric("step_size", "streaming", "step size"),
        Metric("trace_norm", "streaming", "norm of traces"),
    )
}
# Column of tables of results, after the network -> name in measurements.
COLUMNS = {
    "dormant": "dormant_0.1",
    "dormant_0.2": "dormant_0.2",
    "active": "active",
    "srank": "srank",
    "feature_norm": "feature_norm",
    "gradient_norm": "gradient_norm",
    "parameter_norm": "parameter_norm",
    "interference": "gradient_interference",
    "step_size": "step_size",
    "trace_norm": "trace_norm",
}


def metric_of(name: str) -> Metric:
    """
    Find a diagnostic.

    :param name: Name in measurements, with its threshold if it has one
    """
    return METRICS[name if name in METRICS else name.rpartition("_")[0]]


def label_of(name: str) -> str:
    """
    Label of axes, with the threshold.

    :param name: Name in measurements
    """
    threshold = "" if name in METRICS else f" (tau = {name.rpartition('_')[2]})"
    return metric_of(name).label + threshold
