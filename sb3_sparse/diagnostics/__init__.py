"""Diagnostics of any network: pure functions on tensors. Knows only torch (and the sparse layers)."""

from sb3_sparse.diagnostics.covariance import gradient_covariance
from sb3_sparse.diagnostics.dormancy import dormancy_scores, dormant_ratio, fraction_active_units
from sb3_sparse.diagnostics.norms import effective_learning_rate, feature_norm, gradient_norm, parameter_norm
from sb3_sparse.diagnostics.per_sample import gradient_gram
from sb3_sparse.diagnostics.rank import srank
from sb3_sparse.diagnostics.recording import Recording, record
from sb3_sparse.diagnostics.simplicity import SimplicityScore, simplicity_bias_score
from sb3_sparse.diagnostics.value_bias import discounted_returns, q_value_bias

__all__ = [
    "Recording",
    "SimplicityScore",
    "discounted_returns",
    "dormancy_scores",
    "dormant_ratio",
    "effective_learning_rate",
    "feature_norm",
    "fraction_active_units",
    "gradient_covariance",
    "gradient_gram",
    "gradient_norm",
    "parameter_norm",
    "q_value_bias",
    "record",
    "simplicity_bias_score",
    "srank",
]
