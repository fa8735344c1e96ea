"""Data-Efficient Rainbow: discrete actions, few samples, networks that can be wide and sparse."""

from sb3_sparse.der.der import DER
from sb3_sparse.der.policies import CnnPolicy, DERPolicy, MlpPolicy
from sb3_sparse.der.prioritized_frame_replay_buffer import PrioritizedFrameReplayBuffer

__all__ = ["DER", "CnnPolicy", "DERPolicy", "MlpPolicy", "PrioritizedFrameReplayBuffer"]
