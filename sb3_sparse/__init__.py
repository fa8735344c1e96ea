"""Static network sparsity for Stable-Baselines3."""

from importlib.metadata import version

from sb3_sparse import diagnostics, networks, sparsity
from sb3_sparse.callbacks import PlasticityCallback, ReDoCallback, ResetCallback, SparseTopologyCallback
from sb3_sparse.checkpoints import ExactCheckpointCallback, ResumableEnv
from sb3_sparse.common import SparseSimBaExtractor, hyperparameters, sparsify
from sb3_sparse.crossq import SparseSimBaCrossQPolicy
from sb3_sparse.der import DER
from sb3_sparse.drqv2 import DrQv2
from sb3_sparse.sac import SAC, SparseSimBaPolicy
from sb3_sparse.stream_ac import StreamAC
from sb3_sparse.td3 import DDPG, TD3, SparseSimBaTD3Policy
from sb3_sparse.tqc import SparseSimBaTQCPolicy

__version__ = version("sb3-sparse")

__all__ = [
    "DDPG",
    "DER",
    "SAC",
    "TD3",
    "DrQv2",
    "ExactCheckpointCallback",
    "PlasticityCallback",
    "ReDoCallback",
    "ResetCallback",
    "ResumableEnv",
    "SparseSimBaCrossQPolicy",
    "SparseSimBaExtractor",
    "SparseSimBaPolicy",
    "SparseSimBaTD3Policy",
    "SparseSimBaTQCPolicy",
    "SparseTopologyCallback",
    "StreamAC",
    "diagnostics",
    "hyperparameters",
    "networks",
    "sparsify",
    "sparsity",
]
