"""Callbacks for any off-policy model of SB3: what happens to plasticity, and interventions. Knows SB3 and the floors below."""

from sb3_sparse.callbacks.drop_and_grow import SET, RigL
from sb3_sparse.callbacks.gradual_pruning import GradualPruning
from sb3_sparse.callbacks.plasticity import PlasticityCallback
from sb3_sparse.callbacks.redo import ReDoCallback
from sb3_sparse.callbacks.reset import ResetCallback
from sb3_sparse.callbacks.sparse_topology import SparseTopologyCallback
from sb3_sparse.callbacks.topology_method import Static

__all__ = [
    "SET",
    "GradualPruning",
    "PlasticityCallback",
    "ReDoCallback",
    "ResetCallback",
    "RigL",
    "SparseTopologyCallback",
    "Static",
]
