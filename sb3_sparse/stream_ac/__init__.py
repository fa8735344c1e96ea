"""Streaming RL: Stream AC(lambda), one environment, one sample, one update, no buffer."""

from sb3_sparse.stream_ac.obgd import AdaptiveObGD, ObGD
from sb3_sparse.stream_ac.policies import MlpPolicy, StreamACPolicy
from sb3_sparse.stream_ac.stream_ac import StreamAC
from sb3_sparse.stream_ac.stream_wrapper import StreamWrapper

__all__ = ["AdaptiveObGD", "MlpPolicy", "ObGD", "StreamAC", "StreamACPolicy", "StreamWrapper"]
