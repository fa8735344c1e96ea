"""Sparse SimBa for TQC."""

from sb3_sparse.tqc.policies import SparseSimBaTQCPolicy

__all__ = ["SparseSimBaTQCPolicy"]
