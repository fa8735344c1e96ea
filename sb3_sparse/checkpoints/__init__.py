"""Checkpoints from which a run goes on as if it had never stopped. Knows SB3 and the floors below."""

from sb3_sparse.checkpoints.exact_checkpoint import ExactCheckpointCallback

__all__ = ["ExactCheckpointCallback"]
