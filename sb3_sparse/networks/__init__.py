"""Building blocks: SimBa, encoders, noisy layers, running normalisation. Knows torch and the sparse layers only."""

from typing import TYPE_CHECKING

from sb3_sparse.lazy_names import lazy_names

if TYPE_CHECKING:
    from sb3_sparse.networks.atari_encoders import ImpalaBlock, ImpalaEncoder, NatureEncoder
    from sb3_sparse.networks.bronet import BroNetBlock, BroNetEncoder
    from sb3_sparse.networks.noisy_linear import NoisyLinear, SparseNoisyLinear
    from sb3_sparse.networks.normalization import DeferredNormalizer, RunningNormalizer
    from sb3_sparse.networks.pixel_encoder import PixelEncoder
    from sb3_sparse.networks.simba import SimBaBlock, SimBaEncoder
else:
    # Imported when first asked for: compiled passes need no torch.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "atari_encoders": ("ImpalaBlock", "ImpalaEncoder", "NatureEncoder"),
            "bronet": ("BroNetBlock", "BroNetEncoder"),
            "noisy_linear": ("NoisyLinear", "SparseNoisyLinear"),
            "normalization": ("DeferredNormalizer", "RunningNormalizer"),
            "pixel_encoder": ("PixelEncoder",),
            "simba": ("SimBaBlock", "SimBaEncoder"),
        },
    )

__all__ = [
    "BroNetBlock",
    "BroNetEncoder",
    "DeferredNormalizer",
    "ImpalaBlock",
    "ImpalaEncoder",
    "NatureEncoder",
    "NoisyLinear",
    "PixelEncoder",
    "RunningNormalizer",
    "SimBaBlock",
    "SimBaEncoder",
    "SparseNoisyLinear",
]
