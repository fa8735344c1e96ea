"""TD3 and DDPG: sparse SimBa policy, and the algorithms with a compiled update."""

from sb3_sparse.td3.policies import SparseSimBaTD3Policy
from sb3_sparse.td3.td3 import DDPG, TD3

__all__ = ["DDPG", "TD3", "SparseSimBaTD3Policy"]
