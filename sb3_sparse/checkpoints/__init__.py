"""Checkpoints from which a run goes on as if it had never stopped. Knows SB3 and the floors below."""

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.exact_checkpoint import ExactCheckpointCallback
from sb3_sparse.checkpoints.resumable_env import ResumableEnv

__all__ = ["CheckpointError", "ExactCheckpointCallback", "ResumableEnv"]
