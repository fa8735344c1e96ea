"""What is built from layers: SimBa and running normalisation. Knows only torch (and the sparse layers, to initialise them)."""

from sb3_sparse.networks.normalization import RunningNormalizer
from sb3_sparse.networks.simba import SimBaBlock, SimBaEncoder

__all__ = ["RunningNormalizer", "SimBaBlock", "SimBaEncoder"]
