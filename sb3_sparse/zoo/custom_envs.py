"""The RL Zoo imports a module of this name if there is one. Installed beside the package, not only inside of it."""

from sb3_sparse.zoo import register

register()
