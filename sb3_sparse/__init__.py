"""Static network sparsity for Stable-Baselines3."""

from importlib.metadata import version

from sb3_sparse import networks, sparsity
from sb3_sparse.common import hyperparameters, sparsify
from sb3_sparse.sac import SparseSimBaPolicy
from sb3_sparse.td3 import SparseSimBaTD3Policy

__version__ = version("sb3-sparse")

__all__ = [
    "SparseSimBaPolicy",
    "SparseSimBaTD3Policy",
    "hyperparameters",
    "networks",
    "sparsify",
    "sparsity",
]
