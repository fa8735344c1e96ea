"""Replay buffers: on the model's device, of frames, and the memory that they take."""

from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.buffers.frame_replay_buffer import FrameReplayBuffer

__all__ = ["DeviceReplayBuffer", "FrameReplayBuffer"]
