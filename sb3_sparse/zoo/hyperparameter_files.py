"""Where our hyperparameter files are, and what is in them."""

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
    :return: The entry of the hyperparameter file, None if there is none
    """
    import yaml  # comes with the zoo, and this module is imported without it too

    path = hyperparameter_file(algo)
    return yaml.safe_load(path.read_text()).get(env_id) if path.is_file() else None


def our_policy(algo: str) -> str | None:
    """
    The policy of ours that is made for an algorithm.

    :param algo: The zoo's name of the algorithm, e.g. "sac"
    :return: As hyperparameter files name it, "module.Class"; None for algorithms without such a file
    """
    import yaml

    path = hyperparameter_file(algo)
    entries = yaml.safe_load(path.read_text()).values() if path.is_file() else ()
    return next((entry["policy"] for entry in entries if "." in entry.get("policy", "")), None)
