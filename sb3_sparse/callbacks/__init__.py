"""Callbacks for any off-policy model of SB3: what happens to plasticity, and interventions. Knows SB3 and the floors below."""

from sb3_sparse.callbacks.plasticity import PlasticityCallback
from sb3_sparse.callbacks.redo import ReDoCallback
from sb3_sparse.callbacks.reset import ResetCallback
from sb3_sparse.callbacks.sparse_topology import SparseTopologyCallback
from sb3_sparse.sparsity.methods import SET, Expansion, GradualPruning, Revival, RigL, Static

__all__ = [
    "SET",
    "Expansion",
    "GradualPruning",
    "PlasticityCallback",
    "ReDoCallback",
    "ResetCallback",
    "Revival",
    "RigL",
    "SparseTopologyCallback",
    "Static",
]
