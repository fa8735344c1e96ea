"""The RL Zoo imports a module of this name if there is one. It is installed beside the package, not in it."""

from sb3_sparse.zoo import register

register()
