"""Trained policies without the algorithm that trained them: exported as ONNX, or as active weights only."""

from sb3_sparse.deployment.exporting import FORMATS, Export, export
from sb3_sparse.deployment.sparse_policy import SparsePolicy, load_policy

__all__ = ["FORMATS", "Export", "SparsePolicy", "export", "load_policy"]
