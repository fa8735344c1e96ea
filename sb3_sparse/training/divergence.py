"""Numbers that are no longer finite: noticed before they reach a checkpoint."""

import math
from collections.abc import Iterator

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

_NAMED = 5


class DivergenceError(ValueError):
    """A loss is no longer a finite number, so training stops. What was saved before that is still good."""


def broken_losses(model: BaseAlgorithm) -> list[str]:
    """
    Find what the last update logged that is not finite.

    :param model: Model
    :return: Names and values
    """
    logged = model.logger.name_to_value
    return [
        f"{name} = {value}"
        for name, value in logged.items()
        if name.startswith("train/") and isinstance(value, float) and not math.isfinite(value)
    ]


@th.no_grad()
def broken_tensors(model: BaseAlgorithm) -> list[str]:
    """
    Find tensors of networks and optimizers with entries that are not finite.

    :param model: Model
    :return: Names, the first few if there are many
    """
    named = dict(_tensors(model))
    names = list(named)
    # One transfer from the device for all of them.
    finite = th.stack([th.isfinite(tensor).all() for tensor in named.values()]).tolist() if named else []
    broken = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
    return broken[:_NAMED] + ([f"{len(broken) - _NAMED} more"] if len(broken) > _NAMED else [])


def _tensors(model: BaseAlgorithm) -> Iterator[tuple[str, th.Tensor]]:
    for name, state in model.get_parameters().items():
        entries = state["state"] if "param_groups" in state else {"": state}
        for index, values in entries.items():
            for key, value in values.items():
                if isinstance(value, th.Tensor) and value.is_floating_point():
                    path = ".".join(str(part) for part in (name, index, key) if part != "")
                    yield path, value.to(model.device)
