"""Sparse SimBa for TD3 and DDPG."""

from sb3_sparse.td3.policies import SparseSimBaTD3Policy

__all__ = ["SparseSimBaTD3Policy"]
