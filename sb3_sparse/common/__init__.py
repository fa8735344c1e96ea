"""Parts that the policies of several algorithms share. Knows SB3 and the floors below."""

from sb3_sparse.common import former_places  # noqa: F401
from sb3_sparse.common.extractor import SparseSimBaExtractor
from sb3_sparse.common.hyperparameters import hyperparameters
from sb3_sparse.common.sparsify import sparsify

__all__ = ["SparseSimBaExtractor", "hyperparameters", "sparsify"]
