"""DrQ-v2: visual RL with a critic that can be wide and statically sparse."""

from sb3_sparse.drqv2.augmentation import random_shift
from sb3_sparse.drqv2.drqv2 import DrQv2
from sb3_sparse.drqv2.policies import CnnPolicy, DrQv2Policy

__all__ = ["CnnPolicy", "DrQv2", "DrQv2Policy", "random_shift"]
