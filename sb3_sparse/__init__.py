"""Static network sparsity for Stable-Baselines3."""

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from sb3_sparse.lazy_names import lazy_names
from sb3_sparse.moved_modules import MovedModules

if TYPE_CHECKING:
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
else:
    # Imported when first asked for: torch takes seconds, and neither the command line's help nor an exported policy needs it.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "callbacks": ("PlasticityCallback", "ReDoCallback", "ResetCallback", "SparseTopologyCallback"),
            "checkpoints": ("ExactCheckpointCallback", "ResumableEnv"),
            "common": ("SparseSimBaExtractor", "hyperparameters", "sparsify"),
            "crossq": ("SparseSimBaCrossQPolicy",),
            "der": ("DER",),
            "diagnostics": (),
            "drqv2": ("DrQv2",),
            "networks": (),
            "sac": ("SAC", "SparseSimBaPolicy"),
            "sparsity": (),
            "stream_ac": ("StreamAC",),
            "td3": ("DDPG", "TD3", "SparseSimBaTD3Policy"),
            "tqc": ("SparseSimBaTQCPolicy",),
        },
    )

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

sys.meta_path.append(MovedModules())
