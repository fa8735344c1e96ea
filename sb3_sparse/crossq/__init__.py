"""Sparse SimBa for CrossQ."""

from sb3_sparse.crossq.policies import SparseSimBaCrossQPolicy

__all__ = ["SparseSimBaCrossQPolicy"]
