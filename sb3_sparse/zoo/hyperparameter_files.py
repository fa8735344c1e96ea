"""Places and contents of our hyperparameter files."""

import functools
from pathlib import Path
from typing import Any


def hyperparameter_file(algo: str) -> Path:
    """
    Find our hyperparameters, in an installed package as well as in a checkout.

    :param algo: The zoo's name of the algorithm, e.g. "sac"
    :return: Path of the YAML file, which exists only for the algorithms that we have hyperparameters for
    """
    package = Path(__file__).parents[1]
    root = package if (package / "hyperparams").is_dir() else package.parent
    return root / "hyperparams" / f"{algo}.yml"


def our_hyperparameters(algo: str, env_id: str) -> dict[str, Any] | None:
    """
    Read our hyperparameters.

    :param algo: The zoo's name of the algorithm, e.g. "sac"
    :param env_id: Id of the environment
    :return: The entry of the hyperparameter file, or what it has for all other ids; None if there is neither
    """
    entries = _entries(algo)
    return entries.get(env_id, entries.get("default"))


def our_policy(algo: str) -> str | None:
    """
    The policy of ours that is made for an algorithm.

    :param algo: The zoo's name of the algorithm, e.g. "sac"
    :return: As hyperparameter files name it, "module.Class"; None for algorithms without such a file
    """
    return next((entry["policy"] for entry in _entries(algo).values() if "policy" in entry), None)


@functools.cache
def _entries(algo: str) -> dict[str, dict[str, Any]]:
    import yaml  # comes with the zoo, and this module is imported without it too

    path = hyperparameter_file(algo)
    return yaml.safe_load(path.read_text()) if path.is_file() else {}
