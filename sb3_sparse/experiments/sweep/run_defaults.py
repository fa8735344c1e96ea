"""Default settings of runs, which their names leave out."""

import functools
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from sb3_sparse.callbacks import PlasticityCallback
from sb3_sparse.der.policies import CnnPolicy
from sb3_sparse.drqv2.policies import DrQv2Policy
from sb3_sparse.sac.policies import SparseSimBaPolicy
from sb3_sparse.stream_ac.policies import StreamACPolicy

# One of each kind; what several of them know has the same default in all.
POLICIES = (SparseSimBaPolicy, DrQv2Policy, CnnPolicy, StreamACPolicy)


def without_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    The settings of a run without what is not set, and without what the policy and ``PlasticityCallback`` do by default.
    Hyperparameters stay, also with the value that the hyperparameter file has today: it may have another in a later version.

    :param settings: All that decides what comes out of a run, as plain data
    """
    left = {**settings, "policy": _policy(settings["policy"])}
    if settings["plasticity"] is not None:
        left["plasticity"] = _changed(settings["plasticity"], _defaults(PlasticityCallback))
    return _given(left)


def _policy(given: Mapping[str, Any]) -> dict[str, Any]:
    sparsity = given.get("sparsity", 0)
    if isinstance(sparsity, Mapping) and len(set(sparsity.values())) == 1:
        sparsity = next(iter(sparsity.values()))
    # How weights are chosen is of no matter where all are kept.
    idle: Collection[str] = () if sparsity else ("distribution", "budget")
    changed = _changed(
        {**given, "sparsity": sparsity}, {name: value for kind in POLICIES for name, value in _defaults(kind).items()}
    )
    return {name: value for name, value in changed.items() if name not in idle}


def _changed(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    """Argument of a constructor, or of one that it passes on to -> default, as plain data."""
    constructors = [vars(base)["__init__"] for base in reversed(kind.__mro__) if "__init__" in vars(base)]
    parameters = [
        parameter for constructor in constructors for parameter in inspect.signature(constructor).parameters.values()
    ]
    found = {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _given(value) if isinstance(value, Mapping) else value for key, value in settings.items() if value is not None
    }
