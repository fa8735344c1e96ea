"""
The RL Zoo with our environments and hyperparameters, and the command line.

``register()`` makes them known to the zoo. While the zoo is being imported, importing this module is enough, which is what a
``custom_envs.py`` of one's own can do.
"""

import sys

from sb3_sparse.zoo.registration import register

if "rl_zoo3" in sys.modules:
    register()

__all__ = ["register"]
