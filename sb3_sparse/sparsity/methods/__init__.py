"""Methods that change which weights exist while a network trains."""

from sb3_sparse.sparsity.methods.drop_and_grow import SET, RigL
from sb3_sparse.sparsity.methods.expansion import Expansion
from sb3_sparse.sparsity.methods.gradual_pruning import GradualPruning
from sb3_sparse.sparsity.methods.method import Static, TopologyMethod
from sb3_sparse.sparsity.methods.regime import Regime
from sb3_sparse.sparsity.methods.revival import Revival, revive

__all__ = ["SET", "Expansion", "GradualPruning", "Regime", "Revival", "RigL", "Static", "TopologyMethod", "revive"]
