"""Sparse SimBa for SAC."""

from sb3_sparse.sac.policies import SparseSimBaPolicy

__all__ = ["SparseSimBaPolicy"]
