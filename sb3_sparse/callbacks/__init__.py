"""Callbacks for any off-policy model of SB3: what happens to plasticity, and interventions. Knows SB3 and the floors below."""

from sb3_sparse.callbacks.plasticity import PlasticityCallback

__all__ = ["PlasticityCallback"]
