"""Static network sparsity for Stable-Baselines3."""

import importlib
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

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

# Folder -> what it offers here, imported when first asked for (PEP 562): torch takes seconds, and the command line's help has
# no need of it.
_OFFERED = {
    "callbacks": ("PlasticityCallback", "ReDoCallback", "ResetCallback", "SparseTopologyCallback"),
    "checkpoints": ("ExactCheckpointCallback", "ResumableEnv"),
    "common": ("SparseSimBaExtractor", "hyperparameters", "sparsify"),
    "crossq": ("SparseSimBaCrossQPolicy",),
    "der": ("DER",),
    "drqv2": ("DrQv2",),
    "sac": ("SAC", "SparseSimBaPolicy"),
    "stream_ac": ("StreamAC",),
    "td3": ("DDPG", "TD3", "SparseSimBaTD3Policy"),
    "tqc": ("SparseSimBaTQCPolicy",),
}
_FOLDERS = {name: folder for folder, names in _OFFERED.items() for name in names}
sys.meta_path.append(MovedModules())


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = importlib.import_module(f"{__name__}.{_FOLDERS.get(name, name)}")
    globals()[name] = getattr(found, name) if name in _FOLDERS else found
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
