"""Trained policies without the algorithm that trained them: exported as ONNX, or as active weights only."""

from sb3_sparse.deployment.exporting import FORMATS, SAFE_FORMAT, Export, export
from sb3_sparse.deployment.safe_file import read_model, write_model
from sb3_sparse.deployment.sparse_policy import SparsePolicy, load_policy

__all__ = ["FORMATS", "SAFE_FORMAT", "Export", "SparsePolicy", "export", "load_policy", "read_model", "write_model"]
