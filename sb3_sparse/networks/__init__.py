"""
What is built from layers: SimBa, encoders of images, running normalisation. Knows only torch (and the sparse layers, to
initialise them).
"""

from sb3_sparse.networks.normalization import DeferredNormalizer, RunningNormalizer
from sb3_sparse.networks.pixel_encoder import PixelEncoder
from sb3_sparse.networks.simba import SimBaBlock, SimBaEncoder

__all__ = ["DeferredNormalizer", "PixelEncoder", "RunningNormalizer", "SimBaBlock", "SimBaEncoder"]
