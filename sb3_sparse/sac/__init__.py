"""SAC: sparse SimBa policy, and the algorithm with a compiled update."""

from sb3_sparse.sac.policies import SparseSimBaPolicy
from sb3_sparse.sac.sac import SAC

__all__ = ["SAC", "SparseSimBaPolicy"]
