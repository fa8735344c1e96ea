"""Numbers that are no longer finite: noticed before they reach a checkpoint."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

_NAMED = 5


class DivergenceError(ValueError):
    """A loss is no longer a finite number, so training stops. What was saved before that is still good."""


def broken_losses(losses: Mapping[str, Sequence[float]]) -> list[str]:
    """
    Find what is not finite.

    :param losses: Name -> losses of one update or several
    :return: Names
    """
    return [name for name, values in losses.items() if not all(map(math.isfinite, values))]


def logged_losses(model: BaseAlgorithm) -> dict[str, list[float]]:
    """
    Find what the last update logged.

    :param model: Model
    :return: Name -> the one loss
    """
    logged = model.logger.name_to_value
    return {name: [value] for name, value in logged.items() if name.startswith("train/") and isinstance(value, float)}


def divergence(model: BaseAlgorithm, broken: Sequence[str], checkpoint: str = "the last checkpoint") -> DivergenceError:
    """
    Report what is no longer finite.

    :param model: Model
    :param broken: Names of losses; those of tensors are added
    :param checkpoint: What can be gone on from
    """
    broken = [*broken, *(broken_tensors(model) or ["no weights yet, so rewards or observations may be the cause"])]
    return DivergenceError(
        f"Training diverged by update {model._n_updates}, after {model.num_timesteps} agent steps. "  # type: ignore[attr-defined]
        f"Not finite are {', '.join(broken)}. Go on from {checkpoint} with a lower learning rate or clipped rewards "
        "(the same again repeats what happened), or check what the environment returns (stable_baselines3's VecCheckNan)."
    )


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
