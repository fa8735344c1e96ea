"""Which weights exist: layer-wise allocation, masks, sparse layers, pruning a module. Knows only torch."""

from typing import TYPE_CHECKING

from sb3_sparse.lazy_names import lazy_names

if TYPE_CHECKING:
    from sb3_sparse.sparsity import scores
    from sb3_sparse.sparsity.allocation import UnreachableSparsityError, erdos_renyi, uniform
    from sb3_sparse.sparsity.conversion import share_topology, sparse_layers, to_dense
    from sb3_sparse.sparsity.convolutions import (
        SparseConv1d,
        SparseConv2d,
        SparseConv3d,
        SparseConvTranspose1d,
        SparseConvTranspose2d,
        SparseConvTranspose3d,
    )
    from sb3_sparse.sparsity.layers import SparseLayer, SparseLinear, initialize_weight, register_sparse_layer
    from sb3_sparse.sparsity.masks import checkpoint_masks, nonzero_masks
    from sb3_sparse.sparsity.patterns import Pattern
    from sb3_sparse.sparsity.pruning import allocate, prune
    from sb3_sparse.sparsity.pruning_plan import PruningPlan
    from sb3_sparse.sparsity.layer_summary import LayerSummary, Summary, summary
    from sb3_sparse.sparsity.topology import Topology
else:
    # Imported when first asked for: the kernels below need no torch.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "allocation": ("UnreachableSparsityError", "erdos_renyi", "uniform"),
            "conversion": ("share_topology", "sparse_layers", "to_dense"),
            "layer_summary": ("LayerSummary", "Summary", "summary"),
            "convolutions": (
                "SparseConv1d",
                "SparseConv2d",
                "SparseConv3d",
                "SparseConvTranspose1d",
                "SparseConvTranspose2d",
                "SparseConvTranspose3d",
            ),
            "layers": ("SparseLayer", "SparseLinear", "initialize_weight", "register_sparse_layer"),
            "masks": ("checkpoint_masks", "nonzero_masks"),
            "patterns": ("Pattern",),
            "pruning": ("allocate", "prune"),
            "pruning_plan": ("PruningPlan",),
            "scores": (),
            "topology": ("Topology",),
        },
    )

__all__ = [
    "LayerSummary",
    "Pattern",
    "PruningPlan",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseLayer",
    "SparseLinear",
    "Summary",
    "Topology",
    "UnreachableSparsityError",
    "allocate",
    "checkpoint_masks",
    "erdos_renyi",
    "initialize_weight",
    "nonzero_masks",
    "prune",
    "register_sparse_layer",
    "scores",
    "share_topology",
    "sparse_layers",
    "summary",
    "to_dense",
    "uniform",
]
