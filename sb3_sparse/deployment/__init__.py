"""Trained policies without the algorithm that trained them: as ONNX, TorchScript or C, or as active weights only."""

from typing import TYPE_CHECKING

from sb3_sparse.lazy_names import lazy_names

if TYPE_CHECKING:
    from sb3_sparse.deployment.checking import check
    from sb3_sparse.deployment.exporting import FORMATS, SAFE_FORMAT, Export, export
    from sb3_sparse.deployment.runtime import SparsePolicy, load_policy
    from sb3_sparse.deployment.safe_file import read_model, write_model
else:
    # Imported when first asked for: a policy that acts needs no torch.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "checking": ("check",),
            "exporting": ("FORMATS", "SAFE_FORMAT", "Export", "export"),
            "runtime": ("SparsePolicy", "load_policy"),
            "safe_file": ("read_model", "write_model"),
        },
    )

__all__ = [
    "FORMATS",
    "SAFE_FORMAT",
    "Export",
    "SparsePolicy",
    "check",
    "export",
    "load_policy",
    "read_model",
    "write_model",
]
